// Package event carries what happened to those who want to know.
//
// # Publishing
//
// A service publishes messages in the transaction that causes them (PublishAll
// writes one row, however many there are), so a message exists exactly if its
// cause does: the transactional outbox. One loop gives committed messages their
// position in a log without gaps (log.go); from then on everything is reading
// that log.
//
// Order is that of the log: messages about one task stand in the order of its
// transactions. The log is kept for Retention; a reader that comes back later
// is told about the gap.
//
// # Reading
//
// A process reads a message from the database once, and not at all if it has
// published it and places it (stash.go): the latest part of the log is in its
// memory (tail.go), and who is no further behind than that reads there. Durable
// subscribers (Subscribe) keep a cursor in the database and get each message at
// least once, in order. Streams (stream.go), over server-sent events or WebSocket,
// carry the cursor themselves, as the id of each message, and resume where they
// broke off. One that is slow is not waited for, nor is anything kept for it: it
// reads the log from where it is.
//
// Package event/rabbit is a durable subscriber that passes messages on to
// RabbitMQ.
package event

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
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

	placePace = 20 * time.Millisecond // see loop.Loop

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
	subscribers []*subscriber
	placing     sync.Mutex
	absent      map[int64]time.Time // of batches; who places holds placing
	stash       stash
	tail        *tail
	unsaved     chan struct{} // receives when a subscriber has passed over something
	hub         *hub
}

// New opens the log, creating its tables where they do not exist.
func New(ctx context.Context, db *store.DB, log *slog.Logger) (*Bus, error) {
	if err := db.Migrate(ctx, "event", migrations); err != nil {
		return nil, fmt.Errorf("event: migrate: %w", err)
	}
	b := &Bus{db: db, log: log, absent: map[int64]time.Time{}, unsaved: make(chan struct{}, 1)}
	b.stash.batches = map[int64]published{}
	b.tail = newTail(b.read, b.span)
	b.tail.news = db.Waits().Signal(topicPlaced)
	b.hub = newHub(b)
	return b, nil
}

// A Message is one event in the log. It is shared by all that read it: nobody
// writes to it.
type Message struct {
	Position   int64           `json:"-"`
	Exchange   string          `json:"exchange"`
	RoutingKey string          `json:"routingKey"`
	CC         []string        `json:"cc"` // further keys it matches: the task's routes
	Payload    json.RawMessage `json:"payload"`
	Created    timestamp.Time  `json:"created"`
}

// Outgoing is a message to be published. Payload is marshalled to JSON.
type Outgoing struct {
	Exchange   string
	RoutingKey string
	CC         []string
	Payload    any
}

// Topic is the full name of a service's exchange,
// "exchange/taskcluster-queue/v1/task-pending".
func Topic(service, version string, x api.Exchange) string {
	return "exchange/taskcluster-" + service + "/" + version + "/" + x.Exchange
}

// Publish is PublishAll of one message.
func (b *Bus) Publish(tx *store.Tx, exchange, routingKey string, cc []string, payload any) error {
	return b.PublishAll(tx, []Outgoing{{exchange, routingKey, cc, payload}})
}

// PublishAll writes messages in tx: they are sent, in this order, if tx commits
// and never were if not. It is one statement for each MiB of them, and costs
// little more for many messages than for one.
func (b *Bus) PublishAll(tx *store.Tx, list []Outgoing) error {
	if len(list) == 0 {
		return nil
	}
	var text strings.Builder
	for start, i := 0, 0; i < len(list); i++ {
		if err := list[i].encode(&text); err != nil {
			return fmt.Errorf("event: publish on %s: %w", list[i].Exchange, err)
		}
		count := i + 1 - start
		if text.Len() < maxBatchSize && count < maxBatchCount && i+1 < len(list) {
			continue
		}
		if err := b.insert(tx, published{text.String(), count, timestamp.Now()}); err != nil {
			return fmt.Errorf("event: publish %d messages: %w", count, err)
		}
		text.Reset()
		start = i + 1
	}
	tx.Wake(topicNew, 1)
	return nil
}

func (b *Bus) insert(tx *store.Tx, p published) error {
	var id int64
	tx.AfterCommit(func() { b.stash.put(id, p) })
	return tx.Later(`INSERT INTO event_batch (count, size, created, messages) VALUES ($1, $2, $3, $4) RETURNING id`,
		[]any{p.count, len(p.text), p.created, p.text}, func(row store.Scanner) error { return row.Scan(&id) })
}

// Subscribe delivers every message that fits a binding to handle, or every
// message at all if bindings is nil, at least once and in order, across
// restarts: name identifies the subscriber's cursor. What is there at the same
// time comes in one call. A handler that fails is called again with the same
// messages after a back-off, and holds up only its own subscription. A new
// subscriber starts with the messages published after its first start. Call it
// before Loops.
//
// Who has bindings that change subscribes to everything and asks a Matcher,
// which it compiles anew when they do.
func (b *Bus) Subscribe(name string, bindings []Binding, handle Handler) {
	s := &subscriber{bus: b, name: name, handle: handle, at: unknown}
	if bindings != nil {
		s.matcher = Compile(bindings)
	}
	b.subscribers = append(b.subscribers, s)
}

// Loops are the work of placing, delivering and expiring messages.
func (b *Bus) Loops() []loop.Loop {
	loops := []loop.Loop{
		{
			Name: "event.place", Doc: "Gives committed messages their position in the log.",
			When: loop.Every(fallback), Wake: b.db.Waits().Signal(topicNew), Pace: placePace, Pass: b.place,
		},
		{
			Name: "event.expire", Doc: "Deletes messages that everybody has read and that are older than a day.",
			When: loop.Every(10 * time.Minute), Pass: b.expire,
		},
		{
			Name: "event.recover", Doc: "Finds messages of transactions that took too long for event.place to wait for.",
			When: loop.Every(time.Hour), Pass: b.recover,
		},
		{
			Name: "event.cursors", Doc: "Writes down how far the subscribers of this replica have come.",
			When: loop.Every(fallback), Wake: b.unsaved, Pass: b.saveAtPace, EveryReplica: true,
		},
	}
	for _, s := range b.subscribers {
		loops = append(loops, loop.Loop{
			Name: "event.deliver." + s.name, Doc: "Delivers messages to " + s.name + ".",
			When: loop.Every(fallback), Wake: b.db.Waits().Signal(topicPlaced), Pass: s.deliver,
		})
	}
	return loops
}

// Read returns up to limit messages after a position, in order, and fewer only
// if there are no more. They are shared: do not write to them.
func (b *Bus) Read(ctx context.Context, after int64, limit int) ([]Message, error) {
	var list []Message
	for len(list) < limit {
		entries, err := b.tail.fresh(ctx, after, limit-len(list))
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			list = append(list, e.Message)
		}
		after = list[len(list)-1].Position
	}
	return list, nil
}

// Next returns up to limit messages after a position, as Read does, but only
// those that this process has heard of: for who is woken when there are more, and
// then asks again. more tells that there may be more by now.
func (b *Bus) Next(ctx context.Context, after int64, limit int) (list []Message, more bool, err error) {
	entries, more, err := b.tail.heard(ctx, after, limit)
	for _, e := range entries {
		list = append(list, e.Message)
	}
	return list, more, err
}

// Head returns the position of the latest message, and a channel that receives
// when there are later ones. It is for those who want to know what happens from
// now on and lose nothing by missing what was before.
func (b *Bus) Head(ctx context.Context) (head int64, more <-chan struct{}, err error) {
	more = b.db.Waits().Signal(topicPlaced)
	_, head, err = b.span(ctx)
	return head, more, err
}
