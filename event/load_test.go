package event

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/taskfleet/taskfleet/store"
)

// BenchmarkStreams has ten thousand streams open, each of a task group of its
// own, and publishes messages about groups, a hundred transactions a second. It
// tells how long a message takes from before its transaction to its reader,
// another process on the same machine, and what memory the streams take here.
func BenchmarkStreams(b *testing.B) {
	const streams = 10_000
	for _, protocol := range []string{"sse", "websocket"} {
		b.Run(protocol, func(b *testing.B) {
			eachDatabase(b, func(b *testing.B, db *store.DB, kind string) {
				if err := raiseFiles(); err != nil {
					b.Fatal(err)
				}
				bus := newBus(b, db)
				runLoops(b, bus)
				server := serve(b, bus)
				before := memory()
				readers := exec.Command(os.Args[0])
				readers.Env = append(os.Environ(), "TASKFLEET_TEST_READERS="+fmt.Sprint(protocol, " ", streams, " ", server.URL))
				readers.Stderr = os.Stderr
				in, err := readers.StdinPipe()
				if err != nil {
					b.Fatal(err)
				}
				out, err := readers.StdoutPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := readers.Start(); err != nil {
					b.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				if !lines.Scan() || lines.Text() != "ready" {
					b.Fatalf("the readers are not ready: %s", lines.Text())
				}
				waitFor(b, func() bool {
					bus.hub.mu.Lock()
					defer bus.hub.mu.Unlock()
					return len(bus.hub.exchanges[exchange].byHandle) == 2*streams
				})
				taken := memory() - before
				m := startMeter(b, db, kind)
				b.ResetTimer()
				tick := time.NewTicker(10 * time.Millisecond)
				for range b.N {
					<-tick.C
					group := fmt.Sprintf("%022d", rand.IntN(streams))
					o := Outgoing{exchange, "primary.aaaaaaaaaaaaaaaaaaaaaa.0.a.b.c.d.e." + group + "._", nil, map[string]any{"sent": time.Now().UnixNano(), "text": strings.Repeat("x", 900)}}
					if err := db.Do(b.Context(), func(tx *store.Tx) error { return bus.PublishAll(tx, []Outgoing{o, o}) }); err != nil {
						b.Fatal(err)
					}
				}
				time.Sleep(time.Second)
				b.StopTimer()
				in.Close()
				m.report(b, 2*b.N)
				for lines.Scan() {
					name, value, _ := strings.Cut(lines.Text(), " ")
					x, _ := strconv.ParseFloat(value, 64)
					b.ReportMetric(x, name)
				}
				if err := readers.Wait(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(taken)/streams/1024, "KiB/stream")
			})
		})
	}
}

func TestMain(m *testing.M) {
	var protocol, server string
	var streams int
	if n, _ := fmt.Sscan(os.Getenv("TASKFLEET_TEST_READERS"), &protocol, &streams, &server); n == 3 {
		if err := runReaders(protocol, server, streams); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// runReaders is the readers' process of BenchmarkStreams. It ends when its
// input does.
func runReaders(protocol, server string, streams int) error {
	if err := raiseFiles(); err != nil {
		return err
	}
	var mu sync.Mutex
	var delays []time.Duration
	ready := make(chan error, streams)
	open := make(chan struct{}, 50)
	note := func(text []byte) {
		_, rest, ok := bytes.Cut(text, []byte(`"sent":`))
		if !ok {
			return
		}
		number, _, _ := bytes.Cut(rest, []byte(","))
		at, _ := strconv.ParseInt(string(number), 10, 64)
		mu.Lock()
		defer mu.Unlock()
		delays = append(delays, time.Duration(time.Now().UnixNano()-at))
	}
	for i := range streams {
		group := fmt.Sprintf("%022d", i)
		path := query([]Binding{{exchange, "primary." + group + ".#"}, {exchange, "primary.*.*.*.*.*.*.*." + group + ".#"}}, "")
		go func() {
			open <- struct{}{}
			err := follow(protocol, server, path, note, func() { <-open; ready <- nil })
			ready <- err
		}()
	}
	for range streams {
		if err := <-ready; err != nil {
			return err
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	mu.Lock()
	slices.Sort(delays)
	for _, q := range []float64{0.5, 0.99, 0.999} {
		if len(delays) > 0 {
			fmt.Printf("p%g-ms %f\n", 100*q, float64(delays[int(q*float64(len(delays)-1))].Microseconds())/1000)
		}
	}
	fmt.Printf("delivered %d\n", len(delays))
	return nil
}

func follow(protocol, server, path string, note func([]byte), ready func()) error {
	if protocol == "websocket" {
		conn, _, err := websocket.Dial(context.Background(), server+path, nil)
		if err != nil {
			return err
		}
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				return err
			}
			if bytes.HasPrefix(text, []byte(`{"event":"ready"`)) {
				ready()
			}
			note(text)
		}
	}
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, u.Host); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(conn, 2048)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, []byte("event: ready")) {
			ready()
		}
		note(line)
	}
}

// memory is what the process has of the system's.
func memory() int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.Sys - m.HeapReleased)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib int64
	fmt.Sscan(rest, &kib)
	return kib << 10
}

// raiseFiles lets the process have as many connections as it may.
func raiseFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
