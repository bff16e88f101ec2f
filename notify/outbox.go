package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Window is how long the same content for the same address is not accepted
// again.
const Window = time.Hour

const (
	ratePeriod = 10 * time.Minute
	emailLimit = 50  // emails for an address in a ratePeriod
	roomLimit  = 600 // messages for a room or a channel: one a second, which is what Slack takes

	patience     = 24 * time.Hour // until a message is given up
	firstRetry   = 30 * time.Second
	lastRetry    = time.Hour
	sendTimeout  = 30 * time.Second // of an attempt
	reservation  = 2 * time.Minute  // until an attempt that nobody finished counts as lost
	pollInterval = 30 * time.Second // looks for what is due again; what is new wakes the loop
	deliveries   = 50               // in a pass
	atOnce       = 4                // of them
	passLimit    = (deliveries/atOnce + 2) * sendTimeout
	batch        = 500
)

// A verdict says what became of a message when it was asked for, and an
// outcome what became of it later; both are values of the metric's label.
type verdict string

const (
	accepted   verdict = "accepted"
	denylisted verdict = "denylisted"
	duplicate  verdict = "duplicate"
	limited    verdict = "limited"
)

const (
	sent    = "sent"
	retried = "retried"
	refusal = "refused"
	givenUp = "given-up"
)

// A waiting message is a row of the outbox.
type waiting struct {
	id, address, digest string
	kind                kind
	content             []byte
	created, due        timestamp.Time
	attempts            int
}

func now() timestamp.Time { return timestamp.Now() }

// accept writes a message that is right in itself (message.check) into the
// outbox, due at a time, or publishes it; unless its address is not to get it.
func (n *Notify) accept(tx *store.Tx, m message, due timestamp.Time) (*waiting, verdict, error) {
	w, v, err := n.judge(tx, m)
	if err != nil {
		return nil, "", err
	}
	tx.AfterCommit(func() {
		n.counts.WithLabelValues(string(m.kind()), string(v)).Inc()
		if v != accepted {
			n.log.Info("notification not sent", "type", m.kind(), "address", m.address(), "reason", v)
		}
	})
	if v != accepted {
		return nil, v, nil
	}
	if p, ok := m.(publication); ok {
		return nil, v, n.publish(tx, p)
	}
	if w.content, err = json.Marshal(m); err != nil {
		return nil, "", err
	}
	w.due = due
	if _, err := tx.Exec(`
		INSERT INTO notify_message (message_id, kind, address, mailbox, content, digest, created, due, attempts, problem)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, '')`,
		w.id, w.kind, w.address, w.kind.mailbox(w.address), w.content, w.digest, w.created, w.due); err != nil {
		return nil, "", err
	}
	if due <= w.created {
		tx.Wake(m.kind().topic(), 1)
	}
	return w, v, nil
}

// judge tells whether a message is accepted, and remembers that it was.
func (n *Notify) judge(tx *store.Tx, m message) (*waiting, verdict, error) {
	k, t := m.kind(), now()
	mailbox := k.mailbox(m.address())
	if denied, err := onDenylist(tx, k, mailbox); err != nil || denied {
		return nil, denylisted, err
	}
	sum, err := digest(m)
	if err != nil {
		return nil, "", err
	}
	// The row decides among calls at the same time: one of them writes it.
	fresh, err := tx.Exec(`
		INSERT INTO notify_recent (digest, since) VALUES ($1, $2)
		ON CONFLICT (digest) DO UPDATE SET since = excluded.since WHERE notify_recent.since <= $3`,
		sum, t, t.Add(-Window))
	if err != nil || fresh == 0 {
		return nil, duplicate, err
	}
	w := &waiting{id: slugid.New(), kind: k, address: m.address(), digest: sum, created: t}
	limit := n.limits[k]
	if limit == 0 {
		return w, accepted, nil
	}
	var since timestamp.Time
	var count int
	err = tx.QueryRow(`
		INSERT INTO notify_rate (kind, mailbox, since, messages) VALUES ($1, $2, $3, 1)
		ON CONFLICT (kind, mailbox) DO UPDATE SET
		  messages = CASE WHEN notify_rate.since <= $4 THEN 1 ELSE notify_rate.messages + 1 END,
		  since = CASE WHEN notify_rate.since <= $4 THEN excluded.since ELSE notify_rate.since END
		  WHERE notify_rate.since <= $4 OR notify_rate.messages < $5
		RETURNING since, messages`, k, mailbox, t, t.Add(-ratePeriod), limit).Scan(&since, &count)
	if errors.Is(err, store.ErrNotFound) {
		return nil, limited, forget(tx, sum)
	}
	if l, ok := m.(*letter); ok && err == nil {
		l.Silence = 0
		if count == limit {
			l.Silence = since.Add(ratePeriod)
		}
	}
	return w, accepted, err
}

// forget has the same content accepted again.
func forget(tx *store.Tx, digest string) error {
	_, err := tx.Exec(`DELETE FROM notify_recent WHERE digest = $1`, digest)
	return err
}

// deliver sends messages of a kind that are due. It ends with the first error
// that does not concern one message or address: the loop comes back later, and
// whoever is in trouble is not asked for every message.
func (n *Notify) deliver(ctx context.Context, k kind) (more bool, err error) {
	list, err := n.dueOf(ctx, k)
	if err != nil {
		return false, err
	}
	var mu sync.Mutex
	var next int
	take := func() *waiting {
		mu.Lock()
		defer mu.Unlock()
		if err != nil || next == len(list) {
			return nil
		}
		next++
		return &list[next-1]
	}
	var senders sync.WaitGroup
	for range min(atOnce, len(list)) {
		senders.Go(func() {
			for w := take(); w != nil; w = take() {
				if e := n.deliverOne(ctx, w); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
				}
			}
		})
	}
	senders.Wait()
	return len(list) == deliveries, err
}

func (n *Notify) dueOf(ctx context.Context, k kind) (list []waiting, err error) {
	err = n.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`
			SELECT message_id, address, content, digest, created, due, attempts FROM notify_message
			 WHERE kind = $1 AND due <= $2 ORDER BY due LIMIT $3`, k, now(), deliveries)
		if err != nil {
			return err
		}
		for rows.Next() {
			w := waiting{kind: k}
			var content json.RawMessage
			if err := rows.Scan(&w.id, &w.address, &content, &w.digest, &w.created, &w.due, &w.attempts); err != nil {
				return err
			}
			w.content = content
			list = append(list, w)
		}
		return rows.Err()
	})
	return list, err
}

// deliverOne takes a message for itself and makes an attempt. Its error is one
// that other messages will meet, too.
func (n *Notify) deliverOne(ctx context.Context, w *waiting) error {
	mine := false
	until := now().Add(reservation)
	err := n.db.Do(ctx, func(tx *store.Tx) error {
		taken, err := tx.Exec(`UPDATE notify_message SET due = $3 WHERE message_id = $1 AND due = $2`, w.id, w.due, until)
		if mine = taken == 1; err != nil || !mine {
			return err
		}
		// It may have been accepted while its address was put on the denylist.
		denied, err := onDenylist(tx, w.kind, w.kind.mailbox(w.address))
		if err != nil || !denied {
			return err
		}
		mine = false
		return remove(tx, w.id)
	})
	if err != nil || !mine {
		return err // another replica has it, or it is no more
	}
	w.due = until
	problem := n.attempt(ctx, w, sendTimeout)
	if ctx.Err() != nil && problem != nil {
		return context.Cause(ctx) // broken off by us; the reservation ends by itself
	}
	if err := n.conclude(ctx, w, problem); err != nil {
		return err
	}
	if _, delay := errors.AsType[*Delay](problem); problem == nil || delay || refused(problem) != nil {
		return nil
	}
	return fmt.Errorf("notify: sending to %s %s: %w", w.kind, w.address, problem)
}

// attempt sends a message. One that makes the sender panic is dropped, before it
// does so to this process again and again.
func (n *Notify) attempt(ctx context.Context, w *waiting, timeout time.Duration) (err error) {
	defer func() {
		if r := recover(); r != nil {
			n.log.Error("a message makes its sender panic", "type", w.kind, "message", w.id, "panic", r, "stack", string(debug.Stack()))
			err = &Refusal{"it cannot be sent, for reasons that are in the server's log"}
		}
	}()
	send := n.senders[w.kind]
	if send == nil {
		return errors.New(w.kind.unconfigured())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	err = send(ctx, w.id, w.content)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// conclude writes down how an attempt ended. What was sent is in the books even
// if the process is being stopped.
func (n *Notify) conclude(ctx context.Context, w *waiting, problem error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendTimeout)
	defer cancel()
	log := n.log.With("type", w.kind, "address", w.address, "message", w.id)
	outcome := sent
	delay, _ := errors.AsType[*Delay](problem)
	retry := now().Add(backoff(w.attempts))
	err := n.db.Do(ctx, func(tx *store.Tx) error {
		if problem == nil {
			return remove(tx, w.id)
		}
		if refused(problem) != nil {
			outcome = refusal
			return errors.Join(remove(tx, w.id), forget(tx, w.digest))
		}
		outcome = retried
		if _, err := tx.Exec(`UPDATE notify_message SET due = $2, attempts = attempts + 1, problem = $3 WHERE message_id = $1`,
			w.id, retry, plain(problem.Error())); err != nil {
			return err
		}
		if delay == nil || delay.After <= 0 {
			return nil
		}
		// What the service asks for holds for all that wait for the address.
		_, err := tx.Exec(`UPDATE notify_message SET due = $3 WHERE kind = $1 AND mailbox = $2 AND due < $3`,
			w.kind, w.kind.mailbox(w.address), now().Add(min(delay.After, lastRetry)))
		return err
	})
	if err != nil {
		return fmt.Errorf("notify: write down the attempt to send message %s: %w", w.id, err)
	}
	n.counts.WithLabelValues(string(w.kind), outcome).Inc()
	switch outcome {
	case sent:
		log.Info("notification sent")
	case refusal:
		log.Warn("notification dropped, as it was refused", "err", problem)
	default:
		log.Warn("notification not sent yet", "err", problem, "attempts", w.attempts+1)
	}
	return nil
}

func remove(tx *store.Tx, id string) error {
	_, err := tx.Exec(`DELETE FROM notify_message WHERE message_id = $1`, id)
	return err
}

// backoff grows twofold with the attempts that failed, with a jitter that keeps
// those apart that failed together.
func backoff(attempts int) time.Duration {
	d := min(firstRetry<<min(attempts, 20), lastRetry)
	return d/2 + rand.N(d/2)
}

// plain makes an error's text fit for the database.
func plain(s string) string {
	return clip(strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?"), 1000)
}

// expire gives messages up, and forgets what no decision needs any more. The
// statements for the latter look at the time twice, in case a row is written anew.
func (n *Notify) expire(ctx context.Context) (more bool, err error) {
	type lost struct {
		waiting
		problem string
	}
	var list []lost
	err = n.db.Do(ctx, func(tx *store.Tx) error {
		list, more = nil, false
		t := now()
		rows, err := tx.Query(`
			DELETE FROM notify_message WHERE message_id IN (SELECT message_id FROM notify_message WHERE created <= $1 ORDER BY created LIMIT $2)
			RETURNING message_id, kind, address, created, attempts, problem`, t.Add(-patience), batch)
		if err != nil {
			return err
		}
		for rows.Next() {
			var l lost
			if err := rows.Scan(&l.id, &l.kind, &l.address, &l.created, &l.attempts, &l.problem); err != nil {
				return err
			}
			list = append(list, l)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		recent, err := tx.Exec(`DELETE FROM notify_recent WHERE since <= $1 AND digest IN (SELECT digest FROM notify_recent WHERE since <= $1 LIMIT $2)`, t.Add(-Window), batch)
		if err != nil {
			return err
		}
		rates := int64(0)
		for k := range n.limits {
			d, err := tx.Exec(`
				DELETE FROM notify_rate WHERE kind = $1 AND since <= $2 AND mailbox IN (
				  SELECT mailbox FROM notify_rate WHERE kind = $1 AND since <= $2 LIMIT $3)`, k, t.Add(-ratePeriod), batch)
			if err != nil {
				return err
			}
			rates = max(rates, d)
		}
		more = len(list) == batch || recent == batch || rates == batch
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, l := range list {
		n.counts.WithLabelValues(string(l.kind), givenUp).Inc()
		n.log.Error("notification given up after a day", "type", l.kind, "address", l.address, "message", l.id,
			"created", l.created, "attempts", l.attempts, "err", l.problem)
	}
	return more, nil
}
