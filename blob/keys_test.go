package blob_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// A door lets those in that sign with a key which is good at the moment. What is behind
// it keeps nothing but lengths.
type door struct {
	mu   sync.Mutex
	good string // access key id
	seen map[string]int
	size map[string]int64
}

func (d *door) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	n := int64(0)
	if r.Body != nil {
		n, _ = io.Copy(io.Discard, r.Body)
	}
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	id, _, _ := strings.Cut(rest, "/")
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[id]++
	size, there := d.size[r.URL.Path]
	switch {
	case id != d.good:
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `<Error><Code>InvalidAccessKeyId</Code></Error>`)
	case r.Method == http.MethodPut:
		d.size[r.URL.Path] = n
		w.Header().Set("ETag", `"e"`)
	case r.Method == http.MethodHead && !there:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Header().Set("ETag", `"e"`)
	case r.Method == http.MethodPost:
		io.WriteString(w, `<DeleteResult/>`)
	}
	answer := w.Result()
	answer.Request = r
	return answer, nil
}

// A key is replaced while requests are made: none fails, and what is signed afterwards
// is signed with the new one.
func TestAKeyIsReplacedWhileItIsUsed(t *testing.T) {
	d := &door{good: "first", seen: map[string]int{}, size: map[string]int64{}}
	keys, err := blob.NewKeys("first", "secret-1")
	if err != nil {
		t.Fatal(err)
	}
	open := func(keys *blob.Keys) *blob.Bucket {
		t.Helper()
		s, err := blob.Open(t.Context(), blob.Config{Endpoint: "http://s3.test", Region: "us-east-1", PathStyle: true, Keys: keys, Transport: d})
		if err != nil {
			t.Fatal(err)
		}
		return s.Bucket("b")
	}
	b, other := open(keys), open(keys)
	if !b.CanCopyFrom(other) {
		t.Error("stores with the same keys are not of the same account")
	}
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	trial, err := blob.NewKeys("second", "secret-2")
	if err != nil {
		t.Fatal(err)
	}
	if err := open(trial).Check(t.Context()); err == nil || strings.Contains(err.Error(), "secret-2") {
		t.Errorf("a key that is not good yet: %v", err)
	}
	if b.CanCopyFrom(open(trial)) {
		t.Error("stores with other keys are of the same account")
	}
	for _, next := range []string{"second", "third"} {
		// For a moment both are good, as during every overlap.
		d.mu.Lock()
		d.good = next
		d.mu.Unlock()
		if err := keys.Set(next, "secret of "+next, ""); err != nil {
			t.Fatal(err)
		}
		for _, b := range []*blob.Bucket{b, other} {
			if err := b.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			u, err := b.PresignGet(t.Context(), "k", time.Minute, blob.Headers{})
			if err != nil || !strings.Contains(u, "Credential="+next+"%2F") {
				t.Errorf("a URL is not signed with %s: %v", next, err)
			}
		}
	}
	if err := keys.Set("fourth", "", ""); err == nil {
		t.Error("a key without its secret is taken")
	}
}
