package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	sweepEvery = 24 * time.Hour
	emptyEvery = 10 * time.Minute // where the index has nothing: it may have been lost
	abortAfter = 48 * time.Hour   // by the store itself, should there be nobody to sweep
	saveLimit  = 10 * time.Second

	// grace is how old what belongs to no copy has to be to be deleted: clocks
	// differ, and who looks at it does so some time after it was listed.
	grace = time.Hour
)

// A sweep of a region goes through its bucket and its index side by side, in
// shares of about a thousand copies: those whose ids begin with the same digits.
// It is a row of mirror_sweep, and goes on with the next share after a restart.
type sweep struct {
	digits       int
	share        int
	began, ended timestamp.Time
	bucket       string // that it is of
	sure         bool   // the index is known to be of that bucket
	blank        bool   // the index never had anything
}

// rebuilds tells that objects that the index does not have become copies, and are
// not rubbish: only as long as no sweep of the region has come to its end. Later,
// what the index does not have was purged, say, while a copier was at it, and must
// not come back.
func (s *sweep) rebuilds() bool { return s.ended.IsZero() }

// takes tells that an object may become a copy. What was stored since the sweep
// began has a row, or had one.
func (s *sweep) takes(o blob.Object) bool {
	return s.rebuilds() && timestamp.Of(o.Modified) <= s.began
}

// address is what tells a region's bucket from others.
func (p *place) address() string { return p.Bucket.URLForms()[0] }

// topicSweep is what is woken when a bucket is to be compared with the index soon.
const topicSweep = "mirror.sweep"

// unsure tells that the region has got another bucket in the configuration, or its
// bucket was gone, and nobody has compared the index with it since: copies may not
// be there.
func (p *place) unsure() bool { return p.health.moved.Load() }

// findMoved finds out which regions are unsure.
func (m *Mirror) findMoved(ctx context.Context) error {
	moved := map[string]bool{}
	err := m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		clear(moved)
		rows, err := tx.Query(`SELECT region, bucket, sure FROM mirror_sweep`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var region, bucket string
			var sure bool
			if err := rows.Scan(&region, &bucket, &sure); err != nil {
				return err
			}
			p := m.region(region)
			moved[region] = p != nil && (!sure || bucket != p.address())
		}
		return rows.Err()
	})
	if err != nil {
		return fmt.Errorf("mirror: find regions whose bucket was changed or gone: %w", err)
	}
	for _, p := range m.regions {
		if p.health.moved.Swap(moved[p.Name]) != moved[p.Name] && moved[p.Name] {
			m.log.Warn("the bucket of a region was changed in the configuration, or was gone: readers get the origin until the sweep has compared it with the index", "region", p.Name, "bucket", p.Bucket.Name())
		}
	}
	return nil
}

// sweep is one pass of the loop mirror.sweep.
func (l *life) sweep(ctx context.Context) (more bool, err error) {
	return l.sweeping.do(ctx, l.m, "compare the bucket with the index", l.sweepRegion)
}

// sweepRegion does what is to be done now in a region, up to about a thousand
// objects.
func (l *life) sweepRegion(ctx context.Context, p *place) (more bool, err error) {
	s, due, err := l.m.sweepState(ctx, p)
	if err != nil {
		return false, err
	}
	if err := l.prepare(ctx, p, due && s.anew()); err != nil {
		return false, err
	}
	if !due {
		return false, nil
	}
	if s.blank && s.share == 0 {
		ours, err := p.hasObjects(ctx)
		if err != nil {
			return false, err
		}
		if !ours {
			s.share = s.shares()
		}
	}
	for looked := 0; s.share < s.shares(); {
		n, err := l.sweepShare(ctx, p, s, s.prefix())
		if err != nil {
			return false, errors.Join(err, l.m.saveSweep(ctx, p, s))
		}
		s.share++
		if looked += n; looked >= lifeBatch && s.share < s.shares() {
			return true, l.m.saveSweep(ctx, p, s)
		}
	}
	if err := l.abortUploads(ctx, p); err != nil {
		return false, errors.Join(err, l.m.saveSweep(ctx, p, s))
	}
	s.ended, s.sure = timestamp.Now(), true
	return false, l.m.saveSweep(ctx, p, s)
}

// hasObjects tells whether there is anything of ours in a bucket.
func (p *place) hasObjects(ctx context.Context) (bool, error) {
	for o, err := range p.Bucket.List(ctx, keyPrefix) {
		if err != nil {
			return false, err
		}
		if _, _, kind := parseKey(o.Key); kind != foreign {
			return true, nil
		}
	}
	return false, nil
}

// anew tells that a sweep begins of a bucket that is another than before, or was
// gone.
func (s *sweep) anew() bool { return !s.sure && s.share == 0 }

// lose puts down that the bucket of a region was gone. What there is under its name
// later is as good as another bucket: the sweeps before it count no more.
func (m *Mirror) lose(ctx context.Context, p *place) error {
	err := m.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			INSERT INTO mirror_sweep (region, digits, share, began, ended, bucket, sure) VALUES ($1, 1, 0, $2, 0, '', $3)
			ON CONFLICT (region) DO UPDATE SET began = excluded.began, bucket = '', sure = excluded.sure WHERE mirror_sweep.bucket <> ''`,
			p.Name, timestamp.Now(), false)
		if n > 0 {
			tx.Wake(topicSweep, store.Everybody)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("mirror: put down that the bucket of %s was gone: %w", p.Name, err)
	}
	return nil
}

// prepare makes sure, once in the life of a process, and again where the bucket may
// be another, that it is there and that the store aborts uploads by itself that
// nobody finishes.
func (l *life) prepare(ctx context.Context, p *place, again bool) error {
	l.mu.Lock()
	done := l.ruled[p.Name]
	l.mu.Unlock()
	if done && !again {
		return nil
	}
	if err := p.Bucket.Ensure(ctx); err != nil {
		return err
	}
	err := p.Bucket.SetLifecycle(ctx, blob.Lifecycle{ID: "taskfleet-mirror", Prefix: keyPrefix, AbortAfter: abortAfter})
	if err != nil && !errors.Is(err, blob.ErrUnsupported) {
		// The sweep does the same, so it is no reason not to go on.
		l.m.log.Warn("the life-cycle rules of a bucket of the mirror cannot be set: allow s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration, or have uploads under "+namePrefix()+" aborted by a rule of your own",
			"region", p.Name, "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ruled[p.Name] = true
	return nil
}

// namePrefix is what the names of our objects begin with as others see them in a
// bucket.
func namePrefix() string {
	name, err := blob.Spell(keyPrefix + "x")
	if err != nil {
		panic("mirror: " + err.Error())
	}
	return strings.TrimSuffix(name, "x")
}

func (s *sweep) shares() int { return 1 << (4 * s.digits) }

// prefix is what the ids of the next share begin with.
func (s *sweep) prefix() string { return fmt.Sprintf("%0*x", s.digits, s.share) }

// digitsFor makes shares of about a thousand, and more of them than that takes
// where nobody knows how much there is.
func digitsFor(copies int64, known bool) int {
	digits := 1
	if !known || copies == 0 {
		digits = 2
	}
	for copies>>(4*digits) > lifeBatch {
		digits++
	}
	return digits
}

// sweepState is the sweep that is under way, or the one that is due.
func (m *Mirror) sweepState(ctx context.Context, p *place) (s *sweep, due bool, err error) {
	var copies, counted int64
	here := p.address()
	err = m.db.View(ctx, func(tx *store.Tx) error {
		s = &sweep{bucket: here, sure: true}
		err := tx.QueryRow(`SELECT digits, share, began, ended, bucket, sure FROM mirror_sweep WHERE region = $1`, p.Name).Scan(&s.digits, &s.share, &s.began, &s.ended, &s.bucket, &s.sure)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return tx.QueryRow(`SELECT COALESCE(SUM(objects), 0), COUNT(*) FROM mirror_tally WHERE region = $1`, p.Name).Scan(&copies, &counted)
	})
	if err != nil {
		return nil, false, err
	}
	s.blank = counted == 0 // of what was there once the tally says that there is nothing
	now := timestamp.Now()
	since := now.Sub(s.ended)
	switch {
	case s.bucket != here: // it was changed
		s.sure = false
	case s.began > s.ended: // under way
		return s, true, nil
	case since < sweepEvery && (!s.blank || since < emptyEvery):
		return nil, false, nil
	}
	next := &sweep{digits: digitsFor(copies, !s.ended.IsZero()), began: now, ended: s.ended, bucket: here, sure: s.sure, blank: s.blank}
	if s.blank {
		next.ended = 0 // it may have been lost
	}
	return next, true, nil
}

// saveSweep puts down how far a sweep is, also when the pass is over; unless the
// bucket was gone since it began.
func (m *Mirror) saveSweep(ctx context.Context, p *place, s *sweep) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveLimit)
	defer cancel()
	var saved int64
	err := m.db.Do(ctx, func(tx *store.Tx) (err error) {
		saved, err = tx.Exec(`
			INSERT INTO mirror_sweep (region, digits, share, began, ended, bucket, sure) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (region) DO UPDATE SET digits = excluded.digits, share = excluded.share, began = excluded.began, ended = excluded.ended,
			  bucket = excluded.bucket, sure = excluded.sure
			WHERE mirror_sweep.bucket <> '' OR mirror_sweep.began <= excluded.began`,
			p.Name, s.digits, s.share, s.began, s.ended, s.bucket, s.sure)
		return err
	})
	if err == nil && saved > 0 {
		p.health.moved.Store(!s.sure)
	}
	return err
}

// sweepShare compares a share of the bucket with that of the index, and returns
// how many objects it has seen. Rows are read first, since what is present stays
// where it is: one whose object is then not listed has lost it.
func (l *life) sweepShare(ctx context.Context, p *place, s *sweep, prefix string) (looked int, err error) {
	known, err := l.m.present(ctx, p, prefix)
	if err != nil {
		return 0, err
	}
	damaged := map[*Copy]*damage{}
	var strays []blob.Object
	for o, err := range p.Bucket.List(ctx, keysOf(prefix)) {
		if err != nil {
			return looked, err
		}
		id, token, kind := parseKey(o.Key)
		if kind == foreign {
			continue
		}
		looked++
		c := known[id]
		switch {
		case c == nil || c.Token != token:
			strays = append(strays, o)
		case kind == copyObject:
			if d := c.compare(o); d != nil {
				damaged[c] = d
			}
			delete(known, id)
		}
		if len(strays) == lifeBatch {
			if err := l.settle(ctx, p, s, strays); err != nil {
				return looked, err
			}
			strays = nil
		}
	}
	for _, c := range known {
		damaged[c] = objectGone
	}
	return looked, errors.Join(l.m.mend(ctx, damaged), l.settle(ctx, p, s, strays))
}

// present are the copies of a share that are there, as far as the index knows.
func (m *Mirror) present(ctx context.Context, p *place, prefix string) (known map[string]*Copy, err error) {
	err = m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		known = map[string]*Copy{}
		rows, err := tx.Query(`SELECT id, token, stored, size, sha256 FROM mirror_copy
			 WHERE region = $1 AND id >= $2 AND id < $3 AND state = 'present'`, p.Name, prefix, prefix+"g")
		if err != nil {
			return err
		}
		for rows.Next() {
			c := &Copy{Region: p.Name, State: Present}
			if err := rows.Scan(&c.ID, &c.Token, &c.Stored, &c.Size, &c.SHA256); err != nil {
				return err
			}
			known[c.ID] = c
		}
		return rows.Err()
	})
	return known, err
}

// withIDs are the rows of a region that there are now for ids.
func (m *Mirror) withIDs(ctx context.Context, p *place, ids map[string]bool) (rows map[string]*Copy, err error) {
	var keys [][]any
	for id := range ids {
		keys = append(keys, []any{p.Name, id})
	}
	err = m.db.View(ctx, func(tx *store.Tx) error {
		rows = map[string]*Copy{}
		return tx.QueryEach(`SELECT `+copyColumns+` FROM mirror_copy WHERE region = $1 AND id = $2`, keys, func(_ int, row store.Scanner) error {
			c, err := scanCopy(row)
			if err == nil {
				rows[c.ID] = c
			}
			return err
		})
	})
	return rows, err
}

// settle decides on objects that are not those of present copies. What an attempt
// has written that a row names is its own affair, and what leaves is deleted with
// its row. The rest becomes a copy where an index is made anew that has none and it
// is one (rebuild.go), or is what attempts have left.
func (l *life) settle(ctx context.Context, p *place, s *sweep, strays []blob.Object) error {
	if len(strays) == 0 {
		return nil
	}
	ids := map[string]bool{}
	for _, o := range strays {
		id, _, _ := parseKey(o.Key)
		ids[id] = true
	}
	rows, err := l.m.withIDs(ctx, p, ids) // after listing: a row is there before its object
	if err != nil {
		return err
	}
	open := map[string][]blob.Object{}
	var rubbish []blob.Object
	for _, o := range strays {
		id, token, kind := parseKey(o.Key)
		c := rows[id]
		switch {
		case c != nil && (c.Token == token || c.State == Leaving):
		case kind == copyObject && s.takes(o) && (c == nil || c.State == Waiting || c.State == Failed):
			open[id] = append(open[id], o)
		default:
			rubbish = append(rubbish, o)
		}
	}
	adopted, left, err := l.m.adopt(ctx, p, open, rows)
	if err != nil {
		return err
	}
	return l.discard(ctx, p, append(rubbish, left...), adopted)
}

// discard deletes objects that belong to nothing, once they are old enough.
func (l *life) discard(ctx context.Context, p *place, list []blob.Object, adopted map[string]string) error {
	var keys []string
	for _, o := range list {
		id, token, _ := parseKey(o.Key)
		if time.Since(o.Modified) > l.grace && adopted[id] != token {
			keys = append(keys, o.Key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := p.Bucket.Delete(ctx, keys...); err != nil {
		return err
	}
	l.m.metrics.found.WithLabelValues(p.Name, "orphan").Add(float64(len(keys)))
	l.m.log.Info("objects that belong to no copy were deleted", "region", p.Name, "objects", len(keys))
	return nil
}

// abortUploads aborts the uploads in a region's bucket that nobody will finish.
func (l *life) abortUploads(ctx context.Context, p *place) error {
	var list []blob.Upload
	flush := func() error {
		ids := map[string]bool{}
		for _, u := range list {
			id, _, _ := parseKey(u.Key)
			ids[id] = true
		}
		rows, err := l.m.withIDs(ctx, p, ids)
		if err != nil {
			return err
		}
		for _, u := range list {
			id, token, _ := parseKey(u.Key)
			if c := rows[id]; c != nil && c.Token == token && (c.State == Copying || c.State == Waiting) {
				continue // an attempt under way, or one that will be gone on with
			}
			if err := p.Bucket.AbortMultipart(ctx, u.Key, u.ID); err != nil {
				return err
			}
			l.m.metrics.found.WithLabelValues(p.Name, "upload").Inc()
			l.m.log.Info("an upload that nobody finished was removed", "region", p.Name, "key", u.Key, "started", u.Started)
		}
		list = nil
		return nil
	}
	for u, err := range p.Bucket.Uploads(ctx, keyPrefix) {
		if err != nil {
			return err
		}
		if _, _, kind := parseKey(u.Key); kind != copyObject || time.Since(u.Started) <= l.grace {
			continue
		}
		if list = append(list, u); len(list) == lifeBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
