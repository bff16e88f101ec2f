package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/client"
)

// A roundTripper answers in process, so that time can be virtual.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func reply(status int, header ...string) (*http.Response, error) {
	h := http.Header{}
	if len(header) > 0 {
		h.Set(header[0], header[1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func inProcess(t *testing.T, retry client.Retry, f roundTripper) *client.Client {
	return newClient(t, client.Options{RootURL: "http://server.test", Transport: f, Retry: retry})
}

func TestWaitsAreRandomBelowADoublingBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last time.Time
		var waits []time.Duration
		c := inProcess(t, client.Retry{For: time.Hour, Wait: time.Second, MaxWait: 20 * time.Second}, func(*http.Request) (*http.Response, error) {
			if !last.IsZero() {
				waits = append(waits, time.Since(last))
			}
			last = time.Now()
			return reply(503)
		})
		if err := c.Do(t.Context(), look, nil); err == nil {
			t.Error("succeeded")
		}
		bound, longest, different := time.Second, time.Duration(0), map[time.Duration]bool{}
		for i, w := range waits {
			if w <= 0 || w > bound {
				t.Errorf("wait %d is %v, want at most %v", i, w, bound)
			}
			bound = min(2*bound, 20*time.Second)
			longest = max(longest, w)
			different[w] = true
		}
		if len(different) < len(waits)/2 || longest < 10*time.Second {
			t.Errorf("%d different ones of %d waits, the longest %v", len(different), len(waits), longest)
		}
	})
}

func TestTheBudgetIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		retry client.Retry
		fault func() (*http.Response, error)
	}{
		"faulty server, default patience": {client.Retry{}, func() (*http.Response, error) { return reply(500) }},
		"faulty server, much patience":    {client.Patient, func() (*http.Response, error) { return reply(500) }},
		"no network, much patience":       {client.Patient, func() (*http.Response, error) { return nil, errors.New("unreachable") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, calls := time.Now(), 0
				err := inProcess(t, tc.retry, func(*http.Request) (*http.Response, error) { calls++; return tc.fault() }).Do(t.Context(), look, nil)
				budget := tc.retry.For
				if budget == 0 {
					budget = 30 * time.Second
				}
				if took := time.Since(start); took > budget || took < budget-10*time.Second {
					t.Errorf("gave up after %v of %v", took, budget)
				}
				if err == nil || !strings.Contains(err.Error(), "gave up after") || calls < 5 {
					t.Errorf("%d calls, then %v", calls, err)
				}
			})
		})
	}
}

func TestRetriesCanBeSwitchedOff(t *testing.T) {
	calls := 0
	c := inProcess(t, client.Retry{For: -1}, func(*http.Request) (*http.Response, error) { calls++; return reply(503) })
	if err := c.Do(t.Context(), look, nil); err == nil || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
		for name, tc := range map[string]struct {
			header func() string
			least  time.Duration
		}{
			"seconds":               {func() string { return "17" }, 17 * time.Second},
			"a date":                {func() string { return in(20 * time.Second) }, 19 * time.Second},
			"a date that is over":   {func() string { return in(-time.Hour) }, 0},
			"something else":        {func() string { return "soon" }, 0},
			"less than no time":     {func() string { return "-5" }, 0},
			"more than can be time": {func() string { return "99999999999999999999" }, 0},
		} {
			calls, start := 0, time.Now()
			c := inProcess(t, client.Retry{}, func(*http.Request) (*http.Response, error) {
				if calls++; calls == 1 {
					return reply(429, "Retry-After", tc.header())
				}
				return reply(200)
			})
			if err := c.Do(t.Context(), once, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took < tc.least || took > tc.least+2*time.Second {
				t.Errorf("%s: waited %v", name, took)
			}
		}
	})
}

func TestARetryAfterBeyondTheBudgetEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := inProcess(t, client.Retry{}, func(*http.Request) (*http.Response, error) { return reply(429, "Retry-After", "3600") })
		if err := c.Do(t.Context(), look, nil); err == nil || time.Since(start) != 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestCancelingEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		c := inProcess(t, client.Patient, func(*http.Request) (*http.Response, error) { return reply(503, "Retry-After", "60") })
		err := c.Do(ctx, look, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "503") || time.Since(start) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestTheCallersEndEndsAnAttemptWithoutAnother(t *testing.T) {
	for want, end := range map[error]func(context.Context) (context.Context, context.CancelFunc){
		context.Canceled: func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
		context.DeadlineExceeded: func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := end(t.Context())
			defer cancel()
			calls := 0
			c := inProcess(t, client.Patient, func(r *http.Request) (*http.Response, error) {
				calls++
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			if err := c.Do(ctx, look, nil); !errors.Is(err, want) || calls != 1 {
				t.Errorf("%d calls, then %v, want %v", calls, err, want)
			}
		})
	}
}

func TestAnAttemptThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		calls, start := 0, time.Now()
		c := inProcess(t, client.Patient, func(r *http.Request) (*http.Response, error) {
			if calls++; calls == 1 {
				return hang(r)
			}
			return reply(200)
		})
		if err := c.Do(t.Context(), look, nil); err != nil || calls != 2 {
			t.Errorf("%d calls, %v", calls, err)
		}
		if took := time.Since(start); took < 90*time.Second || took > 91*time.Second {
			t.Errorf("took %v", took)
		}
		err := inProcess(t, client.Patient, hang).Do(t.Context(), once, nil)
		if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 1m30s") {
			t.Errorf("got %v, which must not look as if the caller's time were up", err)
		}
	})
}

func TestRepetitionsAreLoggedWithoutSecrets(t *testing.T) {
	var log bytes.Buffer
	calls := 0
	c, err := client.New(client.Options{
		RootURL: "http://server.test", Credentials: creds, Retry: quick, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if calls++; calls == 1 {
				return nil, errors.New("connection reset")
			}
			return reply(200)
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), look, nil); err != nil {
		t.Fatal(err)
	}
	line := log.String()
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, "call=test.look") || !strings.Contains(line, "connection reset") || strings.Contains(line, creds.AccessToken) {
		t.Errorf("logged %q", line)
	}
}
