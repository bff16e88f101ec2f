// Package livelog is a task's log: a file that grows while the task runs, and
// the HTTP server through which any number of people watch it grow.
//
// The file is the only buffer. A writer appends to it and goes on; each reader
// has an open file and an offset of its own, reads as fast as it likes, and
// waits for a change when it has seen everything. So a slow reader holds up
// neither the task nor other readers, memory does not depend on the length of
// the log, and a reader that lost its connection continues with ?offset=N where
// it was: no byte lost, none repeated.
//
// A log has two voices: what the task prints, as it is, and the worker's own
// lines, which begin with [taskcluster <time>] or [taskcluster:error] and never
// continue a line of the task's.
package livelog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const isoMillis = "2006-01-02T15:04:05.000Z"

// A Log may be written by several goroutines.
type Log struct {
	path string

	mu         sync.Mutex
	file       *os.File
	timestamps bool
	inLine     bool // the last line has no newline yet
	size       int64
	err        error         // that ended the writing, such as a full disk
	ended      bool          // nothing more will be written
	changed    chan struct{} // closed at the next change; nil if nobody waits
}

// Create begins a log in a file that does not exist yet.
func Create(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("livelog: %w", err)
	}
	return &Log{path: path, file: f}, nil
}

// TimestampLines makes every further line of the task's begin with the time.
func (l *Log) TimestampLines() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timestamps = true
}

// Write appends what the task printed. It always takes everything: a log that
// cannot be written any more must not stop the task, so the error is kept for End.
func (l *Log) Write(p []byte) (int, error) {
	n := len(p)
	if n == 0 {
		return 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timestamps {
		p = l.stamped(p)
	}
	l.append(p)
	return n, nil
}

// stamped puts the time before each line that begins in p.
func (l *Log) stamped(p []byte) []byte {
	prefix := time.Now().UTC().Format("[" + isoMillis + "] ")
	out := make([]byte, 0, len(p)+(bytes.Count(p, []byte("\n"))+1)*len(prefix))
	inLine := l.inLine
	for line := range bytes.Lines(p) {
		if !inLine {
			out = append(out, prefix...)
		}
		out = append(out, line...)
		inLine = line[len(line)-1] != '\n'
	}
	return out
}

// Note writes a line of the worker's own.
func (l *Log) Note(format string, args ...any) {
	l.own(time.Now().UTC().Format("[taskcluster "+isoMillis+"] "), format, args)
}

// Error writes a line that says why the task did not succeed.
func (l *Log) Error(format string, args ...any) {
	l.own("[taskcluster:error] ", format, args)
}

func (l *Log) own(prefix, format string, args []any) {
	var b bytes.Buffer
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		b.WriteString(prefix)
		b.WriteString(strings.TrimRight(line, "\r\n"))
		b.WriteByte('\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inLine {
		l.append([]byte("\n"))
	}
	l.append(b.Bytes())
}

func (l *Log) append(p []byte) {
	if l.ended || l.err != nil || len(p) == 0 {
		return
	}
	n, err := l.file.Write(p)
	l.err = err
	l.size += int64(n)
	if n > 0 {
		l.inLine = p[n-1] != '\n'
	}
	l.wake()
}

func (l *Log) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// End ends the log: readers come to an end when they have seen everything. It
// returns the error that kept part of the log from being written, if any.
func (l *Log) End() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return l.err
	}
	l.ended = true
	l.wake()
	if err := l.file.Close(); l.err == nil {
		l.err = err
	}
	return l.err
}

// Size is the length of the log until now.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// state is the length, whether it is final and, if not, what is closed when it
// changes.
func (l *Log) state() (size int64, ended bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.size, l.ended, l.changed
}

// follow copies the log from offset on to w until it ends or stop is closed,
// and tells flush when w has all there is.
func (l *Log) follow(file io.ReaderAt, offset int64, w io.Writer, flush func() error, stop <-chan struct{}) error {
	for {
		size, ended, changed := l.state()
		if offset < size {
			n, err := io.Copy(w, io.NewSectionReader(file, offset, size-offset))
			offset += n
			if err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if ended {
			return nil
		}
		select {
		case <-changed:
		case <-stop:
			return nil
		}
	}
}
