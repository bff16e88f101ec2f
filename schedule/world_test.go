package schedule

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// noon is when most tests begin.
var noon = time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)

// A world is a deployment of several replicas, in virtual time.
type world struct {
	*testing.T
	url string

	mu  sync.Mutex
	ran []Occasion // begun
	do  func(context.Context, Occasion) (string, error)
}

// each runs f on every database, from noon on.
func each(t *testing.T, f func(w *world)) {
	t.Helper()
	storetest.EachURL(t, func(t *testing.T, url string) {
		if strings.HasPrefix(url, "postgres") { // few connections, which stay while days pass
			url += "&pool_max_conns=3&pool_max_conn_idle_time=1000000h"
		}
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(noon))
			f(&world{T: t, url: url, do: func(context.Context, Occasion) (string, error) { return "it went well", nil }})
		})
	})
}

// A replica is one process.
type replica struct {
	*Schedule
	db       *store.DB
	registry *prometheus.Registry
	stop     func() // in good order
	cut      func() // its context, after it is dead
}

// open is a replica that does not run its loops.
func (w *world) open(name string) *replica {
	w.Helper()
	db := storetest.Open(w, w.url)
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(w.Context(), db, log)
	if err != nil {
		w.Fatal(err)
	}
	r := &replica{db: db, registry: prometheus.NewRegistry(), stop: func() {}, cut: func() {}}
	if r.Schedule, err = New(w.Context(), Config{DB: db, Events: bus, Log: log, Metrics: r.registry, Replica: name}); err != nil {
		w.Fatal(err)
	}
	r.Handle("test", RunnerFunc(func(ctx context.Context, o Occasion) (string, error) {
		w.mu.Lock()
		w.ran = append(w.ran, o)
		do := w.do
		w.mu.Unlock()
		return do(ctx, o)
	}))
	return r
}

func (w *world) start(name string) *replica {
	w.Helper()
	r := w.open(name)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := loop.NewRunner(r.log, loop.Alone, r.registry).Run(ctx, r.Loops()...); err != nil {
			w.Error(err)
		}
	}()
	r.cut = cancel
	r.stop = func() { cancel(); <-done }
	w.Cleanup(r.stop)
	return r
}

// kill has a replica have no effect any more, though its goroutines go on.
func (r *replica) kill() { r.db.Close() }

func (w *world) put(r *replica, j Job) {
	w.Helper()
	j.Kind = "test"
	if err := r.Put(w.Context(), j); err != nil {
		w.Fatal(err)
	}
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// does says what runners do from now on.
func (w *world) does(do func(context.Context, Occasion) (string, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.do = do
}

// begun are the occasions that runners were given.
func (w *world) begun() []Occasion {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ran)
}

// history is what became of the runs of a job, the first one first: "12:10 done".
func (w *world) history(r *replica, job string) string {
	w.Helper()
	list, err := r.runs(w.Context(), job, timestamp.Max, "", 1000)
	if err != nil {
		w.Fatal(err)
	}
	var text []string
	for _, x := range slices.Backward(list) {
		what := string(x.State)
		if x.Caller != "" {
			what += " for " + x.Caller
		}
		text = append(text, x.Due.Time().Format("15:04")+" "+what)
	}
	return strings.Join(text, ", ")
}

func (w *world) want(r *replica, job, want string) {
	w.Helper()
	if got := w.history(r, job); got != want {
		w.Errorf("the history of %s at %s:\n     %s\nwant %s", job, time.Now().Format("15:04:05"), got, want)
	}
}

// until lets time pass.
func (w *world) until(clock string) {
	w.Helper()
	at, err := time.Parse("15:04:05", clock)
	if err != nil {
		w.Fatal(err)
	}
	time.Sleep(time.Until(time.Date(noon.Year(), noon.Month(), noon.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)))
	synctest.Wait()
}
