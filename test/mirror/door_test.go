package mirror

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
)

// A door is the way to an S3. It writes down what went through, and keeps to a rule.
type door struct {
	url     string
	forward http.Handler

	mu       sync.Mutex
	rule     rule
	changed  chan struct{} // closed, and made anew, with each rule
	silent   bool          // writes nothing down
	passages []passage
}

// A passage is a request of S3.
type passage struct {
	kind        kind
	bucket, key string
	source      string // bucket/key of what is copied
	part        int
	bytes       string // the range that is asked for
	status      int    // of the answer; 0: there was none
}

type kind string

const (
	read     kind = "read"   // by the platform
	signed   kind = "signed" // by whoever has a signed URL
	stat     kind = "stat"
	put      kind = "put"
	copied   kind = "copied" // by the store itself
	begin    kind = "begin"  // an upload in parts
	part     kind = "part"
	complete kind = "complete"
	other    kind = "other"
)

// A rule says what becomes of a request.
type rule func(p passage) act

type act int

const (
	pass   act = iota
	refuse     // 503
	cut        // no answer, nothing is done
	lose       // no answer, though all is done
	hold       // no answer until there is another rule, which decides then
)

func open(passage) act { return pass }

// newDoor opens a door to an S3.
func newDoor(t *testing.T, to string) *door {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{url: "http://" + l.Addr().String(), rule: open, changed: make(chan struct{})}
	d.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which the signature is over
		},
		ErrorLog:  log.New(io.Discard, "", 0),
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}
	serving := &http.Server{Handler: d, ErrorLog: log.New(io.Discard, "", 0)}
	go serving.Serve(l)
	t.Cleanup(func() {
		d.keep(open)
		serving.Close()
	})
	return d
}

// keep has the door keep to another rule.
func (d *door) keep(r rule) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rule = r
	close(d.changed)
	d.changed = make(chan struct{})
}

// ServeHTTP is part of http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := describe(r)
	answer := &answered{ResponseWriter: w}
	defer func() {
		p.status = answer.status
		d.note(p)
	}()
	switch d.decide(r.Context(), p) {
	case refuse:
		answer.Header().Set("Content-Type", "application/xml")
		answer.WriteHeader(http.StatusServiceUnavailable)
		answer.Write([]byte("<Error><Code>ServiceUnavailable</Code></Error>"))
	case cut:
		panic(http.ErrAbortHandler) // breaks the connection
	case lose:
		d.forward.ServeHTTP(&swallowed{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
		panic(http.ErrAbortHandler)
	default:
		d.forward.ServeHTTP(answer, r)
	}
}

func (d *door) decide(ctx context.Context, p passage) act {
	for {
		d.mu.Lock()
		rule, changed := d.rule, d.changed
		d.mu.Unlock()
		a := rule(p)
		if a != hold {
			return a
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return cut
		}
	}
}

func (d *door) note(p passage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.silent {
		d.passages = append(d.passages, p)
	}
}

// seen are the passages that a condition holds for.
func (d *door) seen(is func(passage) bool) (list []passage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.passages {
		if is(p) {
			list = append(list, p)
		}
	}
	return list
}

// describe tells what a request is.
func describe(r *http.Request) (p passage) {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	p.bucket, p.bytes = bucket, r.Header.Get("Range")
	p.key, _ = blob.Unspell(name)
	q := r.URL.Query()
	p.part, _ = strconv.Atoi(q.Get("partNumber"))
	if from, err := url.PathUnescape(strings.TrimPrefix(r.Header.Get("X-Amz-Copy-Source"), "/")); err == nil && from != "" {
		bucket, name, _ := strings.Cut(from, "/")
		key, _ := blob.Unspell(name)
		p.source = bucket + "/" + key
	}
	switch {
	case p.key == "":
		p.kind = other
	case q.Has("X-Amz-Signature"):
		p.kind = signed
	case r.Method == http.MethodGet:
		p.kind = read
	case r.Method == http.MethodHead:
		p.kind = stat
	case r.Method == http.MethodPut && p.source != "":
		p.kind = copied
	case r.Method == http.MethodPut && p.part > 0:
		p.kind = part
	case r.Method == http.MethodPut:
		p.kind = put
	case r.Method == http.MethodPost && q.Has("uploads"):
		p.kind = begin
	case r.Method == http.MethodPost && q.Has("uploadId"):
		p.kind = complete
	default:
		p.kind = other
	}
	return p
}

// writes tells that something is stored.
func (p passage) writes() bool {
	return slices.Contains([]kind{put, copied, begin, part, complete}, p.kind)
}

// An answered is an answer whose status is known.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// A swallowed answer is one that nobody gets.
type swallowed struct{ header http.Header }

func (s *swallowed) Header() http.Header         { return s.header }
func (s *swallowed) Write(p []byte) (int, error) { return len(p), nil }
func (s *swallowed) WriteHeader(int)             {}
