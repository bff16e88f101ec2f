package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An index that was lost, or restored from a time ago, is made anew by the sweep
// from what objects say of themselves (object.go). An object becomes a copy if
//
//   - no copy of its origin is there or being made,
//   - its origin is one that would be copied, and has not expired: an artifact
//     that there is, or a URL that is still allowed,
//   - it has as many bytes as its metadata and the artifact's record say,
//   - and it has the SHA-256 that its metadata has, if that has one.
//
// Pins are only in the index, and are lost with it.

// adopt makes copies of those objects that are some, one of each id. left are the
// others.
func (m *Mirror) adopt(ctx context.Context, p *place, open map[string][]blob.Object, rows map[string]*Copy) (adopted map[string]string, left []blob.Object, err error) {
	var ids []string
	for id := range open {
		ids = append(ids, id)
	}
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
	return adopted, left, nil
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
	c.Region, c.Priority, c.Requested, c.Due, c.Read, c.Verified = p.Name, Ahead, now, now, timestamp.Of(o.Modified), now
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
		d, err := p.reread(ctx, c)
		if err != nil {
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

// rereadBytes are no more than can be read in a pass.
const rereadBytes = 64 << 30

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
