package sentry

import (
	"net/http"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
)

// A tap tells of calls before and after they are carried out.
type tap struct {
	to   http.RoundTripper
	tell func(after bool)
}

func (x tap) RoundTrip(r *http.Request) (*http.Response, error) {
	x.tell(false)
	answer, err := x.to.RoundTrip(r)
	x.tell(true)
	if r.Context().Err() != nil {
		return nil, r.Context().Err()
	}
	return answer, err
}

// reach is a client whose calls are told of.
func reach(t *testing.T, w *world, s *Sentry, tell func(after bool)) *sentryapi.Client {
	t.Helper()
	c, err := sentryapi.New(sentryapi.Config{URL: w.fake.URL(), Organization: s.Organization, Token: s.Token, Pace: pace{w.db}, Transport: tap{w.fake, tell}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newRequest is a POST.
func newRequest(t *testing.T, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
