package source

import (
	"fmt"
	"io"
	"time"
)

// A body counts what comes, and how long it takes.
type body struct {
	client *Client
	answer *answer
	length int64 // -1 if it is not known
	read   int64
	err    error // how it ended

	// Since the last look at the rate:
	moved  int64
	waited time.Duration
}

func newBody(c *Client, a *answer, length int64) *body {
	return &body{client: c, answer: a, length: length}
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	start := time.Now()
	b.answer.watch.begin()
	n, err := b.answer.Body.Read(p)
	b.answer.watch.end()
	b.read += int64(n)
	b.moved += int64(n)
	b.waited += time.Since(start)
	switch {
	case b.length >= 0 && b.read > b.length:
		n = max(0, n-int(b.read-b.length))
		err = fmt.Errorf("%w: it goes on after the %d bytes that were announced", errGarbled, b.length)
	case b.read > b.client.maxSize:
		err = fmt.Errorf("%w: it has more than the %d bytes that may be fetched", ErrTooLarge, b.client.maxSize)
	case err == io.EOF && (b.length < 0 || b.read == b.length):
		b.err = io.EOF
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == nil:
		err = b.pace()
	}
	if err != nil {
		of := ""
		if b.length >= 0 {
			of = fmt.Sprintf(" of %d", b.length)
		}
		b.err = b.answer.fail(fmt.Errorf("after %d%s bytes: %w", b.read, of, err))
	}
	return n, b.err
}

// pace looks at the rate, once per window.
func (b *body) pace() error {
	if b.waited < b.client.rateWindow {
		return nil
	}
	moved, waited := b.moved, b.waited
	b.moved, b.waited = 0, 0
	if float64(moved) < float64(b.client.minRate)*waited.Seconds() {
		return fmt.Errorf("%w: %d bytes came in %v, and it takes %d per second", errSlow, moved, waited.Round(time.Millisecond), b.client.minRate)
	}
	return nil
}

// Close ends the transfer, wherever it is.
func (b *body) Close() error { return b.answer.close() }
