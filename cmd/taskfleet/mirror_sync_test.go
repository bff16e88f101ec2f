package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestASpoolKeepsOrderAndWaits(t *testing.T) {
	s, err := newSpool[wanted]()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if list, err := s.take(t.Context(), 10, false); len(list) != 0 || err != nil {
		t.Errorf("of nothing it took %v, %v", list, err)
	}
	const n = 5000 // more than a chunk holds
	long := strings.Repeat("x", 2*spoolChunk)
	go func() {
		for i := range n {
			if err := s.put(wanted{URL: "https://example.com/\n" + long[:i%100], Size: int64(i)}); err != nil {
				t.Error(err)
			}
		}
		s.end(s.put(wanted{URL: long, Size: n}))
	}()
	next := int64(0)
	for {
		list, err := s.take(t.Context(), 64, true)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil || len(list) == 0 || len(list) > 64 {
			t.Fatalf("took %d, %v", len(list), err)
		}
		for _, w := range list {
			if w.Size != next {
				t.Fatalf("%d came where %d was due", w.Size, next)
			}
			next++
		}
	}
	if next != n+1 {
		t.Errorf("%d came of %d", next, n+1)
	}
	s.close()
	if _, err := os.Stat(s.file.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

func TestASpoolEndsWithItsError(t *testing.T) {
	s, err := newSpool[wanted]()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.take(ctx, 1, true); !errors.Is(err, context.Canceled) {
		t.Errorf("after an interrupt: %v", err)
	}
	broken := errors.New("broken")
	if err := s.put(wanted{URL: "a"}); err != nil {
		t.Fatal(err)
	}
	s.end(broken)
	if list, err := s.take(t.Context(), 10, true); len(list) != 1 || err != nil {
		t.Errorf("what had come is %v, %v", list, err)
	}
	if _, err := s.take(t.Context(), 10, true); !errors.Is(err, broken) {
		t.Errorf("it ended with %v", err)
	}
}

func TestAMeterTellsWhatMatters(t *testing.T) {
	start := time.Date(2016, 5, 11, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	m := newMeter(&out, false, start)
	c := &syncCount{Objects: 100, Bytes: 100 << 20}
	m.show(c, start) // too early
	c.There, c.ThereBytes = 10, 10<<20
	c.Copied, c.CopiedBytes = 20, 20<<20
	c.UnderWay, c.PartBytes = 2, 10<<20
	m.show(c, start.Add(10*time.Second))
	c.Listed, c.Failed, c.FailedBytes = true, 1, 1<<20
	m.show(c, start.Add(20*time.Second))
	want := "12:00:10  30 of 100 or more, 40.0 MiB of 100.0 MiB, 3.0 MiB/s\n" +
		"12:00:20  30 of 100, 40.0 MiB of 100.0 MiB, 1 failed, 1.5 MiB/s, 1m09s left\n"
	if out.String() != want {
		t.Errorf("it said\n%s\nwant\n%s", out.String(), want)
	}

	out.Reset()
	m = newMeter(&out, true, start)
	m.show(c, start.Add(10*time.Second))
	var line struct {
		Objects, Copied, BytesPerSecond int64
		Listed                          bool
	}
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Objects != 100 || line.Copied != 20 || line.BytesPerSecond != 3<<20 || !line.Listed {
		t.Errorf("for programs it is %s, %v", out.String(), err)
	}
}

func TestABarFitsItsLine(t *testing.T) {
	start := time.Now()
	m := newMeter(io.Discard, false, start)
	c := &syncCount{Objects: 1234567, Bytes: 5 << 40, Listed: true, There: 100000, ThereBytes: 1 << 40, Copied: 400000, CopiedBytes: 2 << 40, Failed: 1234, FailedBytes: 1 << 38}
	m.observe(c, start.Add(20*time.Second))
	for _, width := range []int{40, 79, 120, 200} {
		l := fit([]line{m.bar(c, width)}, width, 1)[0].text(false)
		if n := utf8.RuneCountInString(l); n > width || width >= 79 && !strings.Contains(l, "/s") {
			t.Errorf("%d columns of %d: %s", n, width, l)
		}
	}
	for _, c := range []syncCount{{}, {Objects: 1}, {Objects: 1, Copied: 1}, {Objects: 3, Failed: 3}, {Objects: 2, Bytes: 5, CopiedBytes: 9, Copied: 2}} {
		m.bar(&c, 120) // must not panic
	}
}

// The rate of the last while is what counts, whatever was before.
func TestRatesAreOfTheLastWhile(t *testing.T) {
	start := time.Now()
	m := newMeter(io.Discard, false, start)
	c := &syncCount{Objects: 1000, Bytes: 1000 << 20, Listed: true}
	for i := range 100 {
		if i < 50 {
			c.Copied, c.CopiedBytes = c.Copied+1, c.CopiedBytes+1<<20
		}
		m.observe(c, start.Add(time.Duration(i+1)*time.Second))
	}
	if r := m.rate(); r != 0 || len(m.samples) > 25 {
		t.Errorf("after standing still it is %v, of %d samples", r, len(m.samples))
	}
	if d, ok := m.eta(c); ok {
		t.Errorf("nobody knows how long it takes, and it says %v", d)
	}
}

func TestPatternsAreThoseOfRoutes(t *testing.T) {
	for pattern, texts := range map[string]map[string]bool{
		"public/build/*": {"public/build/": true, "public/build/a/b": true, "public/buil": false},
		"*.tar.gz":       {"a.tar.gz": true, "a.tar.gz.asc": false, ".tar.gz": true},
		"a*b*c":          {"abc": true, "axbxc": true, "ac": false, "acb": false, "abcx": false},
		"exact":          {"exact": true, "exactly": false},
		"*":              {"": true, "x": true},
		"a*a":            {"a": false, "aa": true},
	} {
		for text, want := range texts {
			if got := fitsPattern(pattern, text); got != want {
				t.Errorf("%q fits %q: %v", text, pattern, got)
			}
		}
	}
}
