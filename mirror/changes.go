package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A changes is what a transaction does to copies. Rows are listed, which locks
// them, assigned to in memory, and written at the end, so that tallies, events
// and wakes follow from what was changed, whoever changed it.
//
// Locks are taken in one order: copies by region and id, then tallies by region
// and state. Who lists rows to be changed orders them so, or skips those that are
// locked.
type changes struct {
	mirror *Mirror
	tx     *store.Tx
	rows   map[name]*row
}

// A name is what a copy is known by.
type name struct{ region, id string }

func (c *Copy) name() name { return name{c.Region, c.ID} }

func compareNames(a, b name) int {
	return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.id, b.id))
}

// topic is what is woken when something becomes of a copy that others wait for.
func (n name) topic() string { return "mirror." + n.region + "." + n.id }

// topicWork is what is woken when there is something to be copied.
const topicWork = "mirror.work"

// A row is a copy as it was and as it is to be.
type row struct {
	copy           *Copy
	was            Copy
	added, dropped bool
}

// change runs f in a transaction and writes down what it changes.
func (m *Mirror) change(ctx context.Context, f func(*changes) error) error {
	return m.db.Do(ctx, func(tx *store.Tx) error { return m.changeIn(tx, f) })
}

// changeIn is change as part of a transaction, at its end.
func (m *Mirror) changeIn(tx *store.Tx, f func(*changes) error) error {
	ch := &changes{mirror: m, tx: tx, rows: map[name]*row{}}
	if err := f(ch); err != nil {
		return err
	}
	return ch.write()
}

// list reads copies that may be changed: all that a statement returns, which
// selects copyColumns and locks the rows.
func (ch *changes) list(statement string, args ...any) ([]*Copy, error) {
	rows, err := ch.tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	var list []*Copy
	for rows.Next() {
		c, err := scanCopy(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, ch.remember(c))
	}
	return list, rows.Err()
}

// named reads the copies of those names that there are, to be changed.
func (ch *changes) named(names ...name) (list []*Copy, err error) {
	names = slices.Clone(names)
	slices.SortFunc(names, compareNames)
	names = slices.Compact(names)
	for len(names) > 0 {
		region, ids := names[0].region, []string{}
		for len(names) > 0 && names[0].region == region {
			ids, names = append(ids, names[0].id), names[1:]
		}
		some, err := ch.list(`SELECT `+copyColumns+` FROM mirror_copy
			WHERE region = $1 AND id IN (SELECT value FROM json_each($2)) ORDER BY id /*for update*/`, region, ids)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

func (ch *changes) remember(c *Copy) *Copy {
	if r := ch.rows[c.name()]; r != nil {
		return r.copy // as it has become
	}
	ch.rows[c.name()] = &row{copy: c, was: *c}
	return c
}

// add makes a row for a copy. If there is one after all, which another
// transaction has made meanwhile, this one runs again.
func (ch *changes) add(c *Copy) { ch.rows[c.name()] = &row{copy: c, added: true} }

// drop removes the row of a copy, whose bytes are gone.
func (ch *changes) drop(c *Copy) { ch.rows[c.name()].dropped = true }

// left is for when the bytes of a copy that is leaving are gone: so goes its row,
// or else the copy is made anew, as it was wanted meanwhile.
func (ch *changes) left(c *Copy) {
	if c.Again {
		wanted := c.SHA256
		c.restart()
		c.SHA256 = wanted
	} else {
		ch.drop(c)
	}
}

// write puts down what was changed. Nobody needs the answers but those to
// insertions, so PostgreSQL gets the rest together with COMMIT.
func (ch *changes) write() error {
	order := make([]*row, 0, len(ch.rows))
	for _, r := range ch.rows {
		if !(r.added && r.dropped) && (r.added || r.dropped || *r.copy != r.was) {
			order = append(order, r)
		}
	}
	slices.SortFunc(order, func(a, b *row) int { return compareNames(a.copy.name(), b.copy.name()) })
	tally := tally{}
	var messages []event.Outgoing
	for _, r := range order {
		if r.copy.State == Leaving && r.was.State != Leaving {
			r.copy.Requested, r.copy.Attempts = timestamp.Now(), 0 // to delete it
		}
		if !r.added {
			tally.count(&r.was, -1)
		}
		if !r.dropped {
			tally.count(r.copy, 1)
		}
		if x := r.outcome(); x != nil {
			messages = append(messages, r.copy.outgoing(x))
		}
		r.wake(ch.tx)
	}
	if err := ch.writeRows(order); err != nil {
		return err
	}
	if err := tally.write(ch.tx); err != nil {
		return err
	}
	return ch.mirror.events.PublishAll(ch.tx, messages)
}

// wake wakes those who wait for what became of a copy, and those who have
// something to do now.
func (r *row) wake(tx *store.Tx) {
	c, was := r.copy, &r.was
	if r.dropped || c.settled() && !was.settled() {
		tx.Wake(c.name().topic(), store.Everybody)
	}
	switch {
	case r.dropped:
	case c.State == Waiting && (was.State != Waiting || was.Due != c.Due):
		tx.Wake(topicWork, 1)
	case c.State == Leaving && was.State != Leaving:
		tx.Wake(topicLeaving, 1)
	}
}

// writeRows writes rows in the order of their names, as far as they have changed:
// what it costs to write a row is above all its indexes.
func (ch *changes) writeRows(order []*row) error {
	var added, dropped [][]any
	var statement string
	var changed [][]any // by that statement
	flush := func() error {
		rows := changed
		changed = nil
		return ch.tx.LaterEach(statement, rows, nil)
	}
	for _, r := range order {
		switch {
		case r.added:
			added = append(added, r.copy.values())
		case r.dropped:
			dropped = append(dropped, []any{r.copy.Region, r.copy.ID})
		default:
			text, values := r.update()
			if len(values) == 2 { // the name alone
				continue
			}
			if text != statement {
				if err := flush(); err != nil {
					return err
				}
				statement = text
			}
			changed = append(changed, values)
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := ch.tx.LaterEach(`DELETE FROM mirror_copy WHERE region = $1 AND id = $2`, dropped, nil); err != nil {
		return err
	}
	if len(added) == 0 {
		return nil
	}
	n, err := ch.tx.ExecEach(insertCopy, added)
	if err == nil && n < int64(len(added)) {
		err = store.ErrAgain
	}
	return err
}

// update is the statement that writes what has changed of a row.
func (r *row) update() (statement string, values []any) {
	mask, values := uint64(0), []any{r.copy.Region, r.copy.ID}
	for i := range columns {
		if is := columns[i].of(r.copy); is != columns[i].of(&r.was) {
			mask |= 1 << i
			values = append(values, is)
		}
	}
	if mask == 0 {
		return "", values
	}
	if text, ok := updates.Load(mask); ok {
		return text.(string), values
	}
	var set []string
	for i := range columns {
		if mask&(1<<i) != 0 {
			set = append(set, fmt.Sprintf("%s = $%d", columns[i].name, len(set)+3))
		}
	}
	statement = `UPDATE mirror_copy SET ` + strings.Join(set, ", ") + ` WHERE region = $1 AND id = $2`
	updates.Store(mask, statement)
	return statement, values
}

var updates sync.Map // statements, by what they set

// columns are those of a row that change.
var columns = []struct {
	name string
	of   func(*Copy) any
}{
	{"state", func(c *Copy) any { return string(c.State) }},
	{"priority", func(c *Copy) any { return int64(c.Priority) }},
	{"pinned", func(c *Copy) any { return c.Pinned }},
	{"again", func(c *Copy) any { return c.Again }},
	{"size", func(c *Copy) any { return c.Size }},
	{"lane", func(c *Copy) any { return int64(laneOf(c.Size)) }},
	{"etag", func(c *Copy) any { return c.ETag }},
	{"sha256", func(c *Copy) any { return c.SHA256 }},
	{"token", func(c *Copy) any { return c.Token }},
	{"stored", func(c *Copy) any { return c.Stored }},
	{"upload", func(c *Copy) any { return c.Upload.text() }},
	{"done", func(c *Copy) any { return c.Done }},
	{"requested", func(c *Copy) any { return int64(c.Requested) }},
	{"due", func(c *Copy) any { return int64(c.Due) }},
	{"attempts", func(c *Copy) any { return int64(c.Attempts) }},
	{"error", func(c *Copy) any { return c.Error }},
	{"lease", func(c *Copy) any { return c.Lease }},
	{"lease_until", func(c *Copy) any { return int64(c.LeaseUntil) }},
	{"expires", func(c *Copy) any { return int64(c.Expires) }},
	{"read", func(c *Copy) any { return int64(c.Read) }},
	{"verified", func(c *Copy) any { return int64(c.Verified) }},
}

// insertCopy inserts values.
var insertCopy = func() string {
	names, places := "region, id, origin", "$1, $2, $3"
	for i, c := range columns {
		names, places = names+", "+c.name, fmt.Sprintf("%s, $%d", places, i+4)
	}
	return `INSERT INTO mirror_copy (` + names + `) VALUES (` + places + `) ON CONFLICT (region, id) DO NOTHING`
}()

func (c *Copy) values() []any {
	values := []any{c.Region, c.ID, c.Origin.String()}
	for i := range columns {
		values = append(values, columns[i].of(c))
	}
	return values
}

// text is the column upload.
func (u *upload) text() string {
	if u == nil {
		return ""
	}
	text, err := json.Marshal(u)
	if err != nil {
		panic("mirror: an upload has no text: " + err.Error()) // it is strings, numbers and bytes
	}
	return string(text)
}
