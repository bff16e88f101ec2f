package event

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// aMessage is as the queue's are.
func aMessage() Outgoing {
	const at = "2026-11-25T18:00:00.000Z"
	return Outgoing{Exchange: exchange, RoutingKey: queueKey, CC: []string{"route.index.gecko.v2.try.latest.linux64-opt"}, Payload: map[string]any{
		"version": 1, "runId": 0, "workerGroup": "eu-west-1a", "workerId": "i-0123456789abcdef0", "takenUntil": at,
		"status": map[string]any{
			"taskId": "aaaaaaaaaaaaaaaaaaaaaa", "provisionerId": "proj-test", "workerType": "build-linux", "taskQueueId": "proj-test/build-linux",
			"schedulerId": "gecko-level-1", "projectId": "none", "taskGroupId": "bbbbbbbbbbbbbbbbbbbbbb", "deadline": at, "expires": at, "retriesLeft": 5,
			"state": "running", "priority": "medium", "runs": []any{map[string]any{
				"runId": 0, "state": "running", "reasonCreated": "scheduled", "workerGroup": "eu-west-1a", "workerId": "i-0123456789abcdef0",
				"takenUntil": at, "scheduled": at, "started": at,
			}},
		},
		"task": map[string]any{"tags": map[string]string{"kind": "build", "os": "linux", "label": "build-linux64/opt"}},
	}}
}

// A meter measures the processor time of this process and, on PostgreSQL, of
// the server's that work for it.
type meter struct {
	pids      []int
	self, sql time.Duration
}

func startMeter(b *testing.B, db *store.DB, kind string) *meter {
	m := &meter{}
	if kind == "postgres" {
		if err := db.View(b.Context(), func(tx *store.Tx) error {
			m.pids = nil
			rows, err := tx.Query(`SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL`)
			if err != nil {
				return err
			}
			for rows.Next() {
				var pid int
				if err := rows.Scan(&pid); err != nil {
					return err
				}
				m.pids = append(m.pids, pid)
			}
			return rows.Err()
		}); err != nil {
			b.Fatal(err)
		}
	}
	m.self, m.sql = m.now()
	return m
}

func (m *meter) now() (self, sql time.Duration) {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	for _, pid := range m.pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // not there on other systems
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			sql += time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), sql
}

func (m *meter) report(b *testing.B, messages int) {
	self, sql := m.now()
	b.ReportMetric(float64((self-m.self).Microseconds())/float64(messages), "cpu-µs/msg")
	b.ReportMetric(float64((sql-m.sql).Microseconds())/float64(messages), "server-µs/msg")
	b.ReportMetric(float64(messages)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(0, "ns/op")
}

func eachDatabase(b *testing.B, f func(b *testing.B, db *store.DB, kind string)) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) { f(b, storetest.Open(b, storetest.URL(b, kind)), kind) })
	}
}

// BenchmarkPublish is a transaction that does nothing else.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 2, 32, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			eachDatabase(b, func(b *testing.B, db *store.DB, kind string) {
				bus := newBus(b, db)
				list := make([]Outgoing, n)
				for i := range list {
					list[i] = aMessage()
				}
				m := startMeter(b, db, kind)
				for b.Loop() {
					if err := db.Do(b.Context(), func(tx *store.Tx) error { return bus.PublishAll(tx, list) }); err != nil {
						b.Fatal(err)
					}
				}
				m.report(b, n*b.N)
			})
		})
	}
}

// BenchmarkLog is the life of messages that are published two by two, by eight
// at the same time: written, placed, and read by ten subscribers, of which one
// wants them. What is read is what the tail did not get from memory.
func BenchmarkLog(b *testing.B) {
	eachDatabase(b, func(b *testing.B, db *store.DB, kind string) {
		bus := newBus(b, db)
		reads := counted(bus)
		var delivered atomic.Int64
		bus.Subscribe("all", []Binding{{exchange, "#"}}, func(_ context.Context, list []Message) (bool, error) {
			delivered.Add(int64(len(list)))
			return false, nil
		})
		for i := range 9 {
			bus.Subscribe(fmt.Sprint("other", i), []Binding{{exchange, "route.other.#"}}, func(context.Context, []Message) (bool, error) { return false, nil })
		}
		runLoops(b, bus)
		time.Sleep(500 * time.Millisecond) // all have a cursor
		m := startMeter(b, db, kind)
		b.ResetTimer()
		var left atomic.Int64
		left.Store(int64(b.N))
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					if err := db.Do(b.Context(), func(tx *store.Tx) error { return bus.PublishAll(tx, []Outgoing{aMessage(), aMessage()}) }); err != nil {
						b.Error(err)
					}
				}
			})
		}
		all.Wait()
		for delivered.Load() < 2*int64(b.N) {
			time.Sleep(time.Millisecond)
		}
		b.StopTimer()
		m.report(b, 2*b.N)
		b.ReportMetric(float64(reads.Load())/float64(2*b.N), "read/msg")
	})
}

// BenchmarkExpire deletes messages that were published two by two.
func BenchmarkExpire(b *testing.B) {
	eachDatabase(b, func(b *testing.B, db *store.DB, kind string) {
		bus := newBus(b, db)
		for range b.N {
			if err := db.Do(b.Context(), func(tx *store.Tx) error { return bus.PublishAll(tx, []Outgoing{aMessage(), aMessage()}) }); err != nil {
				b.Fatal(err)
			}
		}
		mustPass(b, bus.place)
		if err := db.Do(b.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE event_batch SET created = 0`)
			return err
		}); err != nil {
			b.Fatal(err)
		}
		m := startMeter(b, db, kind)
		b.ResetTimer()
		mustPass(b, bus.expire)
		b.StopTimer()
		m.report(b, 2*b.N)
	})
}

func BenchmarkDecode(b *testing.B) {
	var text strings.Builder
	o := aMessage()
	for range 100 {
		if err := o.encode(&text); err != nil {
			b.Fatal(err)
		}
	}
	var list []*entry
	for b.Loop() {
		var err error
		if list, err = decode(list[:0], []byte(text.String()), 100, 100, 1); err != nil {
			b.Fatal(err)
		}
	}
	if !json.Valid(list[0].Payload) {
		b.Error("the payload is not JSON")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/msg")
}
