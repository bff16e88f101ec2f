package event

import (
	"context"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/store"
)

// A subscriber reads the log for a handler, on one replica at a time. Its
// cursor is in the database; here is what of it was not written yet, since
// passing over what nobody wants is no reason to write.
type subscriber struct {
	bus     *Bus
	name    string
	matcher *Matcher // nil fits everything
	handle  func(context.Context, []Message) error

	at    int64 // up to which messages were handled or passed over, or unknown
	saved int64 // the cursor in the database
	asked time.Time
}

const (
	unknown = -1

	// While the loop runs here a pass comes at least every fallback. After a
	// longer pause another replica may have had it.
	cursorTrust = fallback + 5*time.Second

	// passedOver is how many messages that nobody wants are passed over before
	// it is written down.
	passedOver = 10_000
)

func (s *subscriber) deliver(ctx context.Context) (more bool, err error) {
	now := time.Now()
	if s.at == unknown || now.Sub(s.asked) > cursorTrust {
		if err := s.load(ctx); err != nil {
			return false, err
		}
	}
	s.asked = now
	list, more, err := s.bus.tail.after(ctx, s.at, batch)
	if err != nil {
		return false, err
	}
	if len(list) == 0 {
		if s.at > s.saved {
			return false, s.save(ctx)
		}
		return false, nil
	}
	if lost := list[0].Position - s.at - 1; lost > 0 {
		s.bus.log.Error("messages that a subscriber has not read are gone: it was away for longer than they are kept", "subscriber", s.name, "messages", lost)
	}
	var fit []Message
	for _, e := range list {
		if s.matcher == nil || s.matcher.Matches(e.Message) {
			fit = append(fit, e.Message)
		}
	}
	if len(fit) > 0 {
		if err := s.handle(ctx, fit); err != nil {
			return false, fmt.Errorf("subscriber %s: messages %d to %d: %w", s.name, fit[0].Position, fit[len(fit)-1].Position, err)
		}
	}
	s.at = list[len(list)-1].Position
	if len(fit) > 0 || s.at-s.saved > passedOver {
		err = s.save(ctx)
	}
	return more, err
}

// load reads the cursor, and makes that of a new subscriber.
func (s *subscriber) load(ctx context.Context) error {
	return s.bus.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`
			INSERT INTO event_cursor (name, position)
			SELECT $1, position FROM event_head WHERE name = 'head'
			ON CONFLICT (name) DO NOTHING`, s.name); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT position FROM event_cursor WHERE name = $1`, s.name).Scan(&s.saved); err != nil {
			return err
		}
		s.at = s.saved
		return nil
	})
}

// save moves the cursor, unless another replica has moved it: then what was
// handled here was handled there too, and reading goes on from there.
func (s *subscriber) save(ctx context.Context) error {
	at, saved := s.at, s.saved
	s.at = unknown // in case of an error
	var n int64
	if err := s.bus.db.Do(ctx, func(tx *store.Tx) (err error) {
		n, err = tx.Exec(`UPDATE event_cursor SET position = $3 WHERE name = $1 AND position = $2`, s.name, saved, at)
		return err
	}); err != nil {
		return err
	}
	if n == 1 {
		s.at, s.saved = at, at
	}
	return nil
}
