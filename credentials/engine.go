package credentials

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	leaseFor   = 45 * time.Second
	leaseRenew = 10 * time.Second
	leaseSpare = 10 * time.Second // before its end, nothing is done elsewhere any more

	stepLimit  = 2 * time.Minute // of one attempt
	atATime    = 8               // rotations, of each replica
	maxBackoff = 5 * time.Minute

	retryFailed    = time.Hour // after a rotation that failed; doubled each time
	maxRetryFailed = 24 * time.Hour

	retryForced    = time.Minute // after one that was forced, likewise
	maxRetryForced = 10 * time.Minute
)

// errLost is what a process gets that has lost a rotation to another one.
var errLost = errors.New("credentials: another replica has taken the rotation over")

// rotate is one pass of the loop credentials.rotate.
func (c *Credentials) rotate(ctx context.Context) (more bool, err error) {
	if err := c.enrol(ctx); err != nil {
		return false, err
	}
	var due []*rotation
	err = c.db.View(ctx, func(tx *store.Tx) (err error) {
		now := timestamp.Now()
		due, err = rotations(tx, `state = 'running' AND due <= $1 AND lease_until <= $1 ORDER BY due LIMIT 500`, now)
		return err
	})
	if err != nil {
		return false, err
	}
	var working sync.WaitGroup
	slots := make(chan struct{}, atATime)
	failed := make(chan error, len(due))
	for _, r := range due {
		d := c.defined[r.credential]
		if d == nil || d.wrong != "" {
			continue // its state says so
		}
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			if err := c.advance(ctx, d, r); err != nil && !errors.Is(err, errLost) {
				failed <- fmt.Errorf("credential %s: %w", r.credential, err)
			}
		})
	}
	working.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	return false, errors.Join(all...)
}

// enrol has a row for each definition, works out when they are due, and begins the
// rotations of those that are.
func (c *Credentials) enrol(ctx context.Context) error {
	have, running := map[string]*row{}, map[string]bool{}
	err := c.db.View(ctx, func(tx *store.Tx) error {
		clear(have)
		clear(running)
		rows, err := tx.Query(`SELECT ` + rowColumns + ` FROM credential`)
		if err != nil {
			return err
		}
		for rows.Next() {
			r := &row{}
			if err := r.scan(rows); err != nil {
				return err
			}
			have[r.name] = r
		}
		if err := rows.Err(); err != nil {
			return err
		}
		busy, err := tx.Column(`SELECT credential FROM credential_rotation WHERE state = 'running'`)
		for _, name := range busy {
			running[name] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	now := timestamp.Now()
	for _, name := range c.names {
		d := c.defined[name]
		if d.wrong != "" {
			continue
		}
		r := have[name]
		if r != nil && r.plan == d.planText() && r.kind == d.Kind && r.place == d.place && (running[name] || !r.due(now)) {
			continue
		}
		if err := c.begin(ctx, d, "", "", false); err != nil {
			return err
		}
	}
	return nil
}

// planText tells one plan from another; it is also what people are shown.
func (d *defined) planText() string { return d.Plan.String() }

// due tells that a credential is to be rotated: it has no version and nobody says
// when it is tried again, or its time has come.
func (r *row) due(now timestamp.Time) bool {
	if r.current == "" && r.failures == 0 {
		return true
	}
	return !r.next.IsZero() && r.next <= now
}

var errRunning = errors.New("credentials: a rotation is under way")

// begin begins a rotation: because somebody asks for it, for a reason, or with "" if
// one is due. The version that it makes is written down with it.
func (c *Credentials) begin(ctx context.Context, d *defined, reason, by string, forced bool) error {
	return cut.Around(ctx, "journal begin", func() error {
		return c.db.Do(ctx, func(tx *store.Tx) error { return c.beginIn(tx, d, reason, by, forced) })
	})
}

func (c *Credentials) beginIn(tx *store.Tx, d *defined, reason, by string, forced bool) error {
	now := timestamp.Now()
	if _, err := tx.Exec(`INSERT INTO credential (name, kind, place, current, plan, next, failures, trouble, broken, checked, again)
		 VALUES ($1, $2, $3, '', '', 0, 0, '', '', 0, $4) ON CONFLICT (name) DO NOTHING`, d.Name, d.Kind, d.place, false); err != nil {
		return err
	}
	var r row
	if err := r.scan(tx.QueryRow(`SELECT `+rowColumns+` FROM credential WHERE name = $1 /*for update*/`, d.Name)); err != nil {
		return err
	}
	if r.plan != d.planText() || r.kind != d.Kind || r.place != d.place { // it was defined anew
		next := r.next
		if r.plan != d.planText() && r.failures == 0 {
			next = 0
			if r.current != "" {
				var since timestamp.Time
				if err := tx.QueryRow(`SELECT published FROM credential_version WHERE id = $1`, r.current).Scan(&since); err != nil {
					return err
				}
				next = d.Plan.next(d.Name, since)
			}
		}
		if _, err := tx.Exec(`UPDATE credential SET plan = $2, kind = $3, place = $4, next = $5 WHERE name = $1`, d.Name, d.planText(), d.Kind, d.place, next); err != nil {
			return err
		}
		r.next = next
	}
	var running string
	err := tx.QueryRow(`SELECT id FROM credential_rotation WHERE credential = $1 AND state = 'running'`, d.Name).Scan(&running)
	switch {
	case err == nil && reason == "":
		return nil
	case err == nil:
		return errRunning
	case !errors.Is(err, store.ErrNotFound):
		return err
	case reason == "" && !r.due(now):
		return nil // another replica was faster, or there was only something to note
	case reason == "" && r.current == "":
		reason = reasonFirst
	case reason == "":
		reason = reasonSchedule
	}
	if r.again { // one that was forced has failed
		forced, reason = true, reasonRevoke
		if _, err := tx.Exec(`UPDATE credential SET again = $2 WHERE name = $1`, d.Name, false); err != nil {
			return err
		}
	}
	v := &version{id: slugid.New(), credential: d.Name}
	seed := newSeed()
	if _, err := tx.Exec(`INSERT INTO credential_version (id, credential, state, public, sealed, key_id, created, published, disabled, retired, used)
		 VALUES ($1, $2, 'minting', '', $3, $4, $5, 0, 0, 0, 0)`, v.id, d.Name, c.keys.Seal(seed, v.place()), c.keys.Newest(), now); err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO credential_rotation (id, credential, version, reason, by_client, forced, state, step, due, attempt, note, alerted, started, ended, lease, lease_until)
		 VALUES ($1, $2, $3, $4, $5, $6, 'running', $7, $8, 0, '', $9, $8, 0, '', 0)`, slugid.New(), d.Name, v.id, reason, by, forced, string(stepAdopt), now, false)
	tx.AfterCommit(func() {
		c.log.Info("a rotation begins", "credential", d.Name, "version", v.id, "reason", reason, "client", by)
	})
	tx.Wake(topicRotate, store.Everybody)
	return err
}

// advance takes a rotation as far as it goes.
func (c *Credentials) advance(ctx context.Context, d *defined, r *rotation) error {
	lease := c.hold + " " + slugid.New()
	if err := c.journal(ctx, "take", func(tx *store.Tx) error {
		now := timestamp.Now()
		n, err := tx.Exec(`UPDATE credential_rotation SET lease = $2, lease_until = $3 WHERE id = $1 AND state = 'running' AND due <= $4 AND lease_until <= $4`,
			r.id, lease, now.Add(leaseFor), now)
		if err == nil && n == 0 {
			err = errLost
		}
		return err
	}); err != nil {
		return err
	}
	held, end := c.keep(ctx, r.id, lease)
	defer end()
	for {
		list := []*rotation{}
		if err := c.db.View(held, func(tx *store.Tx) (err error) {
			list, err = rotations(tx, `id = $1 AND lease = $2 AND state = 'running'`, r.id, lease)
			return err
		}); err != nil {
			return lost(held, err)
		}
		if len(list) == 0 {
			return errLost
		}
		goesOn, err := c.attempt(held, d, list[0])
		if err != nil || !goesOn {
			return lost(held, err)
		}
	}
}

// lost says that it is for the lost lease that something failed.
func lost(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}

// keep renews a lease until end is called. Its context ends when the lease is lost,
// or might be.
func (c *Credentials) keep(ctx context.Context, id, lease string) (_ context.Context, end func()) {
	held, cancel := context.WithCancelCause(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		until := time.Now().Add(leaseFor)
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for {
			select {
			case <-held.Done():
				return
			case <-tick.C:
			}
			asked := time.Now()
			limited, stop := context.WithDeadlineCause(held, until.Add(-leaseSpare), errLost)
			err := cut.At(limited, "renew")
			if err == nil {
				err = c.db.Do(limited, func(tx *store.Tx) error {
					n, err := tx.Exec(`UPDATE credential_rotation SET lease_until = $3 WHERE id = $1 AND lease = $2`, id, lease, timestamp.Of(asked).Add(leaseFor))
					if err == nil && n == 0 {
						err = errLost
					}
					return err
				})
			}
			stop()
			switch {
			case err == nil:
				until = asked.Add(leaseFor)
			case errors.Is(err, errLost), time.Until(until) <= leaseSpare:
				cancel(errLost)
				return
			}
		}
	})
	return held, func() {
		cancel(nil)
		renewing.Wait()
	}
}

// journal is a transaction on the journal.
func (c *Credentials) journal(ctx context.Context, what string, f func(*store.Tx) error) error {
	return cut.Around(ctx, "journal "+what, func() error { return c.db.Do(ctx, f) })
}

// write changes a rotation that this process holds; it is errLost if it does not.
func (r *rotation) write(tx *store.Tx, set string, args ...any) error {
	n, err := tx.Exec(`UPDATE credential_rotation SET `+set+` WHERE id = $1 AND lease = $2 AND state = 'running'`, append([]any{r.id, r.lease}, args...)...)
	if err == nil && n == 0 {
		err = errLost
	}
	return err
}

// An outcome is what a step has come to.
type outcome struct {
	next   Step           // "" ends the rotation
	wait   timestamp.Time // the step goes on then
	note   string         // what it waits for
	alert  bool           // it has waited for too long
	failed error          // why the rotation fails, where next is ""
	write  func(tx *store.Tx) error
}

// attempt attempts the step that a rotation is at, and tells whether it goes on at
// once.
func (c *Credentials) attempt(ctx context.Context, d *defined, r *rotation) (goesOn bool, err error) {
	began := timestamp.Now()
	if err := c.journal(ctx, string(r.step)+" begins", func(tx *store.Tx) error {
		if err := r.write(tx, `attempt = $3`, r.attempt+1); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO credential_step (rotation, step, attempt, started, ended, outcome, error) VALUES ($1, $2, $3, $4, 0, 'running', '')
			 ON CONFLICT (rotation, step) DO UPDATE SET attempt = excluded.attempt, ended = 0, outcome = 'running', error = ''`, r.id, string(r.step), r.attempt+1, began)
		return err
	}); err != nil {
		return false, err
	}
	limited, stop := context.WithTimeout(ctx, stepLimit)
	out, failure := c.step(limited, d, r)
	stop()
	if ctx.Err() != nil {
		return false, context.Cause(ctx) // the attempt is repeated, here or elsewhere
	}
	if failure != nil {
		out = c.failed(r, failure)
	}
	err = c.journal(ctx, string(r.step)+" ends", func(tx *store.Tx) error { return c.end(tx, d, r, out, failure) })
	if err != nil {
		return false, err
	}
	return out.next != "" && out.wait.IsZero(), nil
}

// failed is what becomes of a rotation one attempt of which has failed.
func (c *Credentials) failed(r *rotation, err error) outcome {
	attempts := int64(0) // no limit
	switch r.step {
	case stepAdopt, stepMint:
		attempts = 12 // over a quarter of an hour
	case stepProve:
		attempts = 7 // over a minute: what was made may not be known everywhere
	}
	if attempts > 0 && (refused(err) || r.attempt+1 >= attempts) {
		return outcome{next: stepWithdraw, note: fmt.Sprintf("%s: %v", r.step, err)}
	}
	return outcome{next: r.step, wait: timestamp.Now().Add(backoff(r.attempt)), note: err.Error(), alert: r.attempt+1 >= 8}
}

// backoff is how long after how many failed attempts one is tried again.
func backoff(before int64) time.Duration {
	d := min(time.Second<<min(before, 16), maxBackoff)
	return d - time.Duration(rand.Int64N(int64(d/4)))
}

// end writes down what an attempt has come to.
func (c *Credentials) end(tx *store.Tx, d *defined, r *rotation, out outcome, failure error) error {
	now := timestamp.Now()
	state, word, text := rotationRunning, "done", ""
	switch {
	case failure != nil:
		word, text = "failed", failure.Error()
	case !out.wait.IsZero() && out.next == r.step:
		word, text = "waiting", out.note
	}
	var attempt int64
	if out.next == r.step && failure != nil {
		attempt = r.attempt + 1
	}
	note, ended := out.note, timestamp.Time(0)
	if out.next == "" {
		state, ended = rotationDone, now
		if out.failed != nil {
			state, note = rotationFailed, out.failed.Error()
		}
	}
	step := out.next
	if step == "" {
		step = r.step
	}
	var at row // first, as whoever begins a rotation locks it before that
	if err := at.scan(tx.QueryRow(`SELECT `+rowColumns+` FROM credential WHERE name = $1 /*for update*/`, r.credential)); err != nil {
		return err
	}
	lease, until := "", timestamp.Time(0)
	if out.next != "" && out.wait.IsZero() { // this process goes on
		lease, until = r.lease, now.Add(leaseFor)
	}
	alert := out.alert && !r.alerted
	// Whoever has moved what is due meanwhile has something new for the step.
	if err := r.write(tx, `state = $3, step = $4, due = CASE WHEN due = $12 THEN CAST($5 AS BIGINT) ELSE CAST($13 AS BIGINT) END,
		   attempt = $6, note = $7, alerted = $8, ended = $9, lease = $10, lease_until = $11`,
		state, string(step), max(out.wait, now), attempt, note, out.alert && (r.alerted || alert), ended, lease, until, r.due, now); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE credential_step SET ended = $3, outcome = $4, error = $5 WHERE rotation = $1 AND step = $2`, r.id, string(r.step), now, word, text); err != nil {
		return err
	}
	if out.write != nil {
		if err := out.write(tx); err != nil {
			return err
		}
	}
	if alert {
		if err := c.alert(tx, d, r, note); err != nil {
			return err
		}
	}
	if out.next == "" {
		return c.finish(tx, d, r, &at, out.failed)
	}
	return nil
}

// finish writes down what a rotation has come to.
func (c *Credentials) finish(tx *store.Tx, d *defined, r *rotation, at *row, failure error) error {
	now := timestamp.Now()
	if failure != nil {
		var forced bool // by now
		var by string   // who has forced it
		if err := tx.QueryRow(`SELECT forced, by_client FROM credential_rotation WHERE id = $1`, r.id).Scan(&forced, &by); err != nil {
			return err
		}
		// Who has revoked it while this rotation was at work has not had a try yet.
		asked := at.again || forced && r.reason != reasonRevoke
		wait := min(retryFailed<<min(at.failures, 16), maxRetryFailed)
		if forced { // what has leaked is out there meanwhile
			wait = min(retryForced<<min(at.failures, 16), maxRetryForced)
		}
		next := now.Add(wait)
		if _, err := tx.Exec(`UPDATE credential SET failures = failures + 1, trouble = $2, next = $3, again = $4 WHERE name = $1`, r.credential, failure.Error(), next, forced || at.again); err != nil {
			return err
		}
		tx.AfterCommit(func() {
			c.metrics.ended(r.credential, "failed")
			c.log.Error("a rotation failed; the version before stays in use", "credential", r.credential, "version", r.version, "err", failure)
		})
		if err := c.tell(tx, &rotationFailedExchange, d, r); err != nil || !asked {
			return err
		}
		return c.beginIn(tx, d, reasonRevoke, by, true)
	}
	if _, err := tx.Exec(`UPDATE credential SET failures = 0, trouble = '', again = $2 WHERE name = $1`, r.credential, false); err != nil {
		return err
	}
	tx.AfterCommit(func() {
		c.metrics.ended(r.credential, "done")
		c.log.Info("a rotation is done", "credential", r.credential, "version", r.version, "took", now.Sub(r.started).String())
	})
	if err := c.tell(tx, &rotationDoneExchange, d, r); err != nil || !at.again {
		return err
	}
	var by string // who has forced it
	if err := tx.QueryRow(`SELECT by_client FROM credential_rotation WHERE id = $1`, r.id).Scan(&by); err != nil {
		return err
	}
	return c.beginIn(tx, d, reasonRevoke, by, true)
}
