package sentryfake

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAServerTakesWhatAnSDKSends(t *testing.T) {
	s := New(Options{})
	server := httptest.NewServer(s)
	defer server.Close()
	s.SetURL(server.URL)
	s.AddProject("builds", "queue")
	dsn := s.DSN("queue")
	if !strings.HasPrefix(dsn, "http://") || !strings.Contains(dsn, strings.TrimPrefix(server.URL, "http://")+"/") {
		t.Fatalf("the DSN is %s", dsn)
	}
	key := s.Keys("queue")[0].ID
	post := func(key, body string) int {
		t.Helper()
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write([]byte(body))
		z.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/api"+dsn[strings.LastIndexByte(dsn, '/'):]+"/envelope/", &packed)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Encoding", "gzip")
		r.Header.Set("X-Sentry-Auth", "Sentry sentry_version=7, sentry_key="+key)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	event := "{\"event_id\":\"9ec79c33ec9942ab8353589fcb2e04dc\"}\n{\"type\":\"attachment\",\"length\":3}\na\nb\n{\"type\":\"event\"}\n{\"level\":\"error\"}\n"
	for _, x := range []struct {
		key, body string
		status    int
	}{{key, event, 200}, {"0123", event, 403}, {key, "what?", 400}, {key, "{}\n{\"type\":\"event\",\"length\":99}\n{}", 400}} {
		if got := post(x.key, x.body); got != x.status {
			t.Errorf("%.20q with the key %.4s: %d, not %d", x.body, x.key, got, x.status)
		}
	}
	got := s.Envelopes("queue")
	if len(got) != 1 || len(got[0].Items) != 2 || string(got[0].Items[0].Payload) != "a\nb" || string(got[0].Items[1].Payload) != `{"level":"error"}` {
		t.Errorf("what has arrived is %+v", got)
	}
	s.Fail(Fault{Path: "/envelope/", Cut: true, Times: 1})
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/api/1/envelope/", strings.NewReader(event))
	if answer, err := http.DefaultClient.Do(r); err == nil {
		answer.Body.Close()
		t.Error("the connection was not cut")
	}
}
