//go:build !agent

package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/bench"
)

func TestMirrorFiguresFitATerminal(t *testing.T) {
	for _, f := range []bench.MirrorFigure{
		{What: "1 KiB, server-side", Against: "rclone copy", Unit: bench.ObjectsPerSecond, Value: 123456, Other: 98765, Ratio: 1.25, Goal: 1.2, Met: true},
		{What: "1 GiB, server-side", Against: "plain loop", Unit: bench.BytesPerSecond, Value: 12e9, Other: 13e9, Ratio: 0.92, Goal: 0.9, CPU: 2e9, OtherCPU: 15e8},
		{What: "1 GiB, server-side", Against: "blind loop", Unit: bench.BytesPerSecond, Value: 12e9, Other: 13e9, Ratio: 0.92, Met: true},
		{What: "memory, 1 GiB server-side", Unit: bench.Bytes, Value: 12e9, Goal: 256 << 20},
		{What: "1000 ask at once: answers", Unit: bench.Nanoseconds, Value: 12e9, Goal: 100e6},
		{What: "region of an address", Unit: bench.Nanoseconds, Value: 107, Goal: 1000, Met: true},
		{What: "1000 ask at once: fetches", Unit: bench.Requests, Value: 1, Goal: 1, Met: true},
	} {
		text := mirrorLine(f)
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 || strings.TrimRight(line, " \n") == "" {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		first, _, _ := strings.Cut(text, "\n")
		if f.Goal == 0 && !strings.HasSuffix(first, " 92 %") {
			t.Errorf("there is no goal: %s", first)
		}
		if f.Goal > 0 && strings.HasSuffix(first, " yes") != f.Met || !f.Met && !strings.HasSuffix(first, " no") {
			t.Errorf("%v: %s", f.Met, first)
		}
	}
}

func TestMirrorLoadSendsWhatItReads(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusFound)
		w.Write([]byte(`{"status":"present"}`))
	}))
	defer server.Close()
	in, err := json.Marshal(bench.MirrorLoad{Address: server.Listener.Addr().String(), Paths: []string{"/"}, Requests: 7, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"bench", "mirror-load"}, bytes.NewReader(in), &out, &errOut); code != exitOK {
		t.Fatalf("%d: %s", code, &errOut)
	}
	var r bench.MirrorLoadResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Copies != 7 || r.Last.After(time.Now()) {
		t.Errorf("%+v, %v", r, err)
	}
	expect(t, exitUsage, "give sizes such as", "bench", "mirror", "--size", "huge")
	expect(t, exitUsage, "must be above 0", "bench", "mirror", "--rounds", "0")
}
