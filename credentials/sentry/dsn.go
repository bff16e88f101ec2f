package sentry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A DSN is the address of a project.
type DSN struct {
	Secret, Public string
	Expires        time.Time
}

// String leaves the key out, as does GoString.
func (d DSN) String() string { return "Sentry DSN until " + d.Expires.UTC().Format(time.RFC3339) }

// GoString leaves the key out.
func (d DSN) GoString() string { return d.String() }

const (
	validity = 48 * time.Hour
	atLeast  = 25 * time.Hour   // is for how long a key is good that is given out
	anyhow   = time.Hour        // if there is no other
	briefly  = 15 * time.Second // is how long those wait for another one who can have that

	leaseFor   = 30 * time.Second
	leaseRenew = 10 * time.Second
	lookAgain  = time.Second      // of those who wait for another replica
	patience   = 90 * time.Second // theirs
	failedFor  = 10 * time.Second // for which a failure is that of all callers
)

// A flight is the making of a key for a project, or of whatever else is done with it,
// in this process. Callers that come meanwhile wait for it.
type flight struct {
	done  chan struct{}
	dsn   DSN
	err   error
	ended time.Time // of one that has failed
}

// DSN gives out the address of a project. The project is created if there is none, and
// a key is made if there is none that is good for long enough.
func (s *Sentry) DSN(ctx context.Context, project string) (d DSN, err error) {
	if !sentryapi.ValidSlug(project) || len(project) > maxName {
		return d, api.Errorf(api.InvalidRequestArguments, "project is %q; projects of Sentry are lower-case letters, digits, - and _, up to %d, and not digits alone.", project, maxName)
	}
	for {
		now, err := s.given(ctx, project)
		if err != nil {
			return d, err
		}
		if time.Until(now.Expires) > atLeast {
			return now, nil
		}
		f, first := s.board(project)
		if first {
			if time.Until(now.Expires) > anyhow {
				f.dsn, f.err = s.lendSoon(ctx, project)
			} else {
				f.dsn, f.err = s.lend(ctx, project)
			}
			s.land(project, f, ctx.Err() != nil)
			if ctx.Err() != nil {
				return d, ctx.Err()
			}
		} else {
			select {
			case <-f.done:
			case <-ctx.Done():
				return d, ctx.Err()
			}
			if f.err != nil && f.ended.IsZero() {
				continue // the caller who made it has gone away
			}
		}
		switch {
		case f.err == nil:
			return f.dsn, nil
		case time.Until(now.Expires) > anyhow:
			if first {
				s.log.Warn("no new Sentry key could be made; the old one is given out", "project", project, "expires", timestamp.Of(now.Expires), "err", f.err)
			}
			return now, nil
		}
		if first {
			s.log.Error("no Sentry key could be made", "project", project, "err", f.err)
		}
		if e, ok := errors.AsType[*api.Error](f.err); ok {
			return d, e
		}
		why := "the log of the platform says why"
		if e, ok := errors.AsType[*sentryapi.Error](f.err); ok {
			why = e.Error()
		}
		return d, api.Errorf(api.ServiceUnavailable, "No key of the Sentry project %s could be had: %s. Try again in %s.", project, why, failedFor)
	}
}

// board finds the flight that is under way, or has just failed; first tells that it is
// the caller's.
func (s *Sentry) board(project string) (f *flight, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f = s.flights[project]; f != nil && (f.ended.IsZero() || time.Since(f.ended) < failedFor) {
		return f, false
	}
	for name, old := range s.flights { // of projects that nobody asks for any more
		if !old.ended.IsZero() && time.Since(old.ended) >= failedFor {
			delete(s.flights, name)
		}
	}
	f = &flight{done: make(chan struct{})}
	s.flights[project] = f
	return f, true
}

// land ends a flight. A failure stays for a while, unless its caller has gone away.
func (s *Sentry) land(project string, f *flight, gone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.err == nil || gone {
		delete(s.flights, project)
	} else {
		f.ended = time.Now()
	}
	close(f.done)
}

// given is the address that is given out now; one whose time is over if there is none.
func (s *Sentry) given(ctx context.Context, project string) (d DSN, err error) {
	var sealed string
	var expires timestamp.Time
	err = s.db.ViewOnce(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT dsn, expires FROM sentry_project WHERE slug = $1`, project).Scan(&sealed, &expires)
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && (sealed == "" || expires <= timestamp.Now()) {
		return d, nil
	} else if err != nil {
		return d, err
	}
	text, err := s.keys.Open(sealed, place(project))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return d, fmt.Errorf("the address of the Sentry project %s cannot be opened; is its key still among the seal keys? %w", project, err)
	}
	d.Expires = expires.Time()
	return d, nil
}

// place is what the address of a project is bound to.
func place(project string) string { return "sentry/" + project + "/dsn" }

func topic(project string) string { return "sentry." + project }

// alone does something with a project that no other replica does something with. It
// waits for its turn, unless enough says meanwhile that there is nothing to do.
func (s *Sentry) alone(ctx context.Context, project string, enough func(context.Context) (bool, error), do func(context.Context) error) error {
	name, lease := "sentry/"+project, s.db.Lease(slugid.New())
	begun := time.Now()
	for {
		wait := s.db.Waits().Wait(topic(project))
		held, err := lease.Hold(ctx, name, leaseFor)
		if err != nil || held {
			wait.Close()
			if err != nil {
				return err
			}
			break
		}
		select {
		case <-wait.C:
		case <-time.After(lookAgain):
		case <-ctx.Done():
		}
		wait.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if enough != nil {
			if done, err := enough(ctx); done || err != nil {
				return err
			}
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("another replica is at work on the Sentry project %s since %s or before; try again", project, timestamp.Of(begun))
		}
	}
	working, stop := context.WithCancelCause(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			if held, err := lease.Hold(working, name, leaseFor); err == nil && !held || err != nil && working.Err() == nil {
				stop(errors.Join(errLost, err))
				return
			}
		}
	})
	defer func() {
		stop(nil)
		renewing.Wait()
		after, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer end()
		if err := lease.Release(after, name); err != nil {
			s.log.Warn("a lease on a Sentry project could not be given back; it ends by itself", "project", project, "err", err)
		}
	}()
	err := do(working)
	if err != nil && ctx.Err() == nil && working.Err() != nil {
		return context.Cause(working)
	}
	return err
}

var errLost = errors.New("the lease on the project was lost to another replica, or could not be renewed")

// lend makes a key to be given out, or finds that another replica has.
func (s *Sentry) lend(ctx context.Context, project string) (d DSN, err error) {
	enough := func(ctx context.Context) (bool, error) {
		d, err = s.given(ctx, project)
		return err == nil && time.Until(d.Expires) > atLeast, err
	}
	err = s.alone(ctx, project, enough, func(ctx context.Context) error {
		if done, err := enough(ctx); done || err != nil {
			return err
		}
		d, err = s.mint(ctx, project)
		return err
	})
	return d, err
}

// lendSoon is lend for callers who can have another address: it gives up before they do.
// One key is made at a time, as of many that wait for their turns none would be in time.
func (s *Sentry) lendSoon(ctx context.Context, project string) (DSN, error) {
	ctx, stop := context.WithTimeout(ctx, briefly)
	defer stop()
	select {
	case s.soon <- struct{}{}:
		defer func() { <-s.soon }()
	case <-ctx.Done():
		return DSN{}, ctx.Err()
	}
	return s.lend(ctx, project)
}

// mint makes a key, or finds the one that was made before a crash, or by others.
func (s *Sentry) mint(ctx context.Context, project string) (d DSN, err error) {
	id, spec, making := "", Spec{Project: project}, false
	var promised timestamp.Time
	err = s.db.Do(ctx, func(tx *store.Tx) error {
		if err := enter(tx, project); err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT making, team, platform, count, seconds FROM sentry_project WHERE slug = $1 /*for update*/`, project).Scan(
			&making, &spec.Team, &spec.Platform, &spec.RateLimit.Count, &spec.RateLimit.Window); err != nil {
			return err
		}
		now := timestamp.Now()
		err := tx.QueryRow(`SELECT id, expires FROM sentry_key WHERE project = $1 AND state = 'minting' AND expires > $2 ORDER BY expires DESC LIMIT 1`,
			project, now.Add(atLeast+anyhow)).Scan(&id, &promised)
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		id, promised = slugid.New(), timestamp.Of(now.Add(validity).Time().Truncate(time.Second)) // as the label has it
		_, err = tx.Exec(`INSERT INTO sentry_key (id, project, sentry, state, expires, disabled) VALUES ($1, $2, '', 'minting', $3, 0)`, id, project, promised)
		return err
	})
	if err != nil {
		return d, err
	}
	if spec, err = s.fill(spec); err != nil {
		return d, err
	}
	var key sentryapi.Key
	var expires timestamp.Time
	if err = sentryapi.ErrNotFound; !making {
		key, expires, err = s.makeKey(ctx, spec, id, promised)
	}
	if errors.Is(err, sentryapi.ErrNotFound) {
		if err := (&bringing{s: s, spec: spec, apply: true}).run(ctx); err != nil {
			return d, err
		}
		key, expires, err = s.makeKey(ctx, spec, id, promised)
	}
	if err != nil {
		return d, err
	}
	d = DSN{Secret: key.DSN.Secret, Public: key.DSN.Public, Expires: expires.Time()}
	if d.Secret == "" {
		d.Secret = d.Public // servers that are new enough take only that
	}
	text, err := json.Marshal(map[string]string{"Secret": d.Secret, "Public": d.Public})
	if err != nil {
		return d, err
	}
	sealed := s.keys.Seal(text, place(project))
	l, _ := read(key.Name)
	err = s.db.Do(ctx, func(tx *store.Tx) error {
		current := id
		if l.id != id[:piece] { // one that was not made for this
			current = foreign(key.ID)
			if err := tx.QueryRow(`SELECT id FROM sentry_key WHERE project = $1 AND sentry = $2`, project, key.ID).Scan(&current); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		if _, err := tx.Exec(`UPDATE sentry_project SET current = $2, dsn = $3, key_id = $4, expires = $5 WHERE slug = $1`,
			project, current, sealed, seal.KeyID(sealed), expires); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM sentry_key WHERE id = $1 AND id <> $2`, id, current); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO sentry_key (id, project, sentry, state, expires, disabled) VALUES ($1, $2, $3, 'live', $4, 0)
			 ON CONFLICT (id) DO UPDATE SET sentry = excluded.sentry, state = 'live'`, current, project, key.ID, expires)
		tx.Wake(topic(project), store.Everybody)
		return err
	})
	if err == nil {
		s.log.Info("a Sentry key is given out", "project", project, "key", key.Name)
	}
	return d, err
}

// makeKey makes the key, if there is not one that will do: what was made for the id, or
// by whoever came before us or has another database, and is good for long enough. Such
// a one may have been disabled by hand, and is left alone then.
func (s *Sentry) makeKey(ctx context.Context, spec Spec, id string, expires timestamp.Time) (sentryapi.Key, timestamp.Time, error) {
	for try := 1; ; try++ {
		all, err := s.client.Keys(ctx, spec.Project)
		if err != nil {
			return sentryapi.Key{}, 0, err
		}
		var best sentryapi.Key
		var until time.Time
		for _, k := range all {
			l, ok := read(k.Name)
			if !ok || !k.Active || !l.lent(s.Prefix) || k.DSN.Public == "" {
				continue
			}
			if l.id == id[:piece] {
				return k, expires, nil
			}
			// A label that is no promise of ours is not believed beyond one of ours.
			if time.Until(l.expires) > atLeast && time.Until(l.expires) <= validity+time.Hour && l.expires.After(until) {
				best, until = k, l.expires
			}
		}
		if best.ID != "" {
			return best, timestamp.Of(until), nil
		}
		n := sentryapi.NewKey{Name: lentLabel(s.Prefix, id, expires.Time())}
		if spec.RateLimit.Count > 0 {
			n.RateLimit = &spec.RateLimit
		}
		k, err := s.client.CreateKey(ctx, spec.Project, n)
		switch {
		case err == nil && (k.ID == "" || k.DSN.Public == ""):
			return k, 0, errors.New("sentry: the key that was made has no id or no DSN")
		case err == nil:
			if n.RateLimit != nil && k.RateLimit == nil {
				s.log.Warn("Sentry has made a key without the limit, as where the plan has none", "project", spec.Project)
			}
			return k, expires, nil
		case sentryapi.Final(err) || try == 3:
			return k, 0, err
		}
	}
}
