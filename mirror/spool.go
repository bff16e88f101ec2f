package mirror

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

// A spool is a part on disk that is too large to be kept in memory, so that it can
// be digested before it is put, and put again. It has no name that would outlive
// the process, where open files can do without one.
type spool struct {
	*os.File
	from bounds
	size int64
	err  error  // of writing
	name string // "": it has none any more
}

// spool reads a part to the disk.
func (t *transfer) spool(ctx context.Context, body io.Reader, size int64, sum digest) (*piece, error) {
	s := &spool{from: bounds{t.copier.spools}, size: size}
	if t.remote() {
		s.from = bounds{t.copier.slow, t.copier.spools}
	}
	if err := s.from.acquire(ctx, size); err != nil {
		return nil, fmt.Errorf("wait for room on the disk: %w", err)
	}
	var err error
	if s.File, err = os.CreateTemp("", "taskfleet-mirror-*"); err != nil {
		s.from.release(size)
		return nil, s.failed(err)
	}
	if os.Remove(s.Name()) != nil { // some systems do not do that while it is open
		s.name = s.Name()
	}
	part := sha256.New()
	n, err := io.CopyN(io.MultiWriter(s, part, sum), body, size)
	switch {
	case s.err != nil:
		err = s.failed(s.err)
	case err == io.EOF:
		return &piece{file: s, size: n, sum: [sha256.Size]byte(part.Sum(nil)), last: true}, nil
	case err == nil:
		return &piece{file: s, size: n, sum: [sha256.Size]byte(part.Sum(nil))}, nil
	}
	s.remove()
	return nil, fromOrigin(err)
}

// Write is part of io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.File.Write(p)
	s.err = err
	return n, err
}

func (s *spool) failed(err error) error {
	return &fault{err: fmt.Errorf("a part of %d bytes cannot be kept in the directory for temporary files, which needs room for %d: %w", s.size, spoolLimit, err)}
}

func (s *spool) remove() {
	s.Close()
	if s.name != "" {
		os.Remove(s.name)
	}
	s.from.release(s.size)
}
