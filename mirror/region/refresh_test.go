package region

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/region/ranges"
)

// published is a list as AWS has it, with what is bundled and one network more.
func published(at time.Time, more string) string {
	row := func(key, prefix, region string) string {
		if region == "" {
			region = "GLOBAL"
		}
		return fmt.Sprintf(`{%q: %q, "region": %q, "service": "EC2", "network_border_group": "x"}`, key, prefix, region)
	}
	four, six := []string{row("ip_prefix", more, "mars-1")}, []string{}
	for _, n := range ranges.Bundled().Networks {
		if n.Prefix.Addr().Is4() {
			four = append(four, row("ip_prefix", n.Prefix.String(), n.Region))
		} else {
			six = append(six, row("ipv6_prefix", n.Prefix.String(), n.Region))
		}
	}
	return fmt.Sprintf(`{"syncToken": "%d", "createDate": %q, "prefixes": [%s], "ipv6_prefixes": [%s]}`,
		at.Unix(), at.UTC().Format("2006-01-02-15-04-05"), strings.Join(four, ",\n"), strings.Join(six, ",\n"))
}

// A source has its behaviour changed by the test.
type source struct {
	*httptest.Server
	mu     sync.Mutex
	behave http.HandlerFunc
	asked  int
}

func newSource(t *testing.T) *source {
	s := &source{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked++
		behave := s.behave
		s.mu.Unlock()
		behave(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *source) set(behave http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = behave
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }
}

// again runs a pass as if it were due.
func (f *Finder) again(t *testing.T) {
	t.Helper()
	f.refresh.due = time.Time{}
	if err := f.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var (
	mars = netip.MustParseAddr("240.0.0.1") // an address that only published lists have
	next = ranges.Bundled().Created.Add(48 * time.Hour)
)

func TestRefresh(t *testing.T) {
	s := newSource(t)
	f := newFinder(t, Config{Source: s.URL + "/ip-ranges.json?key=hush"})
	if got := f.Status(); got.Source != "bundled" || got.Prefixes < 5000 || got.Created != ranges.Bundled().Created || !got.Fetched.IsZero() || got.Error != "" {
		t.Errorf("before: %+v", got)
	}
	if _, ok := f.Address(mars); ok {
		t.Fatal("the bundled list has the test's network")
	}

	var conditions []string
	s.set(func(w http.ResponseWriter, r *http.Request) {
		conditions = append(conditions, r.Header.Get("If-None-Match"))
		if r.URL.RequestURI() != "/ip-ranges.json?key=hush" {
			t.Errorf("asked for %s", r.URL)
		}
		w.Header().Set("ETag", `"one"`)
		if r.Header.Get("If-None-Match") == `"one"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, published(next, "240.0.0.0/24"))
	})
	f.again(t)
	if region, _ := f.Address(mars); region != "mars-1" {
		t.Errorf("after the refresh %s is in %q", mars, region)
	}
	if region, _ := f.Address(netip.MustParseAddr(frankfurt)); region != "eu-central-1" {
		t.Errorf("after the refresh %s is in %q", frankfurt, region)
	}
	first := f.Status()
	if first.Source != s.URL+"/ip-ranges.json" || !first.Created.Equal(next) || first.Fetched.IsZero() || first.Prefixes != len(ranges.Bundled().Networks)+1 {
		t.Errorf("after: %+v", first)
	}
	f.again(t)
	if got := fmt.Sprintf("%q", conditions); got != `["" "\"one\""]` {
		t.Errorf("the conditions were %s", got)
	}
	if got := f.Status(); got.Fetched.Before(first.Fetched) || got.Error != "" {
		t.Errorf("after nothing new: %+v", got)
	}
}

func TestRefreshKeepsWhatThereIs(t *testing.T) {
	s := newSource(t)
	good := published(next, "240.0.0.0/24")
	for _, c := range []struct {
		name   string
		behave http.HandlerFunc
		say    string
	}{
		{"an error", func(w http.ResponseWriter, r *http.Request) { http.Error(w, good, http.StatusBadGateway) }, "it answers 502"},
		{"not found", http.NotFound, "it answers 404"},
		{"nothing", says(""), "not a list"},
		{"garbage", says("<html>The hotel's network: sign in</html>"), "not a list"},
		{"a part", says(good[:len(good)/2]), "not a list"},
		{"cut off", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(good)))
			io.WriteString(w, good[:len(good)/2])
		}, "EOF"},
		{"reset", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, good[:len(good)/2])
			panic(http.ErrAbortHandler)
		}, "EOF"},
		{"older", says(published(ranges.Bundled().Created.Add(-time.Hour), "240.0.0.0/24")), "before the one that we have"},
		{"small", says(fmt.Sprintf(`{"syncToken": "%d", "prefixes": [{"ip_prefix": "240.0.0.0/24", "region": "mars-1", "service": "EC2"}]}`, next.Unix())), "not whole"},
		{"too wide", says(published(next, "0.0.0.0/0")), "wider than any"},
		{"huge", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, good)
			for blank := bytes.Repeat([]byte(" "), 1<<20); ; {
				if _, err := w.Write(blank); err != nil {
					return
				}
			}
		}, "larger than 32 MiB"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				http.Redirect(w, r, "/elsewhere", http.StatusFound)
				return
			}
			io.WriteString(w, good)
		}, "a redirect (302), which is not followed"},
		{"unchanged, unasked", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }, "(304)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			registry := prometheus.NewRegistry()
			f, err := New(Config{Source: s.URL + "/?key=hush", Metrics: registry, Log: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			before := f.current.Load()
			s.set(c.behave)
			f.again(t)
			f.again(t)
			got := f.Status()
			if f.current.Load() != before || got.Source != "bundled" || !got.Created.Equal(before.list.Created) {
				t.Errorf("the list was replaced: %+v", got)
			}
			if !strings.Contains(got.Error, c.say) || got.Attempted.IsZero() || !got.Fetched.IsZero() {
				t.Errorf("status %+v, want an error that says %q", got, c.say)
			}
			if log := said.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") || strings.Contains(log+got.Error, "hush") {
				t.Errorf("status %q, log\n%swant one line, and no secret", got.Error, log)
			}
			if n := counted(t, registry)["taskfleet_mirror_networks_refreshes_total error"]; n != 2 {
				t.Errorf("%v failures were counted", n)
			}
			s.set(says(good))
			f.again(t)
			if got := f.Status(); got.Error != "" || !got.Created.Equal(next) {
				t.Errorf("once it works: %+v", got)
			}
		})
	}
}

func TestNoSource(t *testing.T) {
	if loops := newFinder(t, Config{}).Loops(); loops != nil {
		t.Errorf("%d loops without a source", len(loops))
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// run runs the loop of a Finder, for as long as the bubble's test waits.
func run(t *testing.T, f *Finder) {
	runner := loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runner.Run(ctx, f.Loops()...)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func TestRefreshIsDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, up atomic.Int32
		f := newFinder(t, Config{Source: ranges.URL, Transport: transport(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			if up.Load() == 0 {
				return nil, errors.New("no such host")
			}
			if r.Header.Get("If-None-Match") != "" {
				return &http.Response{StatusCode: http.StatusNotModified, Body: http.NoBody}, nil
			}
			list := io.NopCloser(strings.NewReader(published(next, "240.0.0.0/24")))
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"one"`}}, Body: list}, nil
		})})
		run(t, f)
		time.Sleep(24*time.Hour + time.Minute)
		synctest.Wait()
		if n, s := asked.Load(), f.Status(); n < 20 || n > 25 || s.Source != "bundled" || !strings.Contains(s.Error, "no such host") {
			t.Errorf("without a network: asked %d times in a day, %+v", n, s)
		}
		asked.Store(0)
		up.Store(1)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n, s := asked.Load(), f.Status(); n != 1 || s.Source != ranges.URL || s.Error != "" {
			t.Errorf("once it is back: asked %d times in two hours, %+v", n, s)
		}
		time.Sleep(10 * 24 * time.Hour)
		synctest.Wait()
		if n := asked.Load(); n < 10 || n > 11 {
			t.Errorf("asked %d times in ten days", n)
		}
	})
}

type silence struct{ context.Context }

func (s silence) Read([]byte) (int, error) { <-s.Done(); return 0, s.Err() }
func (s silence) Close() error             { return nil }

func TestRefreshIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFinder(t, Config{Source: ranges.URL, Transport: transport(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: silence{r.Context()}}, nil
		})})
		run(t, f)
		time.Sleep(patience + time.Second)
		synctest.Wait()
		if s := f.Status(); !strings.Contains(s.Error, "no whole answer within 1m0s") || s.Source != "bundled" {
			t.Errorf("%+v", s)
		}
	})
}

// Callers are found while the list is replaced.
func TestRefreshWhileAsked(t *testing.T) {
	s := newSource(t)
	f := newFinder(t, Config{Source: s.URL})
	done := make(chan struct{})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			a := netip.MustParseAddr(frankfurt)
			for {
				select {
				case <-done:
					return
				default:
				}
				if region, _ := f.Address(a); region != "eu-central-1" {
					t.Errorf("%s is in %q", a, region)
					return
				}
				f.Status()
			}
		})
	}
	for i := range 3 {
		s.set(says(published(next.Add(time.Duration(i)*time.Hour), "240.0.0.0/24")))
		f.pass(t.Context())
		f.refresh.mu.Lock()
		f.refresh.due = time.Time{}
		f.refresh.mu.Unlock()
	}
	close(done)
	asking.Wait()
	if got := f.Status(); !got.Created.Equal(next.Add(2 * time.Hour)) {
		t.Errorf("%+v", got)
	}
}
