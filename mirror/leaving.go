package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// topicLeaving is what is woken when copies are to be deleted.
const topicLeaving = "mirror.leaving"

const (
	lifeBatch = 1000 // copies or objects in a pass; as many as S3 deletes in a request

	// linger is for how long the bytes stay of a copy that leaves because nobody
	// wants it: somebody may have been sent there just now.
	linger = time.Minute

	stuckFor = 5 * time.Minute // until bytes that could not be deleted are tried again
)

// remove is one pass of the loop mirror.leaving.
func (l *life) remove(ctx context.Context) (more bool, err error) {
	return l.leaving.do(ctx, l.m, "delete copies", l.m.remove)
}

// remove deletes copies that are leaving a region. Bytes go before the row that
// names them: a crash in between leaves a row whose bytes are deleted again. What
// is left of earlier attempts at the copy goes with it.
func (m *Mirror) remove(ctx context.Context, p *place) (more bool, err error) {
	var list []*Copy
	err = m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		list, err = copies(tx, `SELECT `+copyColumns+` FROM mirror_copy
			 WHERE state = 'leaving' AND region = $1 AND due <= $2 ORDER BY id LIMIT $3`, p.Name, timestamp.Now(), lifeBatch)
		return err
	})
	if err != nil || len(list) == 0 {
		return false, err
	}
	r, failed := m.removeBytes(ctx, p, list)
	if ctx.Err() != nil || len(r.gone)+len(r.stuck) == 0 {
		return false, errors.Join(failed, ctx.Err())
	}
	err = m.change(ctx, func(ch *changes) error {
		var names []name
		was := map[name]*Copy{}
		for _, c := range list {
			if r.gone[c.name()] || r.stuck[c.name()] != nil {
				names, was[c.name()] = append(names, c.name()), c
			}
		}
		now, err := ch.named(names...)
		if err != nil {
			return err
		}
		for _, c := range now {
			switch why := r.stuck[c.name()]; {
			case c.State != Leaving || c.Token != was[c.name()].Token:
			case r.gone[c.name()]:
				ch.left(c)
			default:
				c.Attempts, c.Error = c.Attempts+1, errorText(why)
				if failed == nil { // else the whole region waits
					c.Due = timestamp.Now().Add(stuckFor)
				}
			}
		}
		return nil
	})
	return len(list) == lifeBatch && failed == nil, errors.Join(failed, err)
}

// giveUp is how many failures without a success say that nothing can be deleted
// now.
const giveUp = 5

// A removal is how deleting the bytes of copies goes. One whose bytes cannot be
// deleted is stuck, and in the way of no others.
type removal struct {
	mu    sync.Mutex
	keys  map[*Copy][]string
	gone  map[name]bool
	stuck map[name]error
}

// removeBytes deletes what there is of copies: of all at once; or, if that fails,
// of one after another. An error says that it is not for the copies that it fails;
// what came of those that were tried is told all the same.
//
// Rows are read again after their objects were listed: another replica may have
// removed a copy meanwhile and made a new one, whose object was listed, too.
func (m *Mirror) removeBytes(ctx context.Context, p *place, list []*Copy) (*removal, error) {
	r := &removal{keys: map[*Copy][]string{}, gone: map[name]bool{}, stuck: map[name]error{}}
	if err := each(ctx, list, func(ctx context.Context, c *Copy) error {
		keys, err := p.keysOf(ctx, c)
		r.mu.Lock()
		defer r.mu.Unlock()
		if err == nil {
			r.keys[c] = keys
			return nil
		}
		r.stuck[c.name()] = err
		return r.hopeless(ctx, err, len(r.keys), len(list))
	}); err != nil {
		return r, err
	}
	ids := map[string]bool{}
	for c := range r.keys {
		ids[c.ID] = true
	}
	now, err := m.withIDs(ctx, p, ids)
	if err != nil {
		return r, err
	}
	var all []string
	for c, some := range r.keys {
		if is := now[c.ID]; is == nil || is.State != Leaving || is.Token != c.Token {
			delete(r.keys, c)
			continue
		}
		all = append(all, some...)
	}
	together := p.Bucket.Delete(ctx, all...)
	for c, keys := range r.keys {
		err := together
		if together != nil {
			err = p.Bucket.Delete(ctx, keys...)
		}
		if err == nil {
			r.gone[c.name()] = true
			continue
		}
		r.stuck[c.name()] = err
		if err := r.hopeless(ctx, err, len(r.gone), len(list)); err != nil {
			return r, err
		}
	}
	return r, nil
}

// hopeless is err, if nothing says that it is about single copies.
func (r *removal) hopeless(ctx context.Context, err error, succeeded, of int) error {
	if ctx.Err() != nil || succeeded == 0 && len(r.stuck) >= min(giveUp, of) {
		return err
	}
	return nil
}

// keysOf are the objects that there are of a copy and of attempts at it. Its
// upload is aborted.
func (p *place) keysOf(ctx context.Context, c *Copy) (keys []string, err error) {
	if c.Upload != nil {
		if err := p.Bucket.AbortMultipart(ctx, c.key(), c.Upload.ID); err != nil {
			return nil, err
		}
	}
	for o, err := range p.Bucket.List(ctx, keysOf(c.ID)+".") {
		if err != nil {
			return nil, err
		}
		if _, _, kind := parseKey(o.Key); kind != foreign {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// copies reads copies that are not going to be changed.
func copies(tx *store.Tx, statement string, args ...any) (list []*Copy, err error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		c, err := scanCopy(rows)
		if err != nil {
			return nil, fmt.Errorf("mirror: read a copy: %w", err)
		}
		list = append(list, c)
	}
	return list, rows.Err()
}
