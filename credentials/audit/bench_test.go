//go:build unix

package audit

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
)

// A log as they are, with 10,000 tokens and as many other secrets looked for.
func BenchmarkScan(b *testing.B) {
	x := newIndex()
	for i := range 10_000 {
		x.add(slugid.Token(), Source{Kind: "client", Name: fmt.Sprint("c", i)}, true)
		x.add(slugid.New()+"/"+slugid.New(), Source{Kind: "secret", Name: fmt.Sprint("s", i)}, true)
	}
	x.ready()
	var log strings.Builder
	for i := 0; log.Len() < 16<<20; i++ {
		fmt.Fprintf(&log, "[task 2026-11-26T06:50:%02d.%03dZ] go: downloading example.com/module/v%d %s\n", i%60, i%1000, i%9, slugid.New())
	}
	text := log.String()
	zipped := zip(b, text)
	for _, c := range []struct {
		name string
		log  string
	}{{"plain", text}, {"gzip", zipped}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			before, n := processorTime(b), 0
			for b.Loop() {
				if got := scanText(b, x, strings.NewReader(c.log)); got != "" {
					b.Fatal(got)
				}
				n++
			}
			b.ReportMetric(float64(n*len(text))/1e6/(processorTime(b)-before).Seconds(), "MB/cpu-s")
		})
	}
}

// processorTime is what this process has used: the rate by the clock says little on a
// machine that does other things, too.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkFillIndex(b *testing.B) {
	tokens := make([]string, 10_000)
	for i := range tokens {
		tokens[i] = slugid.Token()
	}
	b.ReportAllocs()
	for b.Loop() {
		x := newIndex()
		for _, t := range tokens {
			x.add(t, Source{}, true)
		}
		x.ready()
	}
}
