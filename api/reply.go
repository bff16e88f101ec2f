package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"
)

// A Reply is a result that has an HTTP status and headers of its own.
type Reply interface {
	Status() int
	Header() map[string]string
}

// NoContent is the result of a method that has nothing to say, which clients of
// the platform that we are compatible with expect as an empty 204. Others answer
// None, an empty object.
type NoContent struct{}

// Status is 204.
func (NoContent) Status() int { return http.StatusNoContent }

// Header is empty.
func (NoContent) Header() map[string]string { return nil }

// A Stream is a result that writes itself, for replies without an end and those
// of another form than the method's schema.
type Stream func(http.ResponseWriter, *http.Request) error

// answer writes the reply of a call, and takes back what was handed out if it
// cannot be delivered.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, x *exchange, q *request, out any, err error) int {
	if err == nil && s.opts.CheckOutput {
		err = x.checkOutput(out)
	}
	if err == nil && len(q.who.undo) > 0 {
		err = r.Context().Err() // nobody waits for what was handed out
	}
	if time.Since(x.start) > time.Second { // the handler has waited
		limitWriting(w)
	}
	if err != nil {
		q.who.undoAll()
		return s.refuse(w, r, x, q, err)
	}
	status := http.StatusOK
	switch out := out.(type) {
	case Stream:
		if err := s.stream(w, r, x, q, out); err != nil {
			x.log().Debug("stream ended", "method", x.Name, "err", err)
		}
		return status
	case None:
		err = writeJSON(w, r, status, struct{}{})
	case Reply:
		status = out.Status()
		setAll(w.Header(), out.Header())
		err = writeReply(w, r, status, out, !x.Private)
	default:
		err = writeReply(w, r, status, out, !x.Private)
	}
	if _, ok := errors.AsType[*unencodable](err); ok { // nothing was written
		q.who.undoAll()
		return s.refuse(w, r, x, q, err)
	}
	if len(q.who.undo) > 0 {
		// Flushing makes the kernel tell us about a connection that is gone. That the
		// context has ended by now tells nothing: the server is being stopped, or the
		// caller has read the reply and closed, and both have it.
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		if err != nil && !errors.Is(err, http.ErrNotSupported) {
			q.who.undoAll()
		}
	}
	return status
}

func (c *caller) undoAll() {
	for _, f := range c.undo {
		f()
	}
	c.undo = nil
}

// stream has a Stream write. What its caller has of it already cannot be taken back,
// so if it panics the connection is broken.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, x *exchange, q *request, out Stream) error {
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			panic(p)
		} else if p != nil {
			s.incident(x, q, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			panic(http.ErrAbortHandler)
		}
	}()
	return out(w, r)
}

// incident logs what went wrong on our side, and returns the id that the line has.
func (s *Server) incident(x *exchange, q *request, err error) (id string) {
	id = uuid.NewString()
	x.log().Error("internal error", "incidentId", id, "service", x.service, "method", x.Name, "err", &fault{err, x, q})
	return id
}

// A fault is an error that knows what the caller has sent, of which nothing must go
// further than to the log.
type fault struct {
	error
	x *exchange
	q *request
}

func (f *fault) Unwrap() error { return f.error }

// mostLines of a body are more than anybody looks for: of an error with so many nothing
// is told.
const mostLines = 1000

// Hidden is what the caller has sent: texts, and decoded JSON.
func (f *fault) Hidden() (list []any) {
	doc := f.q.payload
	if doc == nil && len(f.q.raw) > 0 {
		doc, _ = decodeJSON(f.q.raw)
	}
	list = append(list, doc)
	if doc == nil {
		for line := range strings.Lines(string(f.q.raw)) {
			if len(list) > mostLines {
				break
			}
			if line = strings.TrimSpace(line); len(line) > 5 { // shorter ones are words
				list = append(list, line)
			}
		}
	}
	if f.q.who != nil { // nil: it is not known who that is
		c := f.q.who.credential
		list = append(list, c.Authorization)
		for _, part := range strings.FieldsFunc(c.Authorization, func(r rune) bool { return strings.ContainsRune(" ,=\"", r) }) {
			list = append(list, part)
		}
		if _, query, ok := strings.Cut(c.Resource, "?"); ok {
			list = append(list, query)
			if values, err := url.ParseQuery(query); err == nil {
				list = append(list, values.Get("bewit"))
			}
		}
	}
	for _, name := range f.x.Hidden {
		list = append(list, f.x.vars[name])
	}
	return list
}

// refuse answers a call that failed with err, returning the HTTP status.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, x *exchange, q *request, err error) int {
	a, ok := errors.AsType[*Error](err)
	switch {
	case ok && a.Status() >= http.StatusInternalServerError:
		a = Errorf(a.Code, "%s (incident id %s)", a.Message, s.incident(x, q, err))
	case ok:
	case r.Context().Err() != nil:
		// The caller has gone, or the server is being stopped. Saying
		// nothing would be an empty 200.
		x.log().Debug("call broken off", "service", x.service, "method", x.Name, "err", err)
		a = Errorf(ServiceUnavailable, "The call was broken off, as the server is being stopped. Call again.")
	default:
		a = Errorf(InternalServerError, "Internal server error, incident id %s. The details are in the server's log under this id.", s.incident(x, q, err))
	}
	var payload any
	if !x.Private {
		payload = q.shown(x.input)
	}
	vars := x.vars
	if len(x.Hidden) > 0 {
		vars = maps.Clone(vars)
		maps.DeleteFunc(vars, func(name, _ string) bool { return slices.Contains(x.Hidden, name) })
	}
	if a.Code == AuthenticationFailed {
		w.Header().Set("WWW-Authenticate", "Hawk")
	}
	writeJSON(w, r, a.Status(), newErrorBody(a, x.Name, vars, payload))
	return a.Status()
}

func (e *endpoint) checkOutput(out any) error {
	if r, ok := out.(Reply); e.output == nil || ok && r.Status() >= 400 {
		return nil // the schema is that of success
	}
	if _, ok := out.(Stream); ok {
		return nil // of a form of its own
	}
	b, err := encodeJSON(out)
	if err != nil {
		return fmt.Errorf("%s.%s: encoding the reply: %w", e.service, e.Name, err)
	}
	doc, err := decodeJSON(b)
	if err != nil {
		return fmt.Errorf("%s.%s: decoding the reply: %w", e.service, e.Name, err)
	}
	if err := e.output.Validate(doc); err != nil {
		if e.Private {
			b = nil
		}
		return fmt.Errorf("%s.%s: the reply does not fit %s:\n%s\n%s", e.service, e.Name, e.Output, explain(err, e.Private), b)
	}
	return nil
}

// An unencodable reply is one of which nothing was written.
type unencodable struct{ error }

func (e *unencodable) Unwrap() error { return e.error }

// writeJSON writes v with a weak ETag, or 304 where the caller has it already.
func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) error {
	return writeReply(w, r, status, v, true)
}

func writeReply(w http.ResponseWriter, r *http.Request, status int, v any, tagged bool) error {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return nil
	}
	b, err := encodeJSON(v)
	if err != nil {
		return &unencodable{fmt.Errorf("encoding the reply: %w", err)}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if tagged {
		tag := fmt.Sprintf(`W/"%x-%x"`, len(b), xxhash.Sum64(b))
		h.Set("ETag", tag)
		if status == http.StatusOK && r.Method == http.MethodGet && strings.Contains(r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if len(b) < minCompressed {
		h.Add("Vary", "Accept-Encoding") // as if it were compressed
		w.WriteHeader(status)
		_, err = w.Write(b)
		return err
	}
	compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, err = w.Write(b)
	}))(w, r)
	return err
}

// minCompressed is the size of the smallest reply that is compressed.
const minCompressed = 2048

// compress compresses what a handler writes, if the caller takes that. It is
// only put around the writing, as a call that waits for work should have little
// on its stack. The fastest level takes half of the time of the usual one, for
// a tenth more bytes; what fits into a packet or two is not worth either.
var compress = func() func(http.Handler) http.HandlerFunc {
	c, err := gzhttp.NewWrapper(gzhttp.MinSize(minCompressed), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return c
}()
