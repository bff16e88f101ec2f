package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/blob"
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

// maxObject is what a copy may have: as much as can be put into a bucket.
const maxObject = 5 << 40

// size is what is counted of the size that is said. What somebody says of a URL is
// good for telling small copies from others: more than that is counted when the
// origin says it.
func (w *Want) size() int64 {
	if w.Size < 0 || w.Origin.URL != "" && w.Size > largeSize {
		return -1
	}
	return min(w.Size, maxObject)
}

// wantLimit is how many calls of want share a transaction.
const wantLimit = 256

// want asks for copies and returns them as they are then, in the order of the
// list. They are shared with others who want the same: nobody writes to them.
//
// One that is there, or under way, stays so; what the want says is added: a higher
// priority, a later expiry, a pin. One that failed is tried again once it is due.
// One that is leaving finishes leaving, so that its bytes are not forgotten, and
// is made anew then.
//
// What is there stays there whatever SHA-256 is wanted, as whoever wants one may be
// wrong. If it has another the want is refused: what is returned for it is no row,
// and its state is stateRefused.
func (m *Mirror) want(ctx context.Context, list ...Want) ([]*Copy, error) {
	if len(list) == 0 {
		return nil, nil
	}
	for i := range list {
		if w := &list[i]; m.region(w.Region) == nil {
			return nil, noRegion(w)
		}
	}
	out, err := m.wants.Do(ctx, list)
	if err == nil {
		m.prove(ctx, list, out)
	}
	return out, err
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
		out := make([]*Copy, len(order))
		for i, w := range order {
			c := byName[names[i]]
			switch why := w.refusal(c); {
			case why != "":
				c = w.refused(why)
			case c == nil:
				c = w.copy(names[i].id)
				byName[names[i]] = c
				ch.add(c)
			default:
				w.apply(c)
			}
			out[i] = c
		}
		for _, call := range calls {
			call.Out, out = out[:len(call.In):len(call.In)], out[len(call.In):]
		}
		return nil
	})
}

// refusal says why a want is refused, given the copy that there is, which may be
// nil; "": it is not.
func (w *Want) refusal(c *Copy) string {
	switch {
	case w.Origin.URL == "" && w.Size > maxObject:
		return tooLarge(w.Size)
	case c != nil && c.State == Present && w.SHA256 != "" && c.SHA256 != "" && w.SHA256 != c.SHA256:
		return fmt.Sprintf("The copy that is there has the SHA-256 %s, and one with %s is wanted. If the origin is another by now, purge the copy and ask again.", c.SHA256, w.SHA256)
	}
	return ""
}

func tooLarge(size int64) string {
	return fmt.Sprintf("It has %d bytes, and nothing is copied that has more than %d (5 TiB).", size, int64(maxObject))
}

// refused stands for the copy where a want is refused.
func (w *Want) refused(why string) *Copy {
	return &Copy{Region: w.Region, ID: w.Origin.ID(), Origin: w.Origin, State: stateRefused, Size: -1, Error: why}
}

// copy is a new copy.
func (w *Want) copy(id string) *Copy {
	now := timestamp.Now()
	return &Copy{
		Region: w.Region, ID: id, Origin: w.Origin, State: Waiting, Priority: w.Priority, Pinned: w.Pinned,
		Size: w.size(), SHA256: w.SHA256, Requested: now, Due: now, Expires: w.Expires, Read: now,
	}
}

// apply adds a want to a copy that there is already.
func (w *Want) apply(c *Copy) {
	c.Priority = max(c.Priority, w.Priority)
	c.Pinned = c.Pinned || w.Pinned
	c.Expires = max(c.Expires, w.Expires)
	switch c.State {
	case Present:
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
	if size := w.size(); c.State == Waiting && c.Upload == nil && size >= 0 && c.ETag == "" {
		c.Size = size
	}
}

// prove reads copies of which a SHA-256 is wanted and none is known, as the store
// made them by itself, and puts down which one they have. It reads up to
// verifyBytes while a caller waits; what is left is returned as waiting, and read
// when it is asked for again.
func (m *Mirror) prove(ctx context.Context, list []Want, out []*Copy) {
	left := int64(verifyBytes)
	var some []int
	for i, c := range out {
		switch w := &list[i]; {
		case w.SHA256 == "" || c.State != Present || c.SHA256 != "":
		case c.Size > verifyBytes:
			out[i] = w.refused(fmt.Sprintf("The SHA-256 of the copy that is there is not known, and its %d bytes are too many to be read while you wait. To have a copy that was compared, purge this one and ask again.", c.Size))
		case c.Size > left:
			out[i] = c.unproven("its SHA-256 is not known yet: it is read when it is asked for again")
		default:
			left -= c.Size
			some = append(some, i)
		}
	}
	each(ctx, some, func(ctx context.Context, i int) error {
		c, err := m.learn(ctx, out[i])
		if err == nil && c.State == Present && c.SHA256 == "" {
			err = errors.New("it was made anew meanwhile")
		}
		if err != nil {
			out[i] = out[i].unproven("its SHA-256 is not known, and cannot be found out: " + errorText(err))
		} else if out[i] = c; list[i].refusal(c) != "" {
			out[i] = list[i].refused(list[i].refusal(c))
		}
		return nil
	})
}

// unproven is how a copy is shown of which it is not known whether it is the one
// that is wanted.
func (c *Copy) unproven(why string) *Copy {
	shown := *c
	shown.State, shown.Error = Waiting, why
	return &shown
}

// learn finds out the SHA-256 of a present copy, and returns it as it is then.
func (m *Mirror) learn(ctx context.Context, c *Copy) (*Copy, error) {
	if away := m.away(c.Region); away != "" {
		return nil, errors.New(away)
	}
	sum := newHash()
	_, err := m.region(c.Region).hash(ctx, c, sum, blob.Range{})
	switch {
	case errors.Is(err, blob.ErrNotFound):
		err = m.mend(ctx, map[*Copy]*damage{c: objectGone})
	case errors.Is(err, blob.ErrChanged):
		err = m.mend(ctx, map[*Copy]*damage{c: objectReplaced})
	case err == nil:
		err = m.change(ctx, func(ch *changes) error {
			list, err := ch.named(c.name())
			for _, is := range list {
				if is.State == Present && is.Token == c.Token && is.SHA256 == "" {
					is.SHA256 = sum.sum()
				}
			}
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return m.find(ctx, c.Region, c.ID)
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
