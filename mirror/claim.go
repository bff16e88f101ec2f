package mirror

import (
	"cmp"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A claim is a transaction in which a desk claims copies.
type claim struct {
	small, unknown, large int         // up to so many of each lane
	heard                 [kinds]bool // of which it is not likely that there are any
	lost                  bool        // and those that other copiers have lost

	// What came of it:
	jobs   []*job
	litter []leftover
	lanes  [kinds]outlook
	leases time.Time // when the next one of another copier runs out; zero: there is none
	err    error
}

// An outlook is what else there is in a lane.
type outlook struct {
	known bool
	more  bool
	next  time.Time // when more is due; zero: none is
}

const (
	claimable = `SELECT ` + copyColumns + ` FROM mirror_copy
		WHERE region = $1 AND lane = $2 AND state = 'waiting' AND due <= $3
		ORDER BY priority DESC, requested LIMIT $4 /*skip locked*/`

	lostCopies = `SELECT ` + copyColumns + ` FROM mirror_copy
		WHERE region = $1 AND state = 'copying' AND lease_until <= $2
		ORDER BY lease_until LIMIT $3 /*skip locked*/`

	// When the first copy of a lane is due, and the first that is not due yet.
	nextDue = `SELECT lane, min(due), COALESCE(min(CASE WHEN due > $2 THEN due END), 0) FROM mirror_copy
		WHERE region = $1 AND state = 'waiting' AND lane IN ($3, $4, $5) GROUP BY lane`

	nextLease = `SELECT COALESCE(min(lease_until), 0) FROM mirror_copy WHERE region = $1 AND state = 'copying' AND lease_until > $2`
)

// claim runs the transaction. It may be run beside all else that the desk does.
func (d *desk) claim(s *shift, c claim) claim {
	asked := c
	c.err = d.copier.mirror.change(s.ctx, func(ch *changes) error {
		c = asked
		now := timestamp.Now()
		limits := [kinds]int{small: c.small, unknown: c.unknown, large: c.large}
		var doubtful, empty []kind
		for k, limit := range limits {
			if limit > 0 && c.heard[k] {
				doubtful = append(doubtful, kind(k))
			}
		}
		// One statement for all of them, as something is signalled all the time while
		// copies of one kind come.
		if err := d.outlook(ch, &c, now, doubtful); err != nil {
			return err
		}
		for k, limit := range limits {
			o := &c.lanes[k]
			if limit <= 0 || o.known && !o.more {
				continue
			}
			n, err := d.take(ch, &c, now, limit, claimable, d.place.Name, k, now)
			if err != nil {
				return err
			}
			if n < limit && !o.known {
				empty = append(empty, kind(k))
			}
			o.known, o.more = true, n == limit
		}
		if err := d.outlook(ch, &c, now, empty); err != nil {
			return err
		}
		for _, k := range empty {
			c.lanes[k].more = false // what was due was taken
		}
		if !c.lost {
			return nil
		}
		n, err := d.take(ch, &c, now, d.place.Transfers, lostCopies, d.place.Name, now)
		switch {
		case err != nil:
		case n == d.place.Transfers: // there may be more, for as soon as there is room
			c.leases = time.Now()
		default:
			c.leases, err = ch.moment(nextLease, d.place.Name, now)
		}
		return err
	})
	if c.err != nil {
		c.jobs, c.litter = nil, nil
	}
	s.hold(c.jobs)
	return c
}

// outlook finds out what there is in lanes.
func (d *desk) outlook(ch *changes, c *claim, now timestamp.Time, lanes []kind) error {
	if len(lanes) == 0 {
		return nil
	}
	args := []any{d.place.Name, now, -1, -1, -1}
	for i, k := range lanes {
		args[2+i] = k
		c.lanes[k] = outlook{known: true}
	}
	rows, err := ch.tx.Query(nextDue, args...)
	if err != nil {
		return err
	}
	for rows.Next() {
		var k kind
		var first, later timestamp.Time
		if err := rows.Scan(&k, &first, &later); err != nil {
			return err
		}
		o := outlook{known: true, more: first <= now}
		if !later.IsZero() {
			o.next = later.Time()
		}
		c.lanes[k] = o
	}
	return rows.Err()
}

// take claims what a statement lists, up to a limit, and returns how many it
// listed.
func (d *desk) take(ch *changes, c *claim, now timestamp.Time, limit int, statement string, args ...any) (n int, err error) {
	list, err := ch.list(statement, append(args, limit)...)
	for _, x := range list {
		if !x.Expires.IsZero() && x.Expires <= now {
			x.leave()
			continue
		}
		if x.Upload == nil && x.Token != "" { // an attempt that nobody goes on with
			c.litter = append(c.litter, leftover{place: d.place, keys: []string{x.key(), x.originKey()}})
		}
		c.jobs = append(c.jobs, d.copier.claim(d.place, x))
	}
	return len(list), err
}

// moment reads a time; zero: there is none.
func (ch *changes) moment(statement string, args ...any) (time.Time, error) {
	var t timestamp.Time
	err := ch.tx.QueryRow(statement, args...).Scan(&t)
	if err != nil || t.IsZero() {
		return time.Time{}, err
	}
	return t.Time(), nil
}

// claim makes this replica the holder of a copy's lease, in the transaction that
// calls it.
func (k *copier) claim(p *place, c *Copy) *job {
	now := time.Now()
	if c.Upload == nil {
		c.Token, c.Done = slugid.New(), 0
	}
	c.State, c.Error = Copying, ""
	c.Lease, c.LeaseUntil = slugid.New(), timestamp.Of(now.Add(k.leaseTime))
	own := *c
	return &job{
		place: p, copy: &own, lease: c.Lease, lane: laneOf(c.Size), begun: c.Done, wrote: c.Upload != nil,
		claimed: now, renewed: now, saved: now, ended: make(chan struct{}),
	}
}

// lineUp puts what was claimed into the lanes, the most urgent first.
func (d *desk) lineUp(jobs []*job) {
	for _, j := range jobs {
		l := d.lane(j)
		i, _ := slices.BinarySearchFunc(l.queue, j, func(a, b *job) int {
			return cmp.Or(cmp.Compare(b.copy.Priority, a.copy.Priority), cmp.Compare(a.copy.Requested, b.copy.Requested), -1)
		})
		l.queue = slices.Insert(l.queue, i, j)
	}
}
