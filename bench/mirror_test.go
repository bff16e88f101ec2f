//go:build !agent

package bench

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// All measures, of as little as possible. What they come to is not looked at.
func TestMirror(t *testing.T) {
	var reported []MirrorFigure
	m, err := newMirrorSite(t.Context(), MirrorOptions{
		Directory: t.TempDir(), Sizes: []int64{3 << 20, 1 << 10}, Objects: 5, Rounds: 2, Transfers: 2, Rate: 1000, Duration: 50 * time.Millisecond, Waiters: 5,
		Generate: func(ctx context.Context, l MirrorLoad) (MirrorLoadResult, error) { return l.Run(ctx) },
		Report:   func(f MirrorFigure) { reported = append(reported, f) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	}()
	m.gather, m.limit, m.warm, m.copies = 500*time.Millisecond, 300*time.Millisecond, 10, 5
	if err := m.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range m.report.Figures {
		names = append(names, f.What)
		if f.Value <= 0 && f.Unit != Nanoseconds || (f.Goal > 0) == (f.Against == "blind loop") || (f.Against != "") != (f.Ratio > 0) {
			t.Errorf("%+v", f)
		}
		if f.Unit == Requests && !f.Met {
			t.Errorf("an object was fetched more than once: %+v", f)
		}
	}
	want := []string{
		"1 KiB, server-side", "1 KiB, server-side", "1 KiB, streamed", "3 MiB, server-side", "3 MiB, server-side", "3 MiB, streamed", "memory, 3 MiB server-side", "memory, 3 MiB streamed",
		"redirect, CPU", "redirect, half within", "redirect, 99 % within", "region of an address",
		"5 ask at once: fetches", "5 ask at once: answers", "too slow: past the limit",
	}
	if _, err := peakMemory(); err != nil {
		want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "memory") || s == "redirect, CPU" })
	}
	if !slices.Equal(names, want) {
		t.Errorf("the figures are %q, want %q", names, want)
	}
	if len(reported) != len(names) {
		t.Errorf("%d figures were told of, of %d", len(reported), len(names))
	}
}

func TestMirrorLeavesOutWhatHasNoRoom(t *testing.T) {
	const tooLarge = 1 << 60
	m := &mirrorSite{MirrorOptions: MirrorOptions{Directory: t.TempDir(), Sizes: []int64{tooLarge}, Objects: 1}}
	if err := m.copying(t.Context()); err == nil || !strings.Contains(err.Error(), "1073741824 GiB") {
		t.Errorf("the error is %v", err)
	}
	m.Optional = true
	if err := m.copying(t.Context()); err != nil || len(m.report.LeftOut) != 1 || len(m.report.Figures) > 0 {
		t.Errorf("%v, %+v", err, m.report)
	}
}

func TestRcloneThatFails(t *testing.T) {
	program := filepath.Join(t.TempDir(), "rclone")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"cannot $*\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := newMirrorSite(t.Context(), MirrorOptions{Directory: t.TempDir(), Rclone: program, Transfers: 7, Objects: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	_, _, err = m.byRclone(t.Context(), m.keys(10, 1), 10, m.away)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: cannot copy HOME:originals/") || !strings.Contains(err.Error(), "--transfers 7") {
		t.Errorf("the error is %v", err)
	}
}

func TestMirrorLoad(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/copy":
			w.WriteHeader(http.StatusFound)
			w.Write([]byte(`{"status":"present","url":"http://x/"}`))
		case "/origin":
			w.WriteHeader(http.StatusFound)
			w.Write([]byte(`{"url":"http://y/"}`))
		default:
			http.Error(w, "gone away", http.StatusNotFound)
		}
	}))
	defer server.Close()
	load := MirrorLoad{Address: server.Listener.Addr().String(), Paths: []string{"/copy", "/copy", "/origin"}, Requests: 30, Connections: 4, Rate: 10_000}
	for range 2 {
		r, err := load.Run(t.Context())
		if err != nil || r.Failure != "" || r.Copies != 20 || r.Others != 10 || r.P50 <= 0 || r.Max < r.P99 || r.P99 < r.P50 || r.Last.IsZero() {
			t.Errorf("at %v a second: %+v, %v", load.Rate, r, err)
		}
		load.Rate, load.Connections = 0, 30
	}
	load.Paths = append(load.Paths, "/elsewhere")
	if r, err := load.Run(t.Context()); err != nil || !strings.Contains(r.Failure, "404 Not Found: gone away") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := (MirrorLoad{}).Run(t.Context()); err == nil {
		t.Error("nothing at all is a load")
	}
}
