package livelog

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// patience is how long a reader may take nothing at all before it is dropped;
// it can come back with its offset.
const patience = 5 * time.Minute

// A Server shows logs on the loopback interface. Whoever knows a log's URL may
// read it: its path cannot be guessed and is known only to the queue, which
// gives it to those who may read the artifact.
type Server struct {
	base string
	http *http.Server

	mu   sync.Mutex
	logs map[string]*Log // by the secret part of the path
}

// Serve starts a server.
func Serve(log *slog.Logger) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("livelog: %w", err)
	}
	s := &Server{base: "http://" + listener.Addr().String() + "/log/", logs: map[string]*Log{}}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go s.http.Serve(listener) // until Close
	return s, nil
}

// Close drops all readers.
func (s *Server) Close() error { return s.http.Close() }

// Publish makes the log readable until withdraw is called. Readers that are
// there then may read to the end.
func (s *Server) Publish(l *Log) (url string, withdraw func()) {
	secret := make([]byte, 32)
	rand.Read(secret)
	token := base64.RawURLEncoding.EncodeToString(secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[token] = l
	return s.base + token, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.logs, token)
	}
}

// find compares with every log, so that the time it takes says nothing about
// how much of a guess was right.
func (s *Server) find(token string) (found *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, l := range s.logs {
		if subtle.ConstantTimeCompare([]byte(t), []byte(token)) == 1 {
			found = l
		}
	}
	return found
}

// ServeHTTP answers GET with the log as it grows, from ?offset= on (a negative
// offset counts from the present end), or with the range of the log that a
// Range header asks for, as far as it is there.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Headers", "Range")
	h.Set("Access-Control-Expose-Headers", "Content-Range")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	token, _ := strings.CutPrefix(r.URL.Path, "/log/")
	l := s.find(token)
	if l == nil {
		http.Error(w, "There is no such log; the task may have ended.", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		l.serve(w, r)
	case http.MethodOptions:
		w.WriteHeader(http.StatusNoContent)
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		http.Error(w, "A log can only be read.", http.StatusMethodNotAllowed)
	}
}

func (l *Log) serve(w http.ResponseWriter, r *http.Request) {
	file, err := os.Open(l.path)
	if err != nil {
		http.Error(w, "The log is gone.", http.StatusGone)
		return
	}
	defer file.Close()
	size, ended, _ := l.state()
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Accept-Ranges", "bytes")

	if spec := r.Header.Get("Range"); spec != "" && r.Header.Get("If-Range") == "" {
		total := "*" // not known yet
		if ended {
			total = strconv.FormatInt(size, 10)
		}
		from, to, kind := parseRange(spec, size)
		switch kind {
		case unsatisfiable:
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			http.Error(w, "The log does not reach that far yet.", http.StatusRequestedRangeNotSatisfiable)
			return
		case satisfiable:
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", from, to-1, total))
			h.Set("Content-Length", strconv.FormatInt(to-from, 10))
			w.WriteHeader(http.StatusPartialContent)
			if r.Method == http.MethodGet {
				io.Copy(lazy(w), io.NewSectionReader(file, from, to-from)) // the reader may go away
			}
			return
		}
	}

	offset := int64(0)
	if text := r.URL.Query().Get("offset"); text != "" {
		if offset, err = strconv.ParseInt(text, 10, 64); err != nil {
			http.Error(w, "offset has to be a number of bytes.", http.StatusBadRequest)
			return
		}
		if offset < 0 {
			offset = max(0, size+offset)
		}
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	out := http.NewResponseController(w)
	out.Flush()
	l.follow(file, offset, lazy(w), out.Flush, r.Context().Done()) // the reader may go away
}

// lazy is w for readers that may take their time, within reason.
func lazy(w http.ResponseWriter) io.Writer {
	return &deadlineWriter{w, http.NewResponseController(w)}
}

type deadlineWriter struct {
	w   io.Writer
	out *http.ResponseController
}

func (d *deadlineWriter) Write(p []byte) (int, error) {
	d.out.SetWriteDeadline(time.Now().Add(patience))
	return d.w.Write(p)
}

type rangeKind int

const (
	ignored rangeKind = iota // not of a form that we answer, which RFC 9110 allows
	unsatisfiable
	satisfiable
)

// parseRange reads a single byte range of a log that has size bytes now.
func parseRange(spec string, size int64) (from, to int64, kind rangeKind) {
	spec, found := strings.CutPrefix(spec, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !dash || strings.Contains(spec, ",") {
		return 0, 0, ignored
	}
	if first == "" { // the last so many bytes
		n, err := strconv.ParseInt(last, 10, 64)
		switch {
		case err != nil || n < 0:
			return 0, 0, ignored
		case n == 0 || size == 0:
			return 0, 0, unsatisfiable
		}
		return max(0, size-n), size, satisfiable
	}
	from, err := strconv.ParseInt(first, 10, 64)
	if err != nil || from < 0 {
		return 0, 0, ignored
	}
	to = size
	if last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < from {
			return 0, 0, ignored
		}
		if n < size { // avoids n+1 overflowing
			to = n + 1
		}
	}
	if from >= size {
		return 0, 0, unsatisfiable
	}
	return from, to, satisfiable
}
