package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Listen wakes the waiters of this process for what commits in other ones,
// until ctx ends. It keeps a connection of its own, which it opens again
// whenever it is lost; since notifications may have passed meanwhile, it then
// wakes everybody once. On SQLite, which has no other processes, it only waits
// for ctx to end.
//
// A bubble of testing/synctest stands still while it runs.
func (db *DB) Listen(ctx context.Context) error {
	db.engine.listen(ctx, db.waits)
	return nil
}

const (
	listenBackoff = 10 * time.Second // at most, between attempts to connect
	listenCheck   = 30 * time.Second // of silence before asking whether the server is there
	listenAnswer  = 10 * time.Second // for the server to say so
)

func (e *postgresEngine) listen(ctx context.Context, waits *Waits) {
	failures := 0
	for {
		err := e.listenOnce(ctx, waits, func() { failures = 0 })
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errLoginChanged) {
			continue
		}
		failures++
		ceiling := min(100*time.Millisecond<<min(failures-1, 10), listenBackoff)
		wait := ceiling/2 + rand.N(ceiling/2)
		slog.WarnContext(ctx, "not hearing what other replicas do: connecting again", "error", err, "in", wait, "failures", failures)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// listenOnce listens on one connection until it is lost.
func (e *postgresEngine) listenOnce(ctx context.Context, waits *Waits, connected func()) error {
	config, changed := e.config.Copy(), e.login.changed()
	if err := e.login.apply(ctx, config); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("store: listen: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{e.notifier.channel}.Sanitize()); err != nil {
		return fmt.Errorf("store: listen: %w", err)
	}
	connected()
	waits.wakeAll()
	// A login that was replaced is used no longer.
	listening, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(changed, stop)()
	for {
		n, err := next(listening, conn)
		if changed.Err() != nil && ctx.Err() == nil {
			return errLoginChanged
		}
		if err != nil {
			return fmt.Errorf("store: listen: %w", err)
		}
		if n != nil {
			e.heard(n.Payload, waits)
		}
	}
}

// next returns the next notification, or nil if there was none for a while and
// the server is still there.
func next(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	silence, cancel := context.WithTimeout(ctx, listenCheck)
	defer cancel()
	n, err := conn.WaitForNotification(silence)
	if err == nil || !pgconn.Timeout(err) || ctx.Err() != nil {
		return n, err
	}
	answer, cancel := context.WithTimeout(ctx, listenAnswer)
	defer cancel()
	return nil, conn.Ping(answer)
}

// heard wakes whom another process's notification is for. Our own waiters were
// woken when the transaction committed.
func (e *postgresEngine) heard(payload string, waits *Waits) {
	sender, w, err := parsePayload(payload)
	switch {
	case err != nil:
		slog.Warn("ignoring a notification that is none of ours", "channel", e.notifier.channel, "error", err)
	case sender != e.notifier.id:
		waits.Wake(w.topic, w.n)
	}
}
