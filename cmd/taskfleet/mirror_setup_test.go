//go:build !agent

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// hop makes a request whose redirect is not followed.
func hop(t *testing.T, target string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Body.Close() })
	return a
}

func contentOf(t *testing.T, target string) string {
	t.Helper()
	a := hop(t, target)
	text, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", target, a.Status, err)
	}
	return string(text)
}

func TestReadersGetCopiesFromTheirRegion(t *testing.T) {
	p := startReal(t, func(c *Config) {
		c.Mirror = &MirrorConfig{
			Regions: []MirrorRegionConfig{{Name: "eu"}, {Name: "ap"}}, IPRanges: "none",
			Networks: map[string]string{"127.0.0.0/8": "ap"},
			Routes:   []MirrorRouteConfig{{Name: "off", Artifact: "*.log", Policy: "off"}},
		}
	})
	expect(t, exitOK, "created", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	var g submittedGraph
	out := expect(t, exitOK, "", "graph", "submit", writeFile(t, "graph.yml", testGraph), "--json")
	if err := json.Unmarshal([]byte(out), &g); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	expect(t, exitOK, `"completed":true`, "graph", "watch", g.TaskGroupID, "--json")
	artifact := p.RootURL + "/api/queue/v1/task/" + g.Tasks[0].TaskID + "/runs/0/artifacts/public/file"

	for _, x := range []struct {
		bucket  string
		headers []string
	}{
		{"/mirror-ap/", nil}, {"/mirror-eu/", []string{"X-Taskfleet-Region", "eu"}}, {"/artifacts/", []string{"X-Taskfleet-Region", "home"}},
		{"/artifacts/", []string{"x-taskcluster-skip-cache", "true"}},
	} {
		// While a copy is not there yet, or its bucket is slow to answer, the artifact itself is.
		at := ""
		for until := time.Now().Add(soon); !strings.Contains(at, x.bucket); time.Sleep(20 * time.Millisecond) {
			a := hop(t, artifact, x.headers...)
			a.Body.Close()
			if at = a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || time.Now().After(until) {
				t.Fatalf("with %v: %s, %s; want %s", x.headers, a.Status, at, x.bucket)
			}
		}
		if got := contentOf(t, at); got != "content\n" {
			t.Errorf("with %v: %q", x.headers, got)
		}
	}

	// The same by the URLs of 2016.
	a := hop(t, p.RootURL+"/v1/redirect/s3/eu/"+url.PathEscape(artifact))
	if at := a.Header.Get("Location"); a.StatusCode != http.StatusFound || contentOf(t, at) != "content\n" || !strings.Contains(at, "/mirror-eu/") {
		t.Errorf("redirect: %s %s", a.Status, at)
	}
	if a := hop(t, p.RootURL+"/v1/redirect/s3/eu/"+artifact); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a URL that is not encoded: %s", a.Status)
	}
	if a := hop(t, p.RootURL+"/metrics"); a.StatusCode != http.StatusOK {
		t.Errorf("metrics: %s", a.Status)
	} else if text, _ := io.ReadAll(a.Body); !strings.Contains(string(text), `taskfleet_mirror_objects{region="eu",state="present"} 1`) {
		t.Error("the metrics do not tell of the copy")
	}
}
