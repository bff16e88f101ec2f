package sentryapi_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
)

func client(t *testing.T, to http.RoundTripper) *sentryapi.Client {
	t.Helper()
	c, err := sentryapi.New(sentryapi.Config{URL: "http://sentry.test/", Organization: "acme", Token: sentryfake.Token, Transport: to})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An answering is a server that answers as it likes.
type answering func(r *http.Request) *http.Response

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

func answer(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func TestListsAreReadToTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := sentryfake.New(sentryfake.Options{PageSize: 3})
		for i := range 10 {
			fake.AddProject("builds", fmt.Sprintf("project-%d", i))
			fake.AddKey("project-0", fmt.Sprint("key ", i))
		}
		c := client(t, fake)
		projects, err := c.Projects(t.Context())
		if err != nil || len(projects) != 10 {
			t.Errorf("%d projects: %v", len(projects), err)
		}
		keys, err := c.Keys(t.Context(), "project-0")
		if err != nil || len(keys) != 11 {
			t.Errorf("%d keys: %v", len(keys), err)
		}
		if text := fmt.Sprintf("%v %+v %#v %s", keys, keys[0], keys[0], c); strings.Contains(text, keys[0].Public) || strings.Contains(text, sentryfake.Token) {
			t.Errorf("printed, keys are %s", text)
		}
		fake.Fail(sentryfake.Fault{Method: "GET", Path: "/keys/", Times: 1}) // which is none
		fake.Fail(sentryfake.Fault{Method: "GET", Path: "/keys/", Status: 500})
		if keys, err := c.Keys(t.Context(), "project-0"); err == nil || keys != nil {
			t.Errorf("of a list whose second page fails there are %d keys: %v", len(keys), err)
		}
	})
}

// Sentry has few keys on a page unless it is asked for more, and calls are dear.
func TestPagesAreAsLongAsTheyCanBe(t *testing.T) {
	c := client(t, answering(func(r *http.Request) *http.Response {
		if got := r.URL.Query().Get("per_page"); got != "100" {
			t.Errorf("%s has pages of %q", r.URL.Path, got)
		}
		return answer(200, "[]")
	}))
	if _, err := c.Keys(t.Context(), "queue"); err != nil {
		t.Error(err)
	}
}

func TestPagesThatGoInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := client(t, answering(func(r *http.Request) *http.Response {
			if n++; r.URL.Host != "sentry.test" {
				t.Errorf("the token went to %s", r.URL.Host)
			}
			return answer(200, "[]", "Link", `<http://elsewhere.test/>; rel="previous"; results="false"; cursor="0:0:1", <http://elsewhere.test/>; rel="next"; results="true"; cursor="0:3:0"`)
		}))
		if _, err := c.Projects(t.Context()); err == nil || !strings.Contains(err.Error(), "circle") || n > 3 {
			t.Errorf("after %d calls: %v", n, err)
		}
	})
}

func TestWhatIsTriedAgain(t *testing.T) {
	for _, x := range []struct {
		name   string
		fault  sentryfake.Fault
		create bool
		good   bool
		calls  int
		least  time.Duration
	}{
		{"a server that fails is asked again", sentryfake.Fault{Status: 502, Times: 2}, false, true, 3, 3 * time.Second},
		{"but not for ever", sentryfake.Fault{Status: 502}, false, false, 4, 7 * time.Second},
		{"a connection that is cut", sentryfake.Fault{Cut: true, Times: 1}, false, true, 2, time.Second},
		{"what it refuses is not asked again", sentryfake.Fault{Status: 403}, false, false, 1, 0},
		{"a creation may have been carried out", sentryfake.Fault{Status: 500, After: true}, true, false, 1, 0},
		{"but not after 429", sentryfake.Fault{Status: 429, RetryAfter: "7", Times: 2}, true, true, 3, 14 * time.Second},
		{"a date is by their clock", sentryfake.Fault{Status: 429, RetryAfter: "Sat, 01 Jan 2000 02:00:20 GMT", Times: 1}, false, true, 2, 19 * time.Second},
		{"which is not waited for for long", sentryfake.Fault{Status: 429, RetryAfter: "3000", Times: 1}, false, false, 1, 0},
		{"nonsense", sentryfake.Fault{Status: 429, RetryAfter: "soon", Times: 1}, false, true, 2, time.Second},
		{"a slow server is given up", sentryfake.Fault{Delay: time.Minute, Times: 1}, false, true, 2, 30 * time.Second},
		{"a server that says when it is back", sentryfake.Fault{Status: 503, RetryAfter: "20", Times: 1}, false, true, 2, 20 * time.Second},
		{"what is no JSON", sentryfake.Fault{Status: 200, Body: `"text"`, Times: 1}, false, true, 2, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := sentryfake.New(sentryfake.Options{Skew: 2 * time.Hour})
				fake.AddProject("builds", "queue")
				fake.Fail(x.fault)
				c, begun := client(t, fake), time.Now()
				var err error
				if x.create {
					_, err = c.CreateKey(t.Context(), "queue", sentryapi.NewKey{Name: "key"})
				} else {
					_, err = c.Project(t.Context(), "queue")
				}
				took := time.Since(begun)
				if (err == nil) != x.good || len(fake.Calls()) != x.calls || took < x.least || took > x.least+40*time.Second {
					t.Errorf("after %s and %d calls: %v", took, len(fake.Calls()), err)
				}
			})
		})
	}
}

func TestErrorsTellNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for body, want := range map[string]string{
			`{"detail":"it is ` + sentryfake.Token + ` that is wrong."}`: "it is (hidden) that is wrong",
			`{"detail":{"code":"x","message":"too\nmany"}}`:              "too many",
			`{"slug":["Enter a valid slug."]}`:                           `{"slug":["Enter a valid slug."]}`,
			`<html>` + sentryfake.Token:                                  "the answer is 400",
			`{"detail":"` + strings.Repeat("long ", 1000) + `"}`:         "…",
		} {
			c := client(t, answering(func(*http.Request) *http.Response { return answer(400, body) }))
			_, err := c.Team(t.Context(), "builds")
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), sentryfake.Token) || len(err.Error()) > 500 {
				t.Errorf("%.50s: %v", body, err)
			}
		}
		c := client(t, answering(func(*http.Request) *http.Response { return answer(302, "", "Location", "http://elsewhere.test/") }))
		if _, err := c.Project(t.Context(), "queue"); err == nil || !strings.Contains(err.Error(), "another name") {
			t.Errorf("a project that has moved: %v", err)
		}
		c = client(t, answering(func(*http.Request) *http.Response { return answer(200, `{"dsn":`+strings.Repeat(" ", 9<<20)+`"x"}`) }))
		if _, err := c.CreateKey(t.Context(), "queue", sentryapi.NewKey{}); err == nil || !strings.Contains(err.Error(), "bytes") {
			t.Errorf("an answer without end: %v", err)
		}
		if err := c.Try(t.Context(), "https://hunter2:@"); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("what is no DSN: %v", err)
		}
	})
}

func TestEnvelopesAreTakenWithKeysThatAreActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := sentryfake.New(sentryfake.Options{URL: "http://sentry.test/behind/a/path"})
		fake.AddProject("builds", "queue")
		c, err := sentryapi.New(sentryapi.Config{URL: "http://sentry.test", Organization: "acme", Token: sentryfake.Token, Transport: stripped{fake}})
		if err != nil {
			t.Fatal(err)
		}
		dsn, id := fake.DSN("queue"), fake.Keys("queue")[0].ID
		if err := c.Try(t.Context(), dsn); err != nil {
			t.Error(err)
		}
		got := fake.Envelopes("queue")
		if len(got) != 1 || got[0].Key != id || len(got[0].Items) != 1 || got[0].Items[0].Type != "client_report" {
			t.Errorf("what has arrived is %+v", got)
		}
		if err := c.SetActive(t.Context(), "queue", id, false); err != nil {
			t.Error(err)
		}
		if err := c.Try(t.Context(), dsn); !errors.Is(err, sentryapi.ErrNoKey) || strings.Contains(err.Error(), id) {
			t.Errorf("a key that is disabled: %v", err)
		}
	})
}

// stripped is a server behind a path.
type stripped struct{ http.RoundTripper }

func (s stripped) RoundTrip(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	in.URL.Path = strings.TrimPrefix(in.URL.Path, "/behind/a/path")
	return s.RoundTripper.RoundTrip(in)
}

func TestATokenIsReplacedByOneThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := sentryfake.New(sentryfake.Options{Token: "the-new-one"})
		c := client(t, fake)
		if _, err := c.Projects(t.Context()); err == nil {
			t.Error("the old one works")
		}
		for _, bad := range []string{"", "two words", "another"} {
			if err := c.Use(t.Context(), bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		if err := c.Use(t.Context(), "the-new-one"); err != nil {
			t.Error(err)
		}
		if _, err := c.Projects(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
