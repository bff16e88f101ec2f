package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An index that was lost is made anew by the sweep from what objects say of
// themselves (object.go): by the first sweep of a region, and none after it, as
// then what the index does not have was given up. One that was restored from a
// time ago is not lost: what it does not have is deleted, and copied again when
// somebody asks. An object becomes a copy if
//
//   - no copy of its origin is there or being made,
//   - its origin is one that would be copied, and has not expired: an artifact
//     that there is, or a URL that is still allowed,
//   - it has as many bytes as its metadata and the artifact's record say,
//   - and it has the SHA-256 that its metadata has, if that has one.
//
// What is purged meanwhile has a row, if only one that leaves (forestall in
// purge.go), and so does not become a copy.
//
// Pins are only in the index, and are lost with it.

const (
	adoptBatch = 100
	adoptBytes = 4 << 30
)

// rebuilt are the regions whose index will not be made anew any more.
func (m *Mirror) rebuilt(ctx context.Context) (regions map[string]bool, err error) {
	err = m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		regions = map[string]bool{}
		list, err := tx.Column(`SELECT region FROM mirror_sweep
			 WHERE ended > 0 AND EXISTS (SELECT 1 FROM mirror_tally WHERE mirror_tally.region = mirror_sweep.region)`)
		for _, region := range list {
			regions[region] = true
		}
		return err
	})
	return regions, err
}

// adopt makes copies of those objects that are some, one of each id. left are the
// others. It does so a few at a time, so that a pass that ends meanwhile has done
// something however much there is to be read.
func (m *Mirror) adopt(ctx context.Context, p *place, open map[string][]blob.Object, rows map[string]*Copy) (adopted map[string]string, left []blob.Object, err error) {
	adopted = map[string]string{}
	ids := slices.Sorted(maps.Keys(open))
	for len(ids) > 0 {
		n, bytes := 0, int64(0)
		for n < min(len(ids), adoptBatch) && bytes < adoptBytes {
			for _, o := range open[ids[n]] {
				bytes += o.Size
			}
			n++
		}
		some, others, err := m.adoptSome(ctx, p, ids[:n], open, rows)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(adopted, some)
		left, ids = append(left, others...), ids[n:]
	}
	return adopted, left, nil
}

func (m *Mirror) adoptSome(ctx context.Context, p *place, ids []string, open map[string][]blob.Object, rows map[string]*Copy) (adopted map[string]string, left []blob.Object, err error) {
	var mu sync.Mutex
	found := map[name]*Copy{}
	err = each(ctx, ids, func(ctx context.Context, id string) error {
		list := open[id]
		slices.SortFunc(list, func(a, b blob.Object) int { return b.Modified.Compare(a.Modified) })
		for i, o := range list {
			c, err := m.examine(ctx, p, o, rows[id])
			if err != nil && !errors.Is(err, errNotACopy) {
				return err
			}
			mu.Lock()
			if err != nil {
				m.log.Debug("an object is no copy", "region", p.Name, "reason", err)
				left = append(left, o)
			} else {
				found[c.name()] = c
				left = append(left, list[i+1:]...)
			}
			mu.Unlock()
			if err == nil {
				break
			}
		}
		return nil
	})
	adopted = map[string]string{}
	if err != nil || len(found) == 0 {
		return adopted, left, err
	}
	var names []name
	for n := range found {
		names = append(names, n)
	}
	err = m.change(ctx, func(ch *changes) error {
		clear(adopted)
		list, err := ch.named(names...)
		if err != nil {
			return err
		}
		rest := map[name]bool{}
		for _, n := range names {
			rest[n] = true
		}
		for _, c := range list {
			delete(rest, c.name())
			if c.State == Waiting || c.State == Failed {
				c.become(found[c.name()])
				adopted[c.ID] = c.Token
			}
		}
		for n := range rest {
			c := *found[n] // the transaction may run again
			ch.add(&c)
			adopted[c.ID] = c.Token
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	m.metrics.found.WithLabelValues(p.Name, "adopted").Add(float64(len(adopted)))
	m.log.Info("copies that the index did not have were found in the bucket", "region", p.Name, "copies", len(adopted))
	return adopted, left, m.confirm(ctx, p, adopted, found)
}

// confirm looks once more for the objects of copies that were adopted. To examine
// others may have taken long, and whoever was purged meanwhile may have come and
// gone, with its row.
func (m *Mirror) confirm(ctx context.Context, p *place, adopted map[string]string, found map[name]*Copy) error {
	var mu sync.Mutex
	damaged := map[*Copy]*damage{}
	err := each(ctx, slices.Collect(maps.Keys(adopted)), func(ctx context.Context, id string) error {
		c := found[name{p.Name, id}]
		d, err := p.look(ctx, c)
		if d != nil {
			mu.Lock()
			defer mu.Unlock()
			damaged[c] = d
		}
		return err
	})
	return errors.Join(err, m.mend(ctx, damaged))
}

// become has a copy that was to be made be the one that is there.
func (c *Copy) become(found *Copy) {
	f := *found
	f.Priority, f.Pinned, f.Expires, f.Read = c.Priority, c.Pinned, max(c.Expires, f.Expires), max(c.Read, f.Read)
	*c = f
}

// examine finds out which copy an object is. If it is none, or not one that can
// be served, the error is an errNotACopy. row is what the index has of it, if
// anything.
func (m *Mirror) examine(ctx context.Context, p *place, o blob.Object, row *Copy) (*Copy, error) {
	o, err := p.Bucket.Stat(ctx, o.Key)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("%w: it is gone", errNotACopy)
	} else if err != nil {
		return nil, err
	}
	c, err := fromObject(o, func() (string, error) { return p.readText(ctx, o.Key+originSuffix) })
	if err != nil {
		return nil, err
	}
	now := timestamp.Now()
	stored := timestamp.Of(o.Modified)
	c.Region, c.Priority, c.Requested, c.Due, c.Read, c.Verified = p.Name, Ahead, stored, now, stored, now
	if err := m.vouch(ctx, c); err != nil {
		return nil, err
	}
	if row != nil {
		if row.SHA256 != "" && c.SHA256 != "" && row.SHA256 != c.SHA256 || row.ETag != "" && c.ETag != "" && row.ETag != c.ETag {
			return nil, fmt.Errorf("%w: object %q is of another version of the origin", errNotACopy, o.Key)
		}
		c.SHA256 = cmp.Or(c.SHA256, row.SHA256)
	}
	if c.SHA256 != "" && o.SHA256 == "" { // nobody but the bytes can tell
		if c.Size > rereadBytes {
			return nil, fmt.Errorf("%w: object %q is too large to be read", errNotACopy, o.Key)
		}
		limited, cancel := context.WithTimeout(ctx, rereadTime)
		defer cancel()
		d, err := p.reread(limited, c)
		if err != nil && limited.Err() != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("%w: object %q cannot be read within %s", errNotACopy, o.Key, rereadTime)
		} else if err != nil {
			return nil, err
		}
		if d != nil {
			return nil, fmt.Errorf("%w: object %q: %s", errNotACopy, o.Key, d.detail)
		}
	}
	return c, nil
}

// vouch fills in until when a copy may stay, or says why it may not.
func (m *Mirror) vouch(ctx context.Context, c *Copy) error {
	if c.Origin.URL != "" {
		if o, err := m.guide.origin(c.Origin.URL); err != nil || o != c.Origin {
			return fmt.Errorf("%w: it is of a URL that is not allowed any more", errNotACopy)
		}
	} else {
		if c.Origin.Bucket != m.guide.artifacts {
			return fmt.Errorf("%w: it is of something in the bucket %s, where no artifacts are", errNotACopy, c.Origin.Bucket)
		}
		a, err := m.catalog.ArtifactAt(ctx, c.Origin.Key)
		var gone *api.Error
		switch {
		case errors.As(err, &gone) && (gone.Code == api.ResourceNotFound || gone.Code == api.ResourceExpired):
			return fmt.Errorf("%w: the artifact is gone", errNotACopy)
		case err != nil:
			return err
		case a.Open || a.Size >= 0 && a.Size != c.Size:
			return fmt.Errorf("%w: the artifact is another by now", errNotACopy)
		}
		c.Expires = a.Expires
	}
	if c.Expires <= timestamp.Now() {
		return fmt.Errorf("%w: it has expired", errNotACopy)
	}
	return nil
}

// What is read of an object in a pass, which has an hour: what takes more is
// copied again.
const (
	rereadBytes = 64 << 30
	rereadTime  = 30 * time.Minute
)

// maxText is more than any origin has.
const maxText = 64 << 10

// readText reads an object that is text.
func (p *place) readText(ctx context.Context, key string) (string, error) {
	r, err := p.Bucket.Get(ctx, key, blob.Range{})
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxText))
	return string(text), err
}
