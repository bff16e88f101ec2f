package event

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/store"
)

// A Handler is given the messages of a subscription. If it fails, it is called
// with them again.
//
// acted says that something was done which is not to be done again if it can be
// helped, as sending an email is: that the messages were handled is then written
// down at once. Otherwise it is written down within about a second, for all
// subscribers of a process together, and after a crash what was not comes again.
// So who writes down a position of its own, together with what it does, has not
// acted.
type Handler func(ctx context.Context, list []Message) (acted bool, err error)

// A subscriber reads the log for a handler, on one replica at a time. Its
// cursor is in the database; here is what of it was not written yet.
type subscriber struct {
	bus     *Bus
	name    string
	matcher *Matcher // nil fits everything
	handle  Handler
	asked   time.Time // when the last pass began

	mu    sync.Mutex // held while the cursor is read or written
	at    int64      // up to which messages were handled or passed over, or unknown
	saved int64      // the cursor in the database
}

const (
	unknown = -1

	// While the loop runs here a pass comes at least every fallback. After a
	// longer pause another replica may have had it.
	cursorTrust = fallback + 5*time.Second

	// saveInterval is how far apart the cursors are written of those that have
	// not acted.
	saveInterval = time.Second

	saveTimeout = 5 * time.Second
)

func (s *subscriber) deliver(ctx context.Context) (more bool, err error) {
	from, err := s.position(ctx)
	if err != nil {
		return false, err
	}
	list, more, err := s.bus.tail.heard(ctx, from, batch)
	if err != nil || len(list) == 0 {
		return false, err
	}
	if lost := list[0].Position - from - 1; lost > 0 {
		s.bus.log.Error("messages that a subscriber has not read are gone: it was away for longer than they are kept", "subscriber", s.name, "messages", lost)
	}
	var fit []Message
	for _, e := range list {
		if s.matcher == nil || s.matcher.Matches(e.Message) {
			fit = append(fit, e.Message)
		}
	}
	acted := false
	if len(fit) > 0 {
		if acted, err = s.handle(ctx, fit); err != nil {
			return false, fmt.Errorf("subscriber %s: messages %d to %d: %w", s.name, fit[0].Position, fit[len(fit)-1].Position, err)
		}
	}
	s.move(from, list[len(list)-1].Position)
	if acted || ctx.Err() != nil { // nobody else will
		return more, s.bus.save(ctx, s)
	}
	select {
	case s.bus.unsaved <- struct{}{}:
	default:
	}
	return more, nil
}

// position is where a pass begins. If another replica may have moved the cursor,
// what was handled here is written down first: unless it was moved, that counts.
func (s *subscriber) position(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.at == unknown || now.Sub(s.asked) > cursorTrust {
		if err := s.bus.saveLocked(ctx, []*subscriber{s}); err != nil {
			return 0, err
		}
		if err := s.load(ctx); err != nil {
			return 0, err
		}
	}
	s.asked = now
	return s.at, nil
}

// move notes that messages were handled, unless it has turned out meanwhile that
// another replica has moved the cursor.
func (s *subscriber) move(from, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == from {
		s.at = to
	}
}

// load reads the cursor, and makes that of a new subscriber.
func (s *subscriber) load(ctx context.Context) error {
	return s.bus.db.Do(ctx, func(tx *store.Tx) error {
		if err := tx.Later(`
			INSERT INTO event_cursor (name, position)
			SELECT $1, position FROM event_head WHERE name = 'head'
			ON CONFLICT (name) DO NOTHING`, []any{s.name}, nil); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT position FROM event_cursor WHERE name = $1`, s.name).Scan(&s.saved); err != nil {
			return err
		}
		s.at = s.saved
		return nil
	})
}

// saveAtPace writes down, for all subscribers of this process at once, what they
// have passed over: a moment after they have, and when the process stops.
func (b *Bus) saveAtPace(ctx context.Context) (more bool, err error) {
	if !b.hasUnsaved() {
		return false, nil
	}
	select {
	case <-time.After(saveInterval):
	case <-ctx.Done():
	}
	return false, b.save(ctx, b.subscribers...)
}

func (b *Bus) hasUnsaved() bool {
	for _, s := range b.subscribers {
		s.mu.Lock()
		unsaved := s.at > s.saved
		s.mu.Unlock()
		if unsaved {
			return true
		}
	}
	return false
}

// save moves cursors, unless another replica has moved them further: then what
// was handled here was handled there too, and reading goes on from there. It does
// not end with ctx, since what was handled would come again.
func (b *Bus) save(ctx context.Context, list ...*subscriber) error {
	for _, s := range list {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	return b.saveLocked(ctx, list)
}

func (b *Bus) saveLocked(ctx context.Context, list []*subscriber) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
	defer cancel()
	var moved []*subscriber
	var rows [][]any
	for _, s := range list {
		if s.at > s.saved {
			moved, rows = append(moved, s), append(rows, []any{s.name, s.at})
		}
	}
	if len(moved) == 0 {
		return nil
	}
	var done map[string]bool
	if err := b.db.Do(ctx, func(tx *store.Tx) error {
		done = map[string]bool{}
		return tx.LaterRows(`
			UPDATE event_cursor SET position = v.column2
			  FROM (VALUES /*row*/(CAST($1 AS TEXT), CAST($2 AS BIGINT))/*row*/) AS v
			 WHERE name = v.column1 AND position <= v.column2 RETURNING name`, rows, func(row store.Scanner) error {
			var name string
			if err := row.Scan(&name); err != nil {
				return err
			}
			done[name] = true
			return nil
		})
	}); err != nil {
		return fmt.Errorf("write down how far subscribers are: %w", err)
	}
	for _, s := range moved {
		if done[s.name] {
			s.saved = s.at
		} else {
			s.at = unknown
		}
	}
	return nil
}
