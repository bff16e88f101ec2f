package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
)

// Workers compress what they upload. Ours tells the queue the size as stored,
// generic-worker the size before that; any other size is of something else.
func TestADownloadHasTheSizeThatTheQueueWasTold(t *testing.T) {
	var stored bytes.Buffer
	z := gzip.NewWriter(&stored)
	fmt.Fprint(z, "hello")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	told := 0
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	answer := func(w http.ResponseWriter, text string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, text)
	}
	mux.HandleFunc("/api/queue/v1/task/{task}/artifact-info/{name...}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, fmt.Sprintf(`{"storageType": "s3", "name": "public/a", "contentType": "text/plain", "contentLength": %d, "expires": "2030-01-01T00:00:00.000Z"}`, told))
	})
	mux.HandleFunc("/api/queue/v1/task/{task}/artifacts/{name...}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, `{"storageType": "s3", "url": "`+server.URL+`/content"}`)
	})
	mux.HandleFunc("/content", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(stored.Bytes())
	})
	core, err := client.New(client.Options{RootURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	for size, good := range map[int]bool{stored.Len(): true, len("hello"): true, 3: false} {
		told = size
		var out strings.Builder
		d := &download{queue: queue.New(core), taskID: slugid.New(), run: latestRun, name: "public/a"}
		if _, err := d.copyTo(t.Context(), &out); (err == nil) != good || good && out.String() != "hello" {
			t.Errorf("told %d: %q, %v", size, out.String(), err)
		}
	}
}
