package mirror

import (
	"context"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	expireEvery = 15 * time.Second
	forgetAfter = 24 * time.Hour // a failure that nobody has asked again for
)

// expire is one pass of the loop mirror.expiry.
func (m *Mirror) expire(ctx context.Context) (more bool, err error) {
	for _, step := range []func(context.Context) (bool, error){m.expireOld, m.forgetFailures, m.forgetRegions, m.evict} {
		again, err := step(ctx)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// dismiss has a copy leave that nobody wants any more.
func (ch *changes) dismiss(c *Copy, reason string) {
	if c.State == Present {
		c.leave()
		c.Due = timestamp.Now().Add(linger)
	} else {
		c.leave()
		ch.tx.Wake(topicLeaving, 1)
	}
	ch.tx.AfterCommit(func() { ch.mirror.metrics.removed.WithLabelValues(c.Region, reason).Inc() })
}

// expireOld has copies leave that have expired. Those in a region that is not
// configured any more are forgotten: nobody knows where their bytes are.
func (m *Mirror) expireOld(ctx context.Context) (more bool, err error) {
	err = m.change(ctx, func(ch *changes) error {
		list, err := ch.list(`SELECT `+copyColumns+` FROM mirror_copy
			 WHERE state <> 'leaving' AND expires BETWEEN 1 AND $1 ORDER BY expires LIMIT $2 /*skip locked*/`, timestamp.Now(), lifeBatch)
		for _, c := range list {
			if m.region(c.Region) == nil {
				ch.drop(c)
			} else {
				ch.dismiss(c, "expired")
			}
		}
		more = len(list) == lifeBatch
		return err
	})
	return more, err
}

// forgetFailures has failures leave that nobody has asked again for.
func (m *Mirror) forgetFailures(ctx context.Context) (more bool, err error) {
	err = m.change(ctx, func(ch *changes) error {
		list, err := ch.list(`SELECT `+copyColumns+` FROM mirror_copy
			 WHERE state = 'failed' AND due <= $1 ORDER BY due LIMIT $2 /*skip locked*/`, timestamp.Now().Add(-forgetAfter), lifeBatch)
		for _, c := range list {
			ch.dismiss(c, "failed")
		}
		more = len(list) == lifeBatch
		return err
	})
	return more, err
}

// forgetRegions forgets copies that are leaving a region that is not configured any
// more, where nobody deletes them. Should it come back, they are rubbish there.
func (m *Mirror) forgetRegions(ctx context.Context) (more bool, err error) {
	tallies, err := m.tallies(ctx)
	if err != nil {
		return false, err
	}
	for k, sum := range tallies {
		if k.state != Leaving || sum.Objects <= 0 || m.region(k.region) != nil {
			continue
		}
		err := m.change(ctx, func(ch *changes) error {
			list, err := ch.list(`SELECT `+copyColumns+` FROM mirror_copy
				 WHERE state = 'leaving' AND region = $1 ORDER BY id LIMIT $2 /*skip locked*/`, k.region, lifeBatch)
			for _, c := range list {
				ch.drop(c)
			}
			more = more || len(list) == lifeBatch
			return err
		})
		if err != nil {
			return false, err
		}
	}
	return more, nil
}

// evict has copies leave of regions that hold more than they may: those that are
// larger than all may be together, as it was more when they were made, and then
// those that were not read for longest. What is pinned stays.
func (m *Mirror) evict(ctx context.Context) (more bool, err error) {
	for _, p := range m.regions {
		if p.MaxBytes == 0 {
			continue
		}
		tallies, err := m.tallies(ctx)
		if err != nil {
			return false, err
		}
		over := tallies[tallied{p.Name, Present}].Bytes - p.MaxBytes
		if over <= 0 {
			continue
		}
		err = m.change(ctx, func(ch *changes) error {
			left, full := over, false
			for _, of := range []struct {
				list string
				args []any
			}{{p.oversized(), []any{p.Name, lifeBatch, p.MaxBytes}}, {unread, []any{p.Name, lifeBatch}}} {
				if left <= 0 {
					break
				}
				list, err := ch.list(of.list, of.args...)
				if err != nil {
					return err
				}
				for _, c := range list {
					if left > 0 && c.State == Present {
						ch.dismiss(c, "unread")
						left -= c.bytes()
					}
				}
				full = len(list) == lifeBatch
			}
			more = more || left > 0 && full
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return more, nil
}

const (
	evictable = `SELECT ` + copyColumns + ` FROM mirror_copy WHERE state = 'present' AND NOT pinned AND region = $1`
	unread    = evictable + ` AND size > 0 ORDER BY read LIMIT $2 /*skip locked*/`
)

// oversized lists the copies that are larger than all of the region may be. Of large
// ones there is an index.
func (p *place) oversized() string {
	lane := ""
	if p.MaxBytes >= largeSize {
		lane = ` AND lane = 2`
	}
	return evictable + lane + ` AND size > $3 ORDER BY size DESC LIMIT $2 /*skip locked*/`
}
