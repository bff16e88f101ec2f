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
	unbegun := c.enrol(ctx)
	c.write(ctx)
	var due []*rotation
	err = c.db.View(ctx, func(tx *store.Tx) (err error) {
		now := timestamp.Now()
		due, err = rotations(tx, `state = 'running' AND due <= $1 AND lease_until <= $1 AND credential IN (SELECT value FROM json_each($2)) ORDER BY due LIMIT 500`, now, c.usable())
		return err
	})
	if err != nil {
		return false, errors.Join(unbegun, err)
	}
	var working sync.WaitGroup
	slots := make(chan struct{}, atATime)
	failed := make(chan error, len(due))
	for _, r := range due {
		d := c.defined[r.credential]
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
	all := []error{unbegun}
	for err := range failed {
		all = append(all, err)
	}
	return false, errors.Join(all...)
}

// usable are the credentials that something can be done with. What is wrong with the
// others their state says.
func (c *Credentials) usable() (names []string) {
	for _, name := range c.names {
		if c.defined[name].wrong == "" {
			names = append(names, name)
		}
	}
	return names
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
	var failed []error
	for _, name := range c.usable() {
		d, r := c.defined[name], have[name]
		if r != nil && r.defined(d) && (running[name] || !r.due(d, now)) {
			continue
		}
		if err := c.begin(ctx, d, start{}); err != nil {
			failed = append(failed, fmt.Errorf("credential %s: beginning a rotation: %w", name, err))
		}
	}
	return errors.Join(failed...)
}

// planText tells one plan from another; it is also what people are shown.
func (d *defined) planText() string { return d.Plan.String() }

// defined tells that a credential is known to be as its definition says.
func (r *row) defined(d *defined) bool {
	return r.plan == d.planText() && r.kind == d.Kind && r.place == d.place
}

// due tells that a credential is to be rotated though neither its job nor anybody asks:
// there is no version yet, the last rotation has failed and is tried again, its place is
// another one, or the version in use is about to end by itself.
func (r *row) due(d *defined, now timestamp.Time) bool {
	switch {
	case d.supplied():
		return r.wants(d, now)
	case r.failures > 0:
		return !r.next.IsZero() && r.next <= now
	}
	return r.current == "" || r.moved(d) || r.expiring(now)
}

// expiring tells that the version in use has to be replaced, as it ends by itself.
func (r *row) expiring(now timestamp.Time) bool { return !r.latest.IsZero() && r.latest <= now }

// moved tells that the version in use was minted where the definition does not say any more.
func (r *row) moved(d *defined) bool { return r.current != "" && r.site != d.site }

var errRunning = errors.New("credentials: a rotation is under way")

// A start is why a rotation begins.
type start struct {
	reason   string // "" if one is due
	by       string // who asks for it
	forced   bool
	occasion timestamp.Time // of the job; zero: none
	supplied []byte         // the secret that somebody has brought
}

// begin begins a rotation. The version that it makes is written down with it.
func (c *Credentials) begin(ctx context.Context, d *defined, s start) error {
	return cut.Around(ctx, "journal begin", func() error {
		return c.db.Do(ctx, func(tx *store.Tx) error {
			_, err := c.beginIn(tx, d, s)
			return err
		})
	})
}

// beginIn does so in a transaction, and returns the id of the rotation; "" if there is
// none, as none is due, or somebody has to supply a version first.
func (c *Credentials) beginIn(tx *store.Tx, d *defined, s start) (id string, err error) {
	now := timestamp.Now()
	if _, err := tx.Exec(`INSERT INTO credential (name, kind, place, site, current, since, latest, plan, next, failures, trouble, broken, doubt, doubts, doubted, checked, wanted, reminded, again)
		 VALUES ($1, '', '', '', '', 0, 0, '', 0, 0, '', '', '', 0, 0, 0, 0, 0, $2) ON CONFLICT (name) DO NOTHING`, d.Name, false); err != nil {
		return "", err
	}
	var r row
	if err := r.scan(tx.QueryRow(`SELECT `+rowColumns+` FROM credential WHERE name = $1 /*for update*/`, d.Name)); err != nil {
		return "", err
	}
	if !r.defined(d) { // it was defined anew
		next := r.next
		if r.plan != d.planText() {
			if r.failures == 0 {
				next = 0
				if r.current != "" {
					next = soonest(d.Plan.next(d.Name, r.since), r.latest)
				}
			}
			if err := c.putJobs(tx, d, r.since); err != nil {
				return "", err
			}
		}
		if _, err := tx.Exec(`UPDATE credential SET plan = $2, kind = $3, place = $4, next = $5 WHERE name = $1`, d.Name, d.planText(), d.Kind, d.place, next); err != nil {
			return "", err
		}
		r.next = next
	}
	err = tx.QueryRow(`SELECT id FROM credential_rotation WHERE credential = $1 AND state = 'running'`, d.Name).Scan(&id)
	switch {
	case err == nil && s.reason == "":
		return id, nil
	case err == nil:
		return id, errRunning
	case !errors.Is(err, store.ErrNotFound):
		return "", err
	case s.reason == "" && !r.due(d, now):
		return "", nil // another replica was faster, or there was only something to note
	case d.supplied() && s.supplied == nil:
		return "", c.want(tx, d, &r, s)
	case s.reason != "":
	case r.current == "":
		s.reason = reasonFirst
	case r.failures > 0:
		s.reason = reasonRetry
	case r.moved(d):
		s.reason = reasonMoved
	default:
		s.reason = reasonExpiring
	}
	if r.again { // one that was forced has failed, or waits for what is supplied
		s.forced, s.reason = true, reasonRevoke
		if _, err := tx.Exec(`UPDATE credential SET again = $2 WHERE name = $1`, d.Name, false); err != nil {
			return "", err
		}
	}
	v := &version{id: slugid.New(), credential: d.Name, state: versionMinting, created: now}
	seed := newSeed()
	if d.supplied() {
		seed = s.supplied
		if _, err := tx.Exec(`UPDATE credential SET wanted = 0, reminded = 0 WHERE name = $1`, d.Name); err != nil {
			return "", err
		}
	}
	v.sealed = c.keys.Seal(seed, v.bound())
	c.here(v, d)
	if err := c.insert(tx, v); err != nil {
		return "", err
	}
	id = slugid.New()
	_, err = tx.Exec(`INSERT INTO credential_rotation (id, credential, version, reason, by_client, occasion, forced, state, step, due, attempt, note, alerted, started, ended, lease, lease_until)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, 'running', $8, $9, 0, '', $10, $9, 0, '', 0)`, id, d.Name, v.id, s.reason, s.by, s.occasion, s.forced, string(stepAdopt), now, false)
	tx.AfterCommit(func() {
		c.log.Info("a rotation begins", "credential", d.Name, "version", v.id, "reason", s.reason, "client", s.by)
	})
	tx.Wake(topicRotate, store.Everybody)
	return id, err
}

// takeBack ends the leases of the process that was this replica before, which has ended.
func (c *Credentials) takeBack(ctx context.Context) error {
	return c.db.Do(ctx, func(tx *store.Tx) error {
		of := c.config.Replica + " "
		_, err := tx.Exec(`UPDATE credential_rotation SET lease = '', lease_until = 0 WHERE state = 'running' AND substr(lease, 1, CAST($1 AS INTEGER)) = $2`, len(of), of)
		return err
	})
}

// advance takes a rotation as far as it goes.
func (c *Credentials) advance(ctx context.Context, d *defined, r *rotation) error {
	lease := c.config.Replica + " " + slugid.New()
	var asked time.Time
	if err := c.journal(ctx, "take", func(tx *store.Tx) error {
		asked = time.Now()
		now := timestamp.Of(asked)
		n, err := tx.Exec(`UPDATE credential_rotation SET lease = $2, lease_until = $3 WHERE id = $1 AND state = 'running' AND due <= $4 AND lease_until <= $4`,
			r.id, lease, now.Add(leaseFor), now)
		if err == nil && n == 0 {
			err = errLost
		}
		return err
	}); err != nil {
		return err
	}
	held, end := c.keep(ctx, r.id, lease, asked.Add(leaseFor))
	defer end()
	for step := r.step; ; {
		next, err := c.attempt(held, d, r.id, lease, step)
		if err != nil || next == "" {
			return lost(held, err)
		}
		step = next
	}
}

// lost says that it is for the lost lease that something failed.
func lost(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}

// keep renews a lease, which lasts until a time, until end is called. Its context ends
// when the lease is lost, or might be.
func (c *Credentials) keep(ctx context.Context, id, lease string, until time.Time) (_ context.Context, end func()) {
	held, cancel := context.WithCancelCause(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		for {
			select {
			case <-held.Done():
				return
			case <-time.After(min(leaseRenew, time.Until(until)-leaseSpare)): // it may have taken long to get it
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

// attempt attempts the step that a rotation is at, and tells which one is to be
// attempted next; "" if none is at once.
func (c *Credentials) attempt(ctx context.Context, d *defined, id, lease string, step Step) (next Step, err error) {
	began := timestamp.Now()
	var r *rotation
	s := &scene{d: d}
	if err := c.journal(ctx, string(step)+" begins", func(tx *store.Tx) error {
		list, err := rotations(tx, `id = $1 AND lease = $2 AND state = 'running'`, id, lease)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return errLost
		}
		r = list[0]
		if err := s.read(tx, r); err != nil {
			return err
		}
		if err := r.write(tx, `attempt = $3`, r.attempt+1); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO credential_step (rotation, step, attempt, started, ended, outcome, error) VALUES ($1, $2, $3, $4, 0, 'running', '')
			 ON CONFLICT (rotation, step) DO UPDATE SET attempt = excluded.attempt, ended = 0, outcome = 'running', error = ''`, r.id, string(r.step), r.attempt+1, began)
		return err
	}); err != nil {
		return "", err
	}
	limited, stop := context.WithTimeout(ctx, stepLimit)
	out, failure := c.step(limited, s)
	stop()
	if ctx.Err() != nil {
		return "", context.Cause(ctx) // the attempt is repeated, here or elsewhere
	}
	if failure != nil {
		out = c.failed(r, failure)
	}
	err = c.journal(ctx, string(r.step)+" ends", func(tx *store.Tx) error { return c.end(tx, d, r, out, failure) })
	if err != nil || !out.wait.IsZero() {
		return "", err
	}
	return out.next, nil
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
	// Whoever has moved what is due meanwhile, or forced it, has something new for the step.
	if err := r.write(tx, `state = $3, step = $4, due = CASE WHEN due = $12 AND forced = $14 THEN CAST($5 AS BIGINT) ELSE CAST($13 AS BIGINT) END,
		   attempt = $6, note = $7, alerted = $8, ended = $9, lease = $10, lease_until = $11`,
		state, string(step), max(out.wait, now), attempt, note, out.alert && (r.alerted || alert), ended, lease, until, r.due, now, r.forced); err != nil {
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
		if d.supplied() { // by itself it comes to nothing
			next = 0
		}
		if _, err := tx.Exec(`UPDATE credential SET failures = failures + 1, trouble = $2, next = $3, again = $4 WHERE name = $1`, r.credential, failure.Error(), next, forced || at.again); err != nil {
			return err
		}
		tx.AfterCommit(func() {
			c.metrics.ended(r.credential, "failed")
			c.log.Error("a rotation failed; the version before stays in use", "credential", r.credential, "version", r.version, "err", failure)
		})
		tx.Wake(topicPublished+r.credential, store.Everybody)
		if err := c.tell(tx, &rotationFailedExchange, d, r); err != nil || !asked && !d.supplied() {
			return err
		}
		if d.supplied() {
			_, err := c.beginIn(tx, d, start{reason: reasonRetry})
			return err
		}
		_, err := c.beginIn(tx, d, start{reason: reasonRevoke, by: by, forced: true})
		return err
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
	_, err := c.beginIn(tx, d, start{reason: reasonRevoke, by: by, forced: true})
	return err
}
