// Package event carries what happened to those who want to know.
//
// A service publishes a message in the transaction that causes it (Publish
// writes a row), so a message exists exactly if its cause does: the
// transactional outbox. One loop gives committed messages their position in a
// log without gaps; from then on everything is reading that log. Durable
// subscribers (Subscribe) keep a cursor in the database and get each message
// at least once, in order; streams (connect.go) carry the cursor themselves, as
// the id of each server-sent event, and resume where they broke off.
//
// Order is that of the log: messages about one task stand in the order of its
// transactions. The log is kept for Retention; a reader that comes back later
// is told about the gap.
package event

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Retention is how long delivered messages stay readable.
const Retention = 24 * time.Hour

const (
	topicNew    = "event.new"    // a message was committed
	topicPlaced = "event.placed" // a message has got its position
	everybody   = 1 << 30
	batch       = 500

	// fallback is how often loops look without having been woken, which is
	// needed only where a wake was lost with a process.
	fallback = 30 * time.Second
)

//go:embed migrations/*.sql
var migrations embed.FS

// A Bus is the message log of a deployment.
type Bus struct {
	db          *store.DB
	log         *slog.Logger
	subscribers []subscriber
	streams     atomic.Int64 // that are open
}

type subscriber struct {
	name     string
	bindings []Binding
	handle   func(context.Context, []Message) error
}

// New opens the log, creating its tables where they do not exist.
func New(ctx context.Context, db *store.DB, log *slog.Logger) (*Bus, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "event", files); err != nil {
		return nil, fmt.Errorf("event: migrate: %w", err)
	}
	return &Bus{db: db, log: log}, nil
}

// A Message is one event in the log.
type Message struct {
	Position   int64           `json:"-"` // 0 until it is placed
	Exchange   string          `json:"exchange"`
	RoutingKey string          `json:"routingKey"`
	CC         []string        `json:"cc"` // further keys it matches: the task's routes
	Payload    json.RawMessage `json:"payload"`
	Created    timestamp.Time  `json:"created"`
}

// Topic is the full name of a service's exchange,
// "exchange/taskcluster-queue/v1/task-pending".
func Topic(service, version string, x api.Exchange) string {
	return "exchange/taskcluster-" + service + "/" + version + "/" + x.Exchange
}

// Publish writes a message in tx: it is sent if tx commits and never was if
// not. payload is marshalled to JSON.
func (b *Bus) Publish(tx *store.Tx, exchange, routingKey string, cc []string, payload any) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("event: publish on %s: %w", exchange, err)
	}
	if cc == nil {
		cc = []string{}
	}
	copies, err := json.Marshal(cc)
	if err != nil {
		return fmt.Errorf("event: publish on %s: %w", exchange, err)
	}
	if _, err := tx.Exec(`INSERT INTO event (exchange, routing_key, cc, payload, created) VALUES ($1, $2, $3, $4, $5)`,
		exchange, routingKey, string(copies), string(body), timestamp.Now()); err != nil {
		return fmt.Errorf("event: publish on %s: %w", exchange, err)
	}
	tx.Wake(topicNew, 1)
	return nil
}

// Subscribe delivers every message that fits a binding to handle, at least
// once and in order, across restarts: name identifies the subscriber's cursor.
// What is there at the same time comes in one call. A handler that fails is
// called again with the same messages after a back-off, and holds up only its
// own subscription. A new subscriber starts with the
// messages published after its first start. Call it before Loops.
func (b *Bus) Subscribe(name string, bindings []Binding, handle func(context.Context, []Message) error) {
	b.subscribers = append(b.subscribers, subscriber{name, bindings, handle})
}

// Loops are the work of placing, delivering and expiring messages.
func (b *Bus) Loops() []loop.Loop {
	loops := []loop.Loop{
		{
			Name: "event.place", Doc: "Gives committed messages their position in the log.",
			When: loop.Every(fallback), Wake: b.db.Waits().Signal(topicNew), Pass: b.place,
		},
		{
			Name: "event.expire", Doc: "Deletes messages that everybody has read and that are older than a day.",
			When: loop.Every(10 * time.Minute), Pass: b.expire,
		},
	}
	for _, s := range b.subscribers {
		loops = append(loops, loop.Loop{
			Name: "event.deliver." + s.name, Doc: "Delivers messages to " + s.name + ".",
			When: loop.Every(fallback), Wake: b.db.Waits().Signal(topicPlaced),
			Pass: func(ctx context.Context) (bool, error) { return b.deliver(ctx, s) },
		})
	}
	return loops
}

// place appends committed messages to the log. The row 'head' is locked for
// the length of the transaction, so even two replicas that both believe they
// hold the lease number messages one after the other.
func (b *Bus) place(ctx context.Context) (more bool, err error) {
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		var head int64
		if err := tx.QueryRow(`SELECT position FROM event_cursor WHERE name = 'head' /*for update*/`).Scan(&head); err != nil {
			return err
		}
		n, err := tx.Exec(`
			UPDATE event SET position = $1 + s.n
			  FROM (SELECT id, row_number() OVER (ORDER BY id) AS n
			          FROM event WHERE position IS NULL ORDER BY id LIMIT $2) AS s
			 WHERE event.id = s.id`, head, batch)
		if err != nil || n == 0 {
			return err
		}
		if _, err := tx.Exec(`UPDATE event_cursor SET position = $1 WHERE name = 'head'`, head+n); err != nil {
			return err
		}
		more = n == batch
		tx.Wake(topicPlaced, everybody)
		return nil
	})
	return more, err
}

func (b *Bus) deliver(ctx context.Context, s subscriber) (more bool, err error) {
	var at int64
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`
			INSERT INTO event_cursor (name, position)
			SELECT $1, position FROM event_cursor WHERE name = 'head'
			ON CONFLICT (name) DO NOTHING`, s.name); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT position FROM event_cursor WHERE name = $1`, s.name).Scan(&at)
	})
	if err != nil {
		return false, err
	}
	messages, err := b.Read(ctx, at, batch)
	if err != nil || len(messages) == 0 {
		return false, err
	}
	var fit []Message
	for _, m := range messages {
		if matches(s.bindings, m) {
			fit = append(fit, m)
		}
	}
	if len(fit) > 0 {
		if err := s.handle(ctx, fit); err != nil {
			return false, fmt.Errorf("subscriber %s: messages %d to %d: %w", s.name, fit[0].Position, fit[len(fit)-1].Position, err)
		}
	}
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE event_cursor SET position = $2 WHERE name = $1`, s.name, messages[len(messages)-1].Position)
		return err
	})
	return len(messages) == batch, err
}

// Read returns up to limit messages after a position, in order.
func (b *Bus) Read(ctx context.Context, after int64, limit int) (list []Message, err error) {
	err = b.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`
			SELECT position, exchange, routing_key, cc, payload, created FROM event
			 WHERE position > $1 ORDER BY position LIMIT $2`, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var m Message
			var cc, payload string
			if err := rows.Scan(&m.Position, &m.Exchange, &m.RoutingKey, &cc, &payload, &m.Created); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(cc), &m.CC); err != nil {
				return fmt.Errorf("message %d: %w", m.Position, err)
			}
			m.Payload = json.RawMessage(payload)
			list = append(list, m)
		}
		return rows.Err()
	})
	return list, err
}

// Head returns the position of the latest message, and a channel that receives
// when there are later ones. It is for those who want to know what happens from
// now on and lose nothing by missing what was before.
func (b *Bus) Head(ctx context.Context) (head int64, more <-chan struct{}, err error) {
	more = b.db.Waits().Signal(topicPlaced)
	_, head, err = b.span(ctx)
	return head, more, err
}

// span returns the oldest position that is still kept and the newest.
func (b *Bus) span(ctx context.Context) (oldest, head int64, err error) {
	err = b.db.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(`SELECT position FROM event_cursor WHERE name = 'head'`).Scan(&head); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT coalesce(min(position), $1) FROM event`, head+1).Scan(&oldest)
	})
	return oldest, head, err
}

func (b *Bus) expire(ctx context.Context) (more bool, err error) {
	// The cursor of a subscriber that is no more does not count.
	readers := []string{"head"}
	for _, s := range b.subscribers {
		readers = append(readers, s.name)
	}
	err = b.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			DELETE FROM event WHERE id IN (
			  SELECT id FROM event
			   WHERE position <= (SELECT min(position) FROM event_cursor WHERE name IN (SELECT value FROM json_each($3)))
			     AND created < $1
			   ORDER BY position LIMIT $2)`, timestamp.Now().Add(-Retention), 10*batch, readers)
		more = n == 10*batch
		return err
	})
	return more, err
}
