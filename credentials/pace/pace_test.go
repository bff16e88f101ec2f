package pace

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A provider answers with one status after the other.
type provider struct {
	statuses []int
	after    string
	skew     time.Duration // of its clock
	bodies   []string
	at       []time.Time
}

func (p *provider) RoundTrip(r *http.Request) (*http.Response, error) {
	status := p.statuses[min(len(p.at), len(p.statuses)-1)]
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p.bodies, p.at = append(p.bodies, string(body)), append(p.at, time.Now())
	now := time.Now().Add(p.skew).UTC()
	h := http.Header{"Date": {now.Format(http.TimeFormat)}}
	if p.after == "date" {
		h.Set("Retry-After", now.Add(7*time.Second).Format(http.TimeFormat))
	} else if p.after != "" {
		h.Set("Retry-After", p.after)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("so"))}, nil
}

func TestWhatIsTurnedAwayIsSentAgainWhenTheProviderSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		provider
		method string
		limit  time.Duration
		asked  int
		took   time.Duration
		ends   int
	}{
		"seconds":                           {provider{statuses: []int{429, 503, 200}, after: "5"}, http.MethodPut, time.Minute, 3, 10 * time.Second, 200},
		"nothing said":                      {provider{statuses: []int{429, 429, 429, 200}}, http.MethodPut, time.Minute, 4, 7 * time.Second, 200},
		"a date of a clock that goes wrong": {provider{statuses: []int{503, 200}, after: "date", skew: -3 * time.Hour}, http.MethodPut, time.Minute, 2, 7 * time.Second, 200},
		"for ever":                          {provider{statuses: []int{429}, after: "1"}, http.MethodPut, time.Minute, 4, 3 * time.Second, 429},
		"longer than there is time":         {provider{statuses: []int{429}, after: "20"}, http.MethodPut, 10 * time.Second, 1, 0, 429},
		"longer than anybody waits":         {provider{statuses: []int{429}, after: "3600"}, http.MethodPut, 24 * time.Hour, 1, 0, 429},
		"what was posted":                   {provider{statuses: []int{429, 503}, after: "5"}, http.MethodPost, time.Minute, 2, 5 * time.Second, 503},
		"another failure":                   {provider{statuses: []int{500}, after: "1"}, http.MethodPut, time.Minute, 1, 0, 500},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithTimeout(t.Context(), c.limit)
				defer stop()
				r, err := http.NewRequestWithContext(ctx, c.method, "http://provider.test/", strings.NewReader("this"))
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				out, err := (&Transport{Base: &c.provider}).RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if got := time.Since(began); out.StatusCode != c.ends || len(c.bodies) != c.asked || got != c.took {
					t.Errorf("%d after %d requests and %v; want %d after %d and %v", out.StatusCode, len(c.bodies), got, c.ends, c.asked, c.took)
				}
				for _, body := range c.bodies {
					if body != "this" {
						t.Errorf("the body was sent as %q", body)
					}
				}
			})
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func (endless) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(endless{})}, nil
}

func TestAnAnswerIsBounded(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://provider.test/", nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := (&Transport{Base: endless{}}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, out.Body); err == nil || n != largest {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestRequestsKeepTheirDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{statuses: []int{200}}
		transport := &Transport{Base: p, Every: 500 * time.Millisecond}
		for range 5 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://provider.test/", strings.NewReader(""))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := transport.RoundTrip(r); err != nil {
				t.Fatal(err)
			}
		}
		for i := 1; i < len(p.at); i++ {
			if d := p.at[i].Sub(p.at[i-1]); d != 500*time.Millisecond {
				t.Errorf("request %d came %v after the one before", i, d)
			}
		}
	})
}

// What fails is sent again where that was asked for, but not what was posted.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		method   string
		statuses []int // 0: the network fails
		asked    int
		ends     int
	}{
		"the provider fails":       {http.MethodPut, []int{500, 502, 200}, 3, 200},
		"the network fails":        {http.MethodGet, []int{0, 0, 200}, 3, 200},
		"for ever":                 {http.MethodGet, []int{0}, 4, 0},
		"what was posted":          {http.MethodPost, []int{500}, 1, 500},
		"posted into a dead end":   {http.MethodPost, []int{0}, 1, 0},
		"posted, and turned away":  {http.MethodPost, []int{429, 200}, 2, 200},
		"what is nobody's failure": {http.MethodPut, []int{404}, 1, 404},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				base := roundTrip(func(*http.Request) (*http.Response, error) {
					status := c.statuses[min(asked, len(c.statuses)-1)]
					if asked++; status == 0 {
						return nil, io.ErrUnexpectedEOF
					}
					return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("so"))}, nil
				})
				r, err := http.NewRequestWithContext(t.Context(), c.method, "http://provider/", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				out, err := (&Transport{Base: base, Faults: true}).RoundTrip(r)
				if asked != c.asked || (err != nil) != (c.ends == 0) || err == nil && out.StatusCode != c.ends {
					t.Errorf("asked %d times, and ended with %+v, %v", asked, out, err)
				}
			})
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
