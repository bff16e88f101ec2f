package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// A spool is a queue in a temporary file: a list that is as long as it likes
// can be counted to its end while its begin is being worked off, in bounded
// memory.
type spool[T any] struct {
	file *os.File

	mu      sync.Mutex
	changed *sync.Cond
	pending []byte // not written yet
	written int64
	read    int64
	ended   bool
	err     error // with which it ended
}

func newSpool[T any]() (*spool[T], error) {
	f, err := os.CreateTemp("", "taskfleet-list-*")
	if err != nil {
		return nil, fmt.Errorf("making a temporary file for the list: %w", err)
	}
	os.Remove(f.Name()) // where an open file can be removed, nothing is left however this ends
	s := &spool[T]{file: f}
	s.changed = sync.NewCond(&s.mu)
	return s, nil
}

// close gives the file back. Nobody may use the spool any more.
func (s *spool[T]) close() {
	s.file.Close()
	os.Remove(s.file.Name())
}

const spoolChunk = 64 << 10

// put adds something at the end.
func (s *spool[T]) put(list ...T) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range list {
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		s.pending = append(append(s.pending, text...), '\n')
	}
	if len(s.pending) < spoolChunk && s.read < s.written {
		return nil
	}
	return s.flush()
}

func (s *spool[T]) flush() error {
	n, err := s.file.WriteAt(s.pending, s.written)
	if err != nil {
		return fmt.Errorf("writing the list to a temporary file: %w", err)
	}
	s.written += int64(n)
	s.pending = s.pending[:0]
	s.changed.Broadcast()
	return nil
}

// end says that nothing more comes, because of err if that is not nil.
func (s *spool[T]) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(err, s.flush())
	s.ended = true
	s.changed.Broadcast()
}

// take takes up to n from the begin. Where there is none it waits, or returns
// none if it is not to wait. At the end the error is io.EOF, or the one that
// ended it.
func (s *spool[T]) take(ctx context.Context, n int, wait bool) (list []T, err error) {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.read == s.written {
		switch {
		case len(s.pending) > 0:
			if err := s.flush(); err != nil {
				return nil, err
			}
		case s.ended && s.err != nil:
			return nil, s.err
		case s.ended:
			return nil, io.EOF
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !wait:
			return nil, nil
		default:
			s.changed.Wait()
		}
	}
	for size := int64(spoolChunk); ; size *= 2 {
		chunk := make([]byte, min(size, s.written-s.read))
		if _, err := s.file.ReadAt(chunk, s.read); err != nil {
			return nil, fmt.Errorf("reading the list from a temporary file: %w", err)
		}
		for len(list) < n {
			text, rest, whole := bytes.Cut(chunk, []byte("\n"))
			if !whole {
				break
			}
			var x T
			if err := json.Unmarshal(text, &x); err != nil {
				return nil, err
			}
			list, chunk = append(list, x), rest
			s.read += int64(len(text)) + 1
		}
		if len(list) > 0 {
			return list, nil
		}
	}
}
