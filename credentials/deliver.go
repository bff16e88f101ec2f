package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/credentials/internal/program"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	deliverEvery = 15 * time.Second

	// A replica that was not seen for so long is not waited for; what was noted of it
	// is forgotten later.
	replicaGone   = 2 * time.Minute
	replicaForget = 24 * time.Hour

	commandLimit = time.Minute
	deliverLimit = 15 * time.Minute // of a pass, in which programs run one after another
	deliverAlert = 3                // failures in a row after which somebody has to look
)

// A pickup is which version a consumer has, on one replica if it is on all.
type pickup struct {
	credential, consumer, replica string
	version, confirmed            string
	at, seen                      timestamp.Time
	err                           string
}

// pickedUp writes a pickup down. What it does not tell stays as it is.
func pickedUp(tx *store.Tx, p pickup) error {
	_, err := tx.Exec(`INSERT INTO credential_pickup (credential, consumer, replica, version, confirmed, at, seen, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		 ON CONFLICT (credential, consumer, replica) DO UPDATE SET
		   version = CASE WHEN excluded.version = '' THEN credential_pickup.version ELSE excluded.version END,
		   confirmed = CASE WHEN excluded.confirmed = '' THEN credential_pickup.confirmed ELSE excluded.confirmed END,
		   at = excluded.at, seen = excluded.seen, error = excluded.error`,
		p.credential, p.consumer, p.replica, p.version, p.confirmed, p.at, p.seen, p.err)
	return err
}

// pickups are those of credentials.
func pickups(tx *store.Tx, names ...string) (list []pickup, err error) {
	rows, err := tx.Query(`SELECT credential, consumer, replica, version, confirmed, at, seen, error FROM credential_pickup
		 WHERE credential IN (SELECT value FROM json_each($1)) ORDER BY credential, consumer, replica`, names)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var p pickup
		if err := rows.Scan(&p.credential, &p.consumer, &p.replica, &p.version, &p.confirmed, &p.at, &p.seen, &p.err); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// A delivery is what this replica knows of handing a credential to its consumers.
type delivery struct {
	// turn is held by who hands it to them: what began with an older version must not
	// end after a newer one was handed over.
	turn    chan struct{}
	failing map[string]setback // by consumer
}

// A setback is that a consumer could not be given a version.
type setback struct {
	version string
	times   int64
	again   timestamp.Time // when it is tried again
	told    bool           // that somebody has to look
}

func newDelivery() delivery {
	return delivery{turn: make(chan struct{}, 1), failing: map[string]setback{}}
}

// deliver is one pass of the loop credentials.deliver. That a consumer cannot be
// given a version is no error of the pass: it stands with the consumer, which is
// tried again by itself.
func (c *Credentials) deliver(ctx context.Context) (more bool, err error) {
	var list []*defined
	for _, name := range c.names {
		if d := c.defined[name]; d.delivers() {
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		return false, nil
	}
	if err := c.journal(ctx, "seen", func(tx *store.Tx) error { return c.seen(tx, list) }); err != nil {
		return false, err
	}
	staying, leave := context.WithCancel(ctx)
	var stays, working sync.WaitGroup
	stays.Go(func() { c.stay(staying, list) })
	slots := make(chan struct{}, atATime)
	failed := make(chan error, len(list))
	for _, d := range list {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			if err := c.deliverTo(ctx, d, true); err != nil {
				failed <- fmt.Errorf("credential %s: %w", d.Name, err)
			}
		})
	}
	working.Wait()
	leave()
	stays.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	return false, errors.Join(all...)
}

// delivers tells that there are consumers of the credential on every replica.
func (d *defined) delivers() bool {
	return d.wrong == "" && slices.ContainsFunc(d.Consumers, Use.everywhere)
}

// seen notes that this replica looks after its consumers.
func (c *Credentials) seen(tx *store.Tx, list []*defined) error {
	args := []any{c.config.Replica, timestamp.Now()}
	var rows []string
	for _, d := range list {
		for _, u := range d.Consumers {
			if u.everywhere() {
				args = append(args, d.Name, u.Name)
				rows = append(rows, fmt.Sprintf("($%d, $%d, $1, '', '', 0, CAST($2 AS BIGINT), '')", len(args)-1, len(args)))
			}
		}
	}
	_, err := tx.Exec(`INSERT INTO credential_pickup (credential, consumer, replica, version, confirmed, at, seen, error) VALUES `+strings.Join(rows, ", ")+`
		 ON CONFLICT (credential, consumer, replica) DO UPDATE SET seen = excluded.seen`, args...)
	return err
}

// stay goes on saying so while programs take their time.
func (c *Credentials) stay(ctx context.Context, list []*defined) {
	tick := time.NewTicker(deliverEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := cut.At(ctx, "seen")
		if err == nil {
			err = c.db.Do(ctx, func(tx *store.Tx) error { return c.seen(tx, list) })
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("cannot note that this replica is there; rotations may not wait for it", "err", err)
		}
	}
}

// deliverTo gives the consumers of a credential that are on this replica the
// current version; programs only if that may take its time.
func (c *Credentials) deliverTo(ctx context.Context, d *defined, programs bool) error {
	if !d.delivers() {
		return nil
	}
	select {
	case d.delivery.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.delivery.turn }()
	var current *version
	had := map[string]pickup{}
	err := c.db.View(ctx, func(tx *store.Tx) error {
		current = nil
		clear(had)
		list, err := pickups(tx, d.Name)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.replica == c.config.Replica {
				had[p.consumer] = p
			}
		}
		v := &version{}
		err = v.scan(tx.QueryRow(`SELECT `+versionColumns+` FROM credential_version WHERE id = (SELECT current FROM credential WHERE name = $1)`, d.Name))
		if errors.Is(err, store.ErrNotFound) {
			return nil // nothing was minted yet
		}
		current = v
		return err
	})
	if err != nil || current == nil || current.sealed == "" {
		return err
	}
	v, err := c.open(d, current)
	if err != nil || v.Secret == nil {
		return err
	}
	for _, u := range d.Consumers {
		was, failing := had[u.Name], d.delivery.failing[u.Name]
		switch {
		case !u.everywhere() || len(u.Command) > 0 && !programs:
			continue
		case was.version == v.ID && was.err == "" && !c.missing(d, u, v):
			delete(d.delivery.failing, u.Name)
			continue
		case failing.version == v.ID && failing.again > timestamp.Now():
			continue
		}
		for {
			if err := c.deliverOne(ctx, d, u, v); err != nil {
				return err
			}
			if u.File == "" || d.delivery.failing[u.Name].times != 1 {
				break
			} // a file is cheap to try once more
		}
	}
	return nil
}

// deliverOne gives one consumer a version, and notes what has come of it.
func (c *Credentials) deliverOne(ctx context.Context, d *defined, u Use, v Version) error {
	p := pickup{credential: d.Name, consumer: u.Name, replica: c.config.Replica}
	alert := false
	err := c.call(ctx, "deliver "+u.Name, []Version{v}, func() error { return c.hand(ctx, u, v) })
	switch {
	case err != nil && ctx.Err() != nil:
		return err // it was not given the time
	case err != nil:
		failing := d.delivery.failing[u.Name]
		if failing.version != v.ID {
			failing = setback{version: v.ID}
		}
		wait := min(deliverEvery<<min(failing.times, 8), maxBackoff)
		failing.times++
		failing.again = timestamp.Now().Add(wait - time.Duration(rand.Int64N(int64(wait/4))))
		d.delivery.failing[u.Name] = failing
		p.err, alert = err.Error(), failing.times >= deliverAlert && !failing.told
	default:
		delete(d.delivery.failing, u.Name)
		p.version = v.ID
		c.given.Store(d.Name+"/"+u.Name, v.ID)
		if u.confirms() {
			p.confirmed = v.ID
		}
	}
	err = c.journal(ctx, "deliver "+u.Name, func(tx *store.Tx) error {
		p.at = timestamp.Now()
		p.seen = p.at
		var current string
		if err := tx.QueryRow(`SELECT current FROM credential WHERE name = $1`, d.Name).Scan(&current); err != nil {
			return err
		}
		if current != v.ID { // the next one is due, and what became of this one is of no interest
			tx.Wake(topicDeliver, store.Everybody)
			return nil
		}
		if p.version != "" {
			tx.Wake(topicRotate, store.Everybody)
		}
		if alert {
			var others int // that say so instead
			if err := tx.QueryRow(`SELECT COUNT(*) FROM credential_pickup WHERE credential = $1 AND consumer = $2 AND replica <> '' AND replica < $3 AND error <> '' AND seen > $4`,
				d.Name, u.Name, p.replica, p.at.Add(-replicaGone)).Scan(&others); err != nil {
				return err
			}
			if others == 0 {
				if err := c.alert(tx, d, nil, "the consumer "+u.Name+" cannot be given the current version: "+p.err); err != nil {
					return err
				}
			}
		}
		return pickedUp(tx, p)
	})
	if failing, ok := d.delivery.failing[u.Name]; ok && err == nil && alert {
		failing.told = true
		d.delivery.failing[u.Name] = failing
	}
	return err
}

// missing tells that a consumer does not have what it was given: a file is gone or was
// changed, or the part of the platform has started anew.
func (c *Credentials) missing(d *defined, u Use, v Version) bool {
	switch {
	case u.Platform != "":
		id, _ := c.given.Load(d.Name + "/" + u.Name)
		return id != v.ID
	case u.File != "":
		return c.lacking(u, v)
	}
	return false
}

// hand hands a version to a consumer on this replica.
func (c *Credentials) hand(ctx context.Context, u Use, v Version) error {
	ctx, stop := context.WithTimeout(ctx, commandLimit)
	defer stop()
	switch {
	case u.File != "":
		return c.writeFiles(u, v)
	case u.Platform != "":
		return c.config.Platform[u.Platform](ctx, v.ID, v.Secret)
	}
	in, err := json.Marshal(map[string]any{"version": 1, "action": "publish", "credential": v.Credential, "id": v.ID, "public": v.Public, "secret": v.Secret})
	if err != nil {
		return err
	}
	_, err = program.Run(ctx, u.Command, commandLimit, in, v.Secret)
	return err
}

// unconfirmed are the consumers that are not known to use a version. Among them,
// the old version stays for those that must have it, however long that takes, and
// for those that could not be given it on a replica.
func (d *defined) unconfirmed(list []pickup, id string) (late, must, undelivered []string) {
	now := timestamp.Now()
	for _, u := range d.Consumers {
		found, confirmed, behind := false, true, false
		for _, p := range list {
			if !p.of(u, now) {
				continue
			}
			found = true
			if p.confirmed != id {
				confirmed = false
				behind = behind || u.everywhere() && (p.err != "" || p.version != id)
			}
		}
		if found && confirmed {
			continue
		}
		late = append(late, u.Name)
		if u.Must {
			must = append(must, u.Name)
		} else if behind {
			undelivered = append(undelivered, u.Name)
		}
	}
	return late, must, undelivered
}

// of tells that a pickup is one of a consumer, on a replica that is there.
func (p pickup) of(u Use, now timestamp.Time) bool {
	return p.consumer == u.Name && u.everywhere() == (p.replica != "") && (p.replica == "" || p.seen.Add(replicaGone) >= now)
}

// consumed notes that a consumer says that it uses a version. One that is on every
// replica has said so for all of them.
func (c *Credentials) consumed(ctx context.Context, d *defined, u Use, id string) error {
	return cut.Around(ctx, "journal consumed", func() error {
		return c.db.Do(ctx, func(tx *store.Tx) error {
			now := timestamp.Now()
			_, err := tx.Exec(`UPDATE credential_rotation SET due = $2 WHERE credential = $1 AND state = 'running' AND step = 'await'`, d.Name, now)
			if err != nil {
				return err
			}
			if u.everywhere() {
				_, err = tx.Exec(`UPDATE credential_pickup SET confirmed = $3, at = $4 WHERE credential = $1 AND consumer = $2 AND replica <> ''`, d.Name, u.Name, id, now)
			} else {
				err = pickedUp(tx, pickup{credential: d.Name, consumer: u.Name, confirmed: id, at: now, seen: now})
			}
			tx.Wake(topicRotate, store.Everybody)
			return err
		})
	})
}
