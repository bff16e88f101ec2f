//go:build unix

package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
)

// BenchmarkStart is how long it takes until a gateway answers, in a directory
// with some objects, and until it has stopped.
func BenchmarkStart(b *testing.B) {
	c := gateway.Config{Directory: b.TempDir(), Listen: "127.0.0.1:0", AccessKeyID: "a", SecretAccessKey: "b"}
	for b.Loop() {
		g, err := gateway.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		a, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(must(http.NewRequest("GET", g.Blob().Endpoint, nil)))
		if err != nil {
			b.Fatal(err)
		}
		a.Body.Close()
		b.StopTimer()
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkProcess is a gateway in a process of its own: how long it takes to
// start, and what it needs while it has nothing to do.
func BenchmarkProcess(b *testing.B) {
	var rss, threads float64
	for b.Loop() {
		p := startProcess(b, b.TempDir(), "127.0.0.1:0")
		b.StopTimer()
		rss += procStatus(b, p.Process.Pid, "VmRSS")
		threads += procStatus(b, p.Process.Pid, "Threads")
		p.kill()
		b.StartTimer()
	}
	b.ReportMetric(rss/float64(b.N), "KiB-RSS")
	b.ReportMetric(threads/float64(b.N), "threads")
}

func procStatus(b *testing.B, pid int, field string) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\n"+field+":")
	n, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// cpu is what the process has used, which does not depend on what else runs.
func cpu(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// BenchmarkPut and BenchmarkGet are what a client of presigned URLs sees.
func BenchmarkPut(b *testing.B) { transfer(b, "PUT") }
func BenchmarkGet(b *testing.B) { transfer(b, "GET") }

func transfer(b *testing.B, method string) {
	for _, durable := range []bool{true, false} {
		if method == "GET" && !durable {
			continue // the same
		}
		for _, size := range []int{1 << 10, 1 << 20, 64 << 20} {
			for _, clients := range []int{1, 16} {
				name := fmt.Sprintf("durable=%v/KiB=%d/clients=%d", durable, size>>10, clients)
				b.Run(name, func(b *testing.B) { transferOne(b, method, durable, size, clients) })
			}
		}
	}
}

func transferOne(b *testing.B, method string, durable bool, size, clients int) {
	g, err := gateway.Start(b.Context(), gateway.Config{
		Directory: b.TempDir(), Listen: "127.0.0.1:0", AccessKeyID: "a", SecretAccessKey: "b", NoSync: !durable,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	bucket := must(blob.Open(b.Context(), g.Blob())).Bucket("bucket")
	if err := bucket.Ensure(b.Context()); err != nil {
		b.Fatal(err)
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	work := make(chan int)
	failed := make(chan error, clients)
	for range clients {
		go func() {
			buffer := make([]byte, 256<<10)
			var err error
			for i := range work {
				if err != nil {
					continue
				}
				key := fmt.Sprintf("dir/%d", i%64)
				var url string
				if method == "PUT" {
					url = must(bucket.PresignPut(b.Context(), key, "", time.Hour))
				} else {
					url = must(bucket.PresignGet(b.Context(), "dir/0", time.Hour, blob.Headers{}))
				}
				var content io.Reader = http.NoBody
				if method == "PUT" {
					content = bytes.NewReader(body)
				}
				var a *http.Response
				if a, err = client.Do(must(http.NewRequest(method, url, content))); err != nil {
					continue
				}
				var n int64
				n, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, a.Body, buffer)
				a.Body.Close()
				if err == nil && (a.StatusCode != 200 || method == "GET" && n != int64(size)) {
					err = fmt.Errorf("status %d, %d bytes", a.StatusCode, n)
				}
			}
			failed <- err
		}()
	}
	if _, err := bucket.Put(b.Context(), "dir/0", bytes.NewReader(body), blob.Headers{}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	before := cpu(b)
	for i := 0; b.Loop(); i++ {
		work <- i
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") // client and gateway
	close(work)
	for range clients {
		if err := <-failed; err != nil {
			b.Error(err)
		}
	}
}
