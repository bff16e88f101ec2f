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
	moods  [moods]atomic.Int32 // how many faults of each mood there are now
	failed atomic.Int64        // requests that were made to fail
	stored atomic.Int64        // PUTs that were answered well
}

// Moods of a storage, of which it may be in several at once.
const (
	failing = iota // every other request is answered 503 or breaks off, before or after it was carried out
	absent         // nothing is answered
	slow           // everything takes a second or two more
	moods
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
		if s.in(absent) {
			s.failed.Add(1)
			panic(http.ErrAbortHandler) // breaks the connection
		}
		if s.in(slow) {
			select {
			case <-time.After(time.Second + time.Duration(n%10)*100*time.Millisecond):
			case <-r.Context().Done():
			}
		}
		if s.in(failing) {
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

func (s *storage) in(mood int) bool { return s.moods[mood].Load() > 0 }

// fail has the storage be in a mood for a while: until a request has met it, as a fault that nobody meets shows nothing,
// but not for long.
func (s *storage) fail(mood int, d time.Duration) {
	before := s.failed.Load()
	s.moods[mood].Add(1)
	defer s.moods[mood].Add(-1)
	time.Sleep(d)
	for wait := 0; mood != slow && s.failed.Load() == before && wait < 100; wait++ {
		time.Sleep(100 * time.Millisecond)
	}
}

// A swallowed answer is one that nobody gets.
type swallowed struct{ header http.Header }

func (s *swallowed) Header() http.Header         { return s.header }
func (s *swallowed) Write(p []byte) (int, error) { return len(p), nil }
func (s *swallowed) WriteHeader(int)             {}
