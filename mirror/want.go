package mirror

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Want is somebody's wish for a copy.
type Want struct {
	Region   string
	Origin   Origin
	Priority Priority
	Pinned   bool
	Size     int64  // -1: not known
	SHA256   string // lower-case hex; "": not known
	Expires  timestamp.Time
}

func (w *Want) name() name { return name{w.Region, w.Origin.ID()} }

// wantLimit is how many calls of want share a transaction.
const wantLimit = 256

// want asks for copies and returns them as they are then, in the order of the
// list. They are shared with others who want the same: nobody writes to them.
//
// One that is there, or under way, stays so; what the want says is added: a higher
// priority, a later expiry, a pin. One that failed is tried again once it is due.
// One that is leaving finishes leaving, so that its bytes are not forgotten, and
// is made anew then. So is one that is there, if it is not known to have the
// SHA-256 that is wanted.
func (m *Mirror) want(ctx context.Context, list ...Want) ([]*Copy, error) {
	if len(list) == 0 {
		return nil, nil
	}
	for i := range list {
		if w := &list[i]; m.region(w.Region) == nil {
			return nil, noRegion(w)
		}
	}
	return m.wants.Do(ctx, list)
}

func noRegion(w *Want) error {
	return fmt.Errorf("mirror: %s cannot be copied to %q: no such region is configured, or it is where the artifacts are", w.Origin.public(), w.Region)
}

// wantAll does the work of many calls of want.
func (m *Mirror) wantAll(tx *store.Tx, calls []*store.Item[[]Want, []*Copy]) error {
	return m.changeIn(tx, func(ch *changes) error {
		byName := map[name]*Copy{}
		var order []*Want
		var names []name
		for _, call := range calls {
			for i := range call.In {
				order = append(order, &call.In[i])
				names = append(names, call.In[i].name())
			}
		}
		known, err := ch.named(names...)
		if err != nil {
			return err
		}
		for _, c := range known {
			byName[c.name()] = c
		}
		for i, w := range order {
			c := byName[names[i]]
			if c == nil {
				c = w.copy(names[i].id)
				byName[names[i]] = c
				ch.add(c)
			} else {
				w.apply(c)
			}
		}
		for _, call := range calls {
			call.Out = make([]*Copy, len(call.In))
			for i := range call.Out {
				call.Out[i] = byName[names[i]]
			}
			names = names[len(call.In):]
		}
		return nil
	})
}

// copy is a new copy.
func (w *Want) copy(id string) *Copy {
	now := timestamp.Now()
	return &Copy{
		Region: w.Region, ID: id, Origin: w.Origin, State: Waiting, Priority: w.Priority, Pinned: w.Pinned,
		Size: max(w.Size, -1), SHA256: w.SHA256, Requested: now, Due: now, Expires: w.Expires, Read: now,
	}
}

// apply adds a want to a copy that there is already.
func (w *Want) apply(c *Copy) {
	c.Priority = max(c.Priority, w.Priority)
	c.Pinned = c.Pinned || w.Pinned
	c.Expires = max(c.Expires, w.Expires)
	switch c.State {
	case Present:
		if w.SHA256 != "" && w.SHA256 != c.SHA256 {
			pinned := c.Pinned
			c.leave()
			c.Again, c.Pinned, c.SHA256 = true, pinned, w.SHA256
		}
		return
	case Leaving:
		c.Again, c.SHA256 = true, cmp.Or(w.SHA256, c.SHA256)
		return
	case Failed:
		if c.Due > timestamp.Now() {
			return
		}
		c.restart()
	}
	c.SHA256 = cmp.Or(w.SHA256, c.SHA256)
	if c.State == Waiting && c.Upload == nil && w.Size >= 0 && c.ETag == "" {
		c.Size = w.Size
	}
}

const (
	findLanes = 4
	findLimit = 256
)

// find returns a copy as it is, or store.ErrNotFound. It is shared with others
// who look for it at the same time: nobody writes to it.
func (m *Mirror) find(ctx context.Context, region, id string) (*Copy, error) {
	return m.finds.Do(ctx, name{region, id})
}

// findAll does the work of many calls of find, each copy once.
func (m *Mirror) findAll(tx *store.Tx, calls []*store.Item[name, *Copy]) error {
	names := make([]name, 0, len(calls))
	for _, call := range calls {
		names = append(names, call.In)
	}
	slices.SortFunc(names, compareNames)
	var keys [][]any
	for _, n := range slices.Compact(names) {
		keys = append(keys, []any{n.region, n.id})
	}
	found := map[name]*Copy{}
	err := tx.QueryEach(`SELECT `+copyColumns+` FROM mirror_copy WHERE region = $1 AND id = $2`, keys, func(_ int, row store.Scanner) error {
		c, err := scanCopy(row)
		found[c.name()] = c
		return err
	})
	if err != nil {
		return err
	}
	for _, call := range calls {
		if call.Out = found[call.In]; call.Out == nil {
			call.Err = store.ErrNotFound
		}
	}
	return nil
}
