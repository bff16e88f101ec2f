package mirror

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	verifyEvery = 7 * 24 * time.Hour // a copy's size and ETag are compared that often, and its bytes no more often
	verifyBatch = 200                // copies of a region in a pass

	// firstLook is when a copy is compared for the first time, since what the queue
	// has signed for a worker to put an artifact with is good for three quarters of
	// an hour, and that after the run has ended, too. It stands in freshCopies and
	// in an index as well.
	firstLook = time.Hour

	// What the scrubber reads of each region's copies, to compare their SHA-256:
	// 32 GiB an hour are 9 MiB a second, or five terabytes a week.
	scrubHourly = 32 << 30
	scrubSaved  = time.Hour // of budget that was not used
	scrubPass   = 4 << 30   // at a time

	verifyBytes = 256 << 20 // of a copy that is read while a caller waits
)

// scrub is one pass of the loop mirror.scrub.
func (l *life) scrub(ctx context.Context) (more bool, err error) {
	return l.scrubs.do(ctx, l.m, "compare copies with what is in the bucket", func(ctx context.Context, p *place) (bool, error) {
		looked, err := l.m.lookAtOldest(ctx, p)
		if err != nil {
			return false, err
		}
		read, err := l.m.readAgain(ctx, p)
		return looked || read, err
	})
}

// A damage is what is wrong with the object of a present copy.
type damage struct{ what, detail string }

var (
	objectGone     = &damage{"missing", "the object is not in the bucket any more"}
	objectReplaced = &damage{"changed", "the object was replaced by another"}
	originWritten  = &damage{"outdated", "the origin was written again since it was copied"}
)

// fresh tells that a copy was not compared yet since it was old enough.
func (c *Copy) fresh() bool { return c.Verified < c.Requested.Add(firstLook) }

// look compares a present copy with what the bucket says of it and, if it is of an
// object of ours, with what is there now.
func (m *Mirror) look(ctx context.Context, p *place, c *Copy) (*damage, error) {
	if d, err := p.look(ctx, c); d != nil || err != nil || c.Origin.URL != "" || c.ETag == "" {
		return d, err
	}
	o, err := m.guide.bucket.Stat(ctx, c.Origin.Key)
	switch {
	case errors.Is(err, blob.ErrNotFound): // it has expired, and so will the copy
		return nil, nil
	case err != nil:
		return nil, err
	case o.ETag != c.ETag:
		return originWritten, nil
	}
	return nil, nil
}

// look compares what the bucket says of a present copy with what is known of it.
func (p *place) look(ctx context.Context, c *Copy) (*damage, error) {
	o, err := p.Bucket.Stat(ctx, c.key())
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return objectGone, nil
	case err != nil:
		return nil, err
	}
	return c.compare(o), nil
}

// compare is look by what was listed, or asked for.
func (c *Copy) compare(o blob.Object) *damage {
	switch {
	case o.Size != c.Size:
		return &damage{"changed", fmt.Sprintf("the object has %d bytes instead of %d", o.Size, c.Size)}
	case o.ETag != c.Stored:
		return &damage{"changed", fmt.Sprintf("the object has the ETag %s instead of %s", o.ETag, c.Stored)}
	case o.SHA256 != "" && c.SHA256 != "" && o.SHA256 != c.SHA256:
		return &damage{"changed", fmt.Sprintf("the object has the SHA-256 %s instead of %s", o.SHA256, c.SHA256)}
	}
	return nil
}

// mend has copies that were found damaged not be served any more, and made anew
// once what there is of them is gone; unless they have changed since they were
// looked at.
func (m *Mirror) mend(ctx context.Context, found map[*Copy]*damage) error {
	if len(found) == 0 {
		return nil
	}
	names := make([]name, 0, len(found))
	by := map[name]*Copy{}
	for c := range found {
		names, by[c.name()] = append(names, c.name()), c
	}
	var counts map[string]int
	var some *Copy // for an example
	err := m.change(ctx, func(ch *changes) error {
		counts = map[string]int{}
		list, err := ch.named(names...)
		for _, c := range list {
			seen := by[c.name()]
			if c.State != Present || c.Token != seen.Token {
				continue
			}
			d, pinned := found[seen], c.Pinned
			c.leave()
			c.Again, c.Pinned, c.Error = true, pinned, d.detail
			if d == originWritten {
				c.Size = -1
			}
			ch.tx.Wake(topicLeaving, 1)
			counts[d.what]++
			some = c
		}
		return err
	})
	if err != nil || len(counts) == 0 {
		return err
	}
	for what, n := range counts { // all are of a region
		m.metrics.found.WithLabelValues(some.Region, what).Add(float64(n))
	}
	m.log.Error("copies are not what they are to be, and are made anew", "region", some.Region, "copies", counts, "among them", some.ID, "reason", some.Error)
	return nil
}

// sound notes that copies are as they should be.
func (m *Mirror) sound(ctx context.Context, list []*Copy) error {
	if len(list) == 0 {
		return nil
	}
	now := timestamp.Now()
	rows := make([][]any, 0, len(list))
	for _, c := range slices.SortedFunc(slices.Values(list), func(a, b *Copy) int { return compareNames(a.name(), b.name()) }) {
		rows = append(rows, []any{c.Region, c.ID, c.Token, now})
	}
	return m.db.Do(ctx, func(tx *store.Tx) error {
		return tx.LaterEach(`UPDATE mirror_copy SET verified = $4 WHERE region = $1 AND id = $2 AND token = $3`, rows, nil)
	})
}

const (
	freshCopies = `SELECT ` + copyColumns + ` FROM mirror_copy
		WHERE state = 'present' AND verified < requested + 3600000 AND region = $1 AND requested <= $2 ORDER BY requested LIMIT $3`
	oldestCopies = `SELECT ` + copyColumns + ` FROM mirror_copy
		WHERE state = 'present' AND region = $1 AND verified <= $2 ORDER BY verified LIMIT $3`
)

// lookAtOldest compares those copies of a region that are to be for the first time,
// and those whose comparison is longest ago and due.
func (m *Mirror) lookAtOldest(ctx context.Context, p *place) (more bool, err error) {
	var list []*Copy
	now := timestamp.Now()
	err = m.db.View(ctx, func(tx *store.Tx) error {
		fresh, err := copies(tx, freshCopies, p.Name, now.Add(-firstLook), verifyBatch)
		if err != nil {
			return err
		}
		oldest, err := copies(tx, oldestCopies, p.Name, now.Add(-verifyEvery), verifyBatch)
		if err != nil {
			return err
		}
		more = len(fresh) == verifyBatch || len(oldest) == verifyBatch
		seen := map[name]bool{}
		list = slices.DeleteFunc(append(fresh, oldest...), func(c *Copy) bool {
			again := seen[c.name()]
			seen[c.name()] = true
			return again
		})
		return nil
	})
	if err != nil || len(list) == 0 {
		return false, err
	}
	var mu sync.Mutex
	var sound []*Copy
	damaged := map[*Copy]*damage{}
	var failures []error
	err = each(ctx, list, func(ctx context.Context, c *Copy) error {
		d, err := m.look(ctx, p, c)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			if failures = append(failures, err); ctx.Err() != nil || len(sound)+len(damaged) == 0 && len(failures) == giveUp {
				return err
			}
		case d != nil:
			damaged[c] = d
		default:
			sound = append(sound, c)
		}
		return nil
	})
	return more && err == nil && len(failures) == 0, errors.Join(err, m.mend(ctx, damaged), m.sound(ctx, sound), errors.Join(failures...))
}

// A reading is how far the scrubber is in a region: a row of mirror_scrub. It
// reads copies in the order of their ids, round after round, and large ones in
// many passes.
type reading struct {
	id, token string
	done      int64
	hash      hash.Hash
	paid      timestamp.Time // until when the budget is spent
	round     timestamp.Time // when this one began
}

// readAgain reads what the budget allows of a region's copies whose SHA-256 is
// known, and compares it.
func (m *Mirror) readAgain(ctx context.Context, p *place) (more bool, err error) {
	at, err := m.reading(ctx, p)
	if err != nil {
		return false, err
	}
	now := timestamp.Now()
	at.paid = max(at.paid, now.Add(-scrubSaved))
	budget := int64(now.Sub(at.paid).Hours() * scrubHourly)
	left := min(budget, scrubPass)
	var failure error
	for n := 0; left > 0 && n < verifyBatch && failure == nil; n++ {
		if at.id == "" {
			if now.Sub(at.round) < verifyEvery {
				break
			}
			at.round = now
		}
		c, err := m.toRead(ctx, p, at)
		if err != nil {
			return false, err
		}
		if c == nil { // the round is over
			at.id, at.token, at.done, at.hash = "", "", 0, nil
			break
		}
		var read int64
		read, _, failure = m.readOn(ctx, p, at, c, left)
		left -= read
		more = n == verifyBatch-1
	}
	spent := min(budget, scrubPass) - left
	m.metrics.scrubbed.WithLabelValues(p.Name).Add(float64(spent))
	at.paid = at.paid.Add(time.Duration(float64(spent) / scrubHourly * float64(time.Hour)))
	return more && left > 0 || left <= 0 && budget > scrubPass, errors.Join(failure, m.saveReading(ctx, p, at))
}

// toRead is the copy that is being read, or the next one; nil behind the last.
func (m *Mirror) toRead(ctx context.Context, p *place, at *reading) (*Copy, error) {
	var list []*Copy
	err := m.db.ViewOnce(ctx, func(tx *store.Tx) (err error) {
		list, err = copies(tx, `SELECT `+copyColumns+` FROM mirror_copy
			 WHERE region = $1 AND id >= $2 AND (id > $2 OR token = $3) AND state = 'present' AND sha256 <> '' ORDER BY id LIMIT 1`, p.Name, at.id, at.token)
		return err
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// readOn goes on with a copy for up to limit bytes. whole says that it is done
// with.
func (m *Mirror) readOn(ctx context.Context, p *place, at *reading, c *Copy, limit int64) (read int64, whole bool, err error) {
	if at.id != c.ID || at.token != c.Token || at.hash == nil {
		at.id, at.token, at.done, at.hash = c.ID, c.Token, 0, sha256.New()
	}
	over := func(d *damage) (int64, bool, error) {
		at.token, at.done, at.hash = "", 0, nil
		if d != nil {
			return read, true, m.mend(ctx, map[*Copy]*damage{c: d})
		}
		if c.fresh() {
			return read, true, nil // the first look is to come, at the origin as well
		}
		return read, true, m.sound(ctx, []*Copy{c})
	}
	if c.Size > 0 {
		want := min(limit, c.Size-at.done)
		read, err = p.hash(ctx, c, at.hash, blob.Range{Offset: at.done, Length: want})
		at.done += read
		switch {
		case errors.Is(err, blob.ErrNotFound):
			return over(objectGone)
		case errors.Is(err, blob.ErrChanged) || errors.Is(err, blob.ErrRange):
			return over(objectReplaced)
		case err != nil:
			// What was read is not known to be all that was hashed.
			at.token, at.done, at.hash = "", 0, nil
			return read, false, err
		case at.done < c.Size:
			return read, false, nil
		}
	}
	if sum := hex.EncodeToString(at.hash.Sum(nil)); sum != c.SHA256 {
		return over(&damage{"changed", fmt.Sprintf("the SHA-256 of the bytes is %s instead of %s", sum, c.SHA256)})
	}
	return over(nil)
}

// hash adds a range of a copy's bytes to h.
func (p *place) hash(ctx context.Context, c *Copy, h hash.Hash, r blob.Range) (int64, error) {
	body, err := p.Bucket.GetIf(ctx, c.key(), r, c.Stored)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if body.Size != c.Size {
		return 0, fmt.Errorf("%w: it has %d bytes instead of %d", blob.ErrChanged, body.Size, c.Size)
	}
	n, err := io.Copy(h, body)
	if n == body.Length {
		err = nil // at most that a checksum of the store differs: h tells that, too
	}
	return n, err
}

func (m *Mirror) reading(ctx context.Context, p *place) (*reading, error) {
	at := &reading{}
	var state string
	err := m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT id, token, done, hash, paid, round FROM mirror_scrub WHERE region = $1`, p.Name).Scan(&at.id, &at.token, &at.done, &state, &at.paid, &at.round)
	})
	if errors.Is(err, store.ErrNotFound) {
		return &reading{}, nil
	} else if err != nil {
		return nil, err
	}
	if b, err := base64.StdEncoding.DecodeString(state); err == nil && len(b) > 0 {
		at.hash = sha256.New()
		if at.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(b) != nil {
			at.hash = nil // of another version: the copy is read from its beginning
		}
	}
	return at, nil
}

func (m *Mirror) saveReading(ctx context.Context, p *place, at *reading) error {
	state := ""
	if at.hash != nil {
		b, err := at.hash.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return err
		}
		state = base64.StdEncoding.EncodeToString(b)
	}
	return m.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`
			INSERT INTO mirror_scrub (region, id, token, done, hash, paid, round) VALUES ($1, $2, $3, $4, $5, $6, $7)
			ON CONFLICT (region) DO UPDATE SET id = excluded.id, token = excluded.token, done = excluded.done, hash = excluded.hash,
			  paid = excluded.paid, round = excluded.round`,
			p.Name, at.id, at.token, at.done, state, at.paid, at.round)
		return err
	})
}

// verify compares a copy with what is in the bucket, now, and returns it as it is
// after that: with Verified, or leaving and to be made anew. One that is not
// present is returned as it is. Its bytes are read where their SHA-256 is known
// and there are no more than verifyBytes; those of larger ones the scrubber reads.
func (m *Mirror) verify(ctx context.Context, region, id string) (*Copy, error) {
	c, err := m.find(ctx, region, id)
	if err != nil || c.State != Present {
		return c, err
	}
	p := m.region(region)
	if p == nil {
		return nil, fmt.Errorf("mirror: verify the copy of %s: there is no region %q in the configuration", c.Origin.public(), region)
	}
	d, err := m.look(ctx, p, c)
	if err == nil && d == nil && c.SHA256 != "" && c.Size <= verifyBytes {
		d, err = p.reread(ctx, c)
	}
	if err != nil {
		return nil, fmt.Errorf("mirror: verify the copy of %s in %s: %w", c.Origin.public(), region, err)
	}
	if d != nil {
		err = m.mend(ctx, map[*Copy]*damage{c: d})
	} else {
		err = m.sound(ctx, []*Copy{c})
	}
	if err != nil {
		return nil, err
	}
	return m.find(ctx, region, id)
}

// reread reads all of a copy and compares it.
func (p *place) reread(ctx context.Context, c *Copy) (*damage, error) {
	h := sha256.New()
	_, err := p.hash(ctx, c, h, blob.Range{})
	switch sum := hex.EncodeToString(h.Sum(nil)); {
	case errors.Is(err, blob.ErrNotFound):
		return objectGone, nil
	case errors.Is(err, blob.ErrChanged):
		return objectReplaced, nil
	case err != nil:
		return nil, err
	case sum != c.SHA256:
		return &damage{"changed", fmt.Sprintf("the SHA-256 of the bytes is %s instead of %s", sum, c.SHA256)}, nil
	}
	return nil, nil
}
