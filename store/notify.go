package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// A notifier tells other processes on a PostgreSQL database what to wake. What
// there is to say while it speaks is collected and said next, in one breath.
type notifier struct {
	channel string  // one for each schema
	id      string  // tells our own notifications from those of others
	sql     *sql.DB // one connection, so that this never queues behind transactions

	mu       sync.Mutex
	pending  []wake
	speaking bool // a goroutine does, and will look at pending again

	closing context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func newNotifier(config *pgx.ConnConfig, schema string, idle time.Duration, in *login) *notifier {
	config = config.Copy()
	config.RuntimeParams["synchronous_commit"] = "off" // there is nothing to keep
	db := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(in.apply))
	db.SetMaxOpenConns(1)
	db.SetConnMaxIdleTime(idle)
	db.SetConnMaxLifetime(idle) // so that it logs in anew, as the others do
	n := &notifier{channel: "taskfleet_" + schema, id: rand.Text()[:10], sql: db}
	n.closing, n.stop = context.WithCancel(context.Background())
	return n
}

func (e *postgresEngine) notify(wakes []wake) { e.notifier.notify(wakes) }

func (n *notifier) notify(wakes []wake) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.collect(wakes)
	if !n.speaking {
		n.speaking = true
		n.done.Go(n.speak)
	}
}

func (n *notifier) collect(wakes []wake) {
	for _, w := range wakes {
		n.pending = merge(n.pending, w)
	}
}

// speak says what is pending until nothing is. There are only so many topics,
// so what a server that is down leaves unsaid does not grow.
func (n *notifier) speak() {
	for failures := 0; ; {
		n.mu.Lock()
		wakes := n.pending
		n.pending = nil
		n.speaking = len(wakes) > 0
		n.mu.Unlock()
		if len(wakes) == 0 {
			return
		}
		err := n.send(wakes)
		wait := notifyPause
		if err == nil {
			failures = 0
		} else {
			failures++
			wait = min(100*time.Millisecond<<min(failures-1, 10), listenBackoff)
			slog.Warn("cannot tell other replicas what to wake; trying again", "error", err, "in", wait, "failures", failures)
			n.mu.Lock()
			n.collect(wakes)
			n.mu.Unlock()
		}
		select {
		case <-time.After(wait):
		case <-n.closing.Done():
			if err != nil { // others have to find out by themselves
				return
			}
		}
	}
}

const (
	notifyTimeout = 10 * time.Second

	// notifyPause is between two notifications: the first is sent at once, and
	// under load a hundred a second do for all.
	notifyPause = 10 * time.Millisecond
)

func (n *notifier) send(wakes []wake) error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	payloads := make([]string, len(wakes))
	for i, w := range wakes {
		payloads[i] = n.payload(w)
	}
	_, err := n.sql.ExecContext(ctx, `SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload`, n.channel, payloads)
	return err
}

// payload is "SENDER N TOPIC".
func (n *notifier) payload(w wake) string {
	return n.id + " " + strconv.Itoa(w.n) + " " + w.topic
}

func parsePayload(payload string) (sender string, w wake, err error) {
	sender, rest, _ := strings.Cut(payload, " ")
	count, topic, ok := strings.Cut(rest, " ")
	n, err := strconv.Atoi(count)
	if !ok || err != nil {
		return "", wake{}, fmt.Errorf("store: %q is not SENDER N TOPIC", brief(payload))
	}
	return sender, wake{topic, n}, nil
}

// close says what is left to say, if the server hears it, and ends.
func (n *notifier) close() error {
	n.stop()
	n.done.Wait()
	return n.sql.Close()
}
