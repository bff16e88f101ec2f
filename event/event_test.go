package event

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
)

const exchange = "exchange/taskcluster-queue/v1/task-completed"

func newBus(t testing.TB, db *store.DB) *Bus {
	b, err := New(t.Context(), db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func runLoops(t testing.TB, b *Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, prometheus.NewRegistry()).Run(ctx, b.Loops()...)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func publish(t testing.TB, db *store.DB, b *Bus, key string, cc ...string) {
	t.Helper()
	publishTo(t, db, b, exchange, key, cc...)
}

func publishTo(t testing.TB, db *store.DB, b *Bus, exchange, key string, cc ...string) {
	t.Helper()
	if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.Publish(tx, exchange, key, cc, map[string]string{"key": key}) }); err != nil {
		t.Fatal(err)
	}
}
