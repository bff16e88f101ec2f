package sentry

import (
	"context"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A pace has all replicas take turns: a row says when the next turn is.
type pace struct{ db *store.DB }

var _ sentryapi.Pace = pace{}

const (
	apart       = 500 * time.Millisecond // are calls: there are at most two a second
	longestTurn = time.Minute            // is how long a call waits for its turn
)

// Turn implements sentryapi.Pace.
func (p pace) Turn(ctx context.Context) error {
	var turn timestamp.Time
	far := false
	err := p.db.Do(ctx, func(tx *store.Tx) error {
		now := timestamp.Now()
		if _, err := tx.Exec(`INSERT INTO sentry_pace (id, next, held) VALUES (1, 0, 0) ON CONFLICT (id) DO NOTHING`); err != nil {
			return err
		}
		var next, held timestamp.Time
		if err := tx.QueryRow(`SELECT next, held FROM sentry_pace WHERE id = 1 /*for update*/`).Scan(&next, &held); err != nil {
			return err
		}
		if next > now.Add(2*longestTurn) { // nobody has waited so long: a clock was wrong
			next = 0
		}
		if held > now.Add(sentryapi.MaxHold+longestTurn) { // likewise
			held = 0
		}
		turn = max(now, next, held)
		if far = turn > now.Add(longestTurn); far {
			return nil
		}
		_, err := tx.Exec(`UPDATE sentry_pace SET next = $1 WHERE id = 1`, turn.Add(apart))
		return err
	})
	switch {
	case err != nil:
		return fmt.Errorf("waiting for a turn: %w", err)
	case far:
		return fmt.Errorf("Sentry is called twice a second at most, and the next turn is at %s; try again then", turn)
	}
	select {
	case <-time.After(time.Until(turn.Time())):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Hold implements sentryapi.Pace.
func (p pace) Hold(ctx context.Context, until time.Time) error {
	return p.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE sentry_pace SET held = $1 WHERE id = 1 AND held < $1`, timestamp.Of(until))
		return err
	})
}
