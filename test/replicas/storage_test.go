package replicas

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob/gateway"
	"github.com/taskfleet/taskfleet/slugid"
)

var quiet = slog.New(slog.DiscardHandler)

// A storage is an S3 that all replicas share, behind a proxy that has it fail on command.
type storage struct {
	url    string
	secret string
	mood   atomic.Int32
	failed atomic.Int64 // requests that were made to fail
	stored atomic.Int64 // PUTs that were answered well
}

const (
	well    = iota
	failing // every other request is answered 503 or breaks off, before or after it was carried out
	absent  // nothing is answered
	slow    // everything takes a second or two more
)

func newStorage(t *testing.T) *storage {
	t.Helper()
	s := &storage{secret: slugid.Token()}
	g, err := gateway.Start(t.Context(), gateway.Config{
		Directory: t.TempDir(), Listen: "127.0.0.1:0", AccessKeyID: "test", SecretAccessKey: s.secret, Log: quiet,
		NoSync: true, // it is not this S3 that is tested
	})
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(g.Blob().Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which the signature is over
		},
		ErrorLog:  slog.NewLogLogger(quiet.Handler(), slog.LevelDebug),
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}
	proxy := &http.Server{Handler: s.moody(forward)}
	go proxy.Serve(l)
	t.Cleanup(func() {
		proxy.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// moody answers as the storage is told to.
func (s *storage) moody(forward http.Handler) http.Handler {
	var requests atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		switch s.mood.Load() {
		case absent:
			s.failed.Add(1)
			panic(http.ErrAbortHandler) // breaks the connection
		case slow:
			select {
			case <-time.After(time.Second + time.Duration(n%10)*100*time.Millisecond):
			case <-r.Context().Done():
			}
		case failing:
			switch n % 6 {
			case 0, 1:
				s.failed.Add(1)
				http.Error(w, "<Error><Code>ServiceUnavailable</Code></Error>", http.StatusServiceUnavailable)
				return
			case 2:
				s.failed.Add(1)
				panic(http.ErrAbortHandler)
			case 3:
				s.failed.Add(1)
				// It was carried out, and nobody is told.
				forward.ServeHTTP(&swallowed{header: http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
				panic(http.ErrAbortHandler)
			}
		}
		forward.ServeHTTP(w, r)
		if r.Method == http.MethodPut {
			s.stored.Add(1)
		}
	})
}

// fail has the storage be in a mood for a while.
func (s *storage) fail(mood int32, d time.Duration) {
	s.mood.Store(mood)
	defer s.mood.Store(well)
	time.Sleep(d)
}

// A swallowed answer is one that nobody gets.
type swallowed struct{ header http.Header }

func (s *swallowed) Header() http.Header         { return s.header }
func (s *swallowed) Write(p []byte) (int, error) { return len(p), nil }
func (s *swallowed) WriteHeader(int)             {}
