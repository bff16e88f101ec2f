package mirror

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/taskfleet/taskfleet/store"
)

// A tally is copies counted by region and state: what a transaction adds to
// mirror_tally, or what is there.
type tally map[tallied]Sum

type tallied struct {
	region string
	state  State
}

// A Sum is how many copies there are, and what they hold. Those whose size is not
// known yet count as empty.
type Sum struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (t tally) count(c *Copy, n int64) {
	key := tallied{c.Region, c.State}
	s := t[key]
	t[key] = Sum{s.Objects + n, s.Bytes + n*c.bytes()}
}

// write adds it to the table, in the order in which everybody locks its rows.
func (t tally) write(tx *store.Tx) error {
	var rows [][]any
	for _, k := range slices.SortedFunc(maps.Keys(t), func(a, b tallied) int {
		return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.state, b.state))
	}) {
		if s := t[k]; s != (Sum{}) {
			rows = append(rows, []any{k.region, k.state, s.Objects, s.Bytes})
		}
	}
	return tx.LaterRows(`
		INSERT INTO mirror_tally (region, state, objects, bytes) VALUES /*row*/($1, $2, $3, $4)/*row*/
		ON CONFLICT (region, state) DO UPDATE
		  SET objects = mirror_tally.objects + excluded.objects, bytes = mirror_tally.bytes + excluded.bytes`, rows, nil)
}

// tallies are what there is, at one moment. A state in which there is nothing may
// be missing.
func (m *Mirror) tallies(ctx context.Context) (t tally, err error) {
	err = m.db.ViewOnce(ctx, func(tx *store.Tx) error {
		t = tally{}
		rows, err := tx.Query(`SELECT region, state, objects, bytes FROM mirror_tally`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var k tallied
			var s Sum
			if err := rows.Scan(&k.region, &k.state, &s.Objects, &s.Bytes); err != nil {
				return err
			}
			t[k] = s
		}
		return rows.Err()
	})
	return t, err
}
