package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source"
)

func TestURLsThatWereNotEncodedAreTold(t *testing.T) {
	for path, encoded := range map[string]bool{
		"https%3A%2F%2Fexample.com%2Ffile":        true,
		"https%3a%2f%2fexample.com%2fa%252Fb%3Fc": true,
		"s3:%2F%2Fbucket%2Ftask%2F0%2Fpublic%2Fa": true,
		"nonsense":                                true, // of which something else is told
		"https%3A%2F%2Fexample.com%2Ffile?v=1":    false,
		"https%3A%2F%2Fexample.com%2Ffile?bewit=": true,
		"https://example.com/file":                false,
		"https:%2F%2Fexample.com/file":            false,
		"https%3A%2F%2Fexample.com/":              false,
		"https%3A//example.com%2F..%2F":           false,
	} {
		r := httptest.NewRequest("GET", "https://tasks.test/api/mirror/v1/redirect/s3/eu/"+path, nil)
		if err := checkEncoded(r, 7); (err == nil) != encoded || err != nil && !strings.Contains(err.Error(), "URL Must be URL Encoded!") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTheQueuesURLsAreArtifacts(t *testing.T) {
	for path, want := range map[string]string{
		"T/runs/0/artifacts/public%2Fa.txt":        "T/0/public/a.txt",
		"T/runs/12/artifacts/public/a.txt?bewit=x": "T/12/public/a.txt",
		"T/runs/0/artifacts/public%2F%E6%97%A5..":  "T/0/public/日..",
		"T/artifacts/public/a.txt":                 "",
		"T/runs/0/artifacts/":                      "",
		"T/runs/0/artifacts":                       "",
		"T/runs/0/artifacts/%zz":                   "",
		"T":                                        "",
	} {
		key, err := keyOfArtifact(path)
		if key != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, source.ErrInvalidURL) {
			t.Errorf("%s: %q, %v; want %q", path, key, err, want)
		}
	}
}

func TestWhoIsToBlameIsKnownByTheError(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int // 0: nobody is
		word   string
	}{
		{&source.BadStatus{Code: 404}, 404, errBadStatus},
		{&source.BadStatus{Code: 503}, 503, errBadStatus},
		{&source.BadStatus{Code: 204}, 502, errBadStatus},
		{source.ErrNotAllowed, 403, errInvalidURL},
		{source.ErrForbiddenAddress, 403, errInvalidURL},
		{source.ErrTooManyRedirects, 403, errInvalidURL},
		{errors.New("BadHTTPStatus: 404 InvalidUrl"), 0, ""},
		{errors.New("connection reset"), 0, ""},
		{source.ErrChanged, 0, ""},
	} {
		err := &source.Error{Method: "GET", URL: "https://example.com/InvalidUrl: 1", Err: c.err}
		copy := Copy{State: Failed, Error: errorText(fmt.Errorf("copying: %w", err))}
		u, ok := copy.unfetchable()
		if ok != (c.status != 0) || u.status != c.status || u.Err != c.word || ok && !strings.Contains(u.Msg, err.Error()) && c.err != source.ErrForbiddenAddress {
			t.Errorf("%v: %+v, %v", c.err, u, ok)
		}
	}
}

// An address is nobody's business who may not explain, and an error says once whose
// fault it is.
func TestErrorsAsTheyAreTold(t *testing.T) {
	c, err := source.New(source.Config{Allow: []string{"http://127.0.0.1/"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u, err := source.Canonical("http://127.0.0.1/x")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Stat(t.Context(), u)
	copy := Copy{State: Failed, Error: errorText(err)}
	reply, ok := copy.unfetchable()
	if !strings.Contains(copy.Error, "may not be at 127.0.0.1") || !ok || reply.status != 403 || reply.Err != errInvalidURL || strings.Contains(fmt.Sprint(reply), "127.0.0.1") {
		t.Errorf("%v: %+v", copy.Error, reply)
	}
	for text, want := range map[string]string{
		"http://example.com/a is not allowed": "http://example.com/a is not allowed.", "it has no host.": "It has no host.", "": "",
	} {
		if got := sentence(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// Beside artifacts there are other things in the bucket.
func TestKeysOfArtifacts(t *testing.T) {
	for key, want := range map[string]string{
		someTask + "/0/public/a":        "public/a",
		someTask + "/12//..":            "/..",
		someTask + "/0/":                "",
		someTask + "/00/public/a":       "",
		someTask + "/-1/public/a":       "",
		someTask + "/+1/public/a":       "",
		someTask + "/x/public/a":        "",
		"object/0/public/a":             "",
		"object/" + someTask + "/0/a":   "",
		"t/" + someTask + "/0/public/a": "",
	} {
		if got, ok := artifactName(key); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v", key, got, ok)
		}
	}
}

func TestOldURLsAreServed(t *testing.T) {
	var got []string
	h := Legacy(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = append(got, r.URL.String(), r.RequestURI) }))
	for path, want := range map[string]string{
		"/v1/redirect/s3/us-east-1/https%3A%2F%2Fexample.com%2Fa%2520b%3Fc": "/api/mirror/v1/redirect/s3/us-east-1/https%3A%2F%2Fexample.com%2Fa%2520b%3Fc",
		"/v1/redirect/s3/us-east-1/https://example.com/a?b":                 "/api/mirror/v1/redirect/s3/us-east-1/https://example.com/a?b",
		"/v1/purge/s3/us-east-1/x":                                          "/api/mirror/v1/purge/s3/us-east-1/x",
		"/v1/ping":                                                          "/api/mirror/v1/ping",
		"/v1/api-reference":                                                 "/references/mirror/v1/api.json",
		"/v1/copies":                                                        "",
		"/v1/":                                                              "",
		"/":                                                                 "",
	} {
		got = nil
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		switch {
		case want == "" && (got != nil || rec.Code != 404):
			t.Errorf("%s: %d, %q", path, rec.Code, got)
		case want != "" && (len(got) != 2 || got[0] != want || got[1] != path):
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
