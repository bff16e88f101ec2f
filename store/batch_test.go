package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

var errUnwanted = errors.New("unwanted")

// add inserts the items it is given and answers how many were inserted
// together. A name that begins with "un" is refused, "bad" is one that the
// database refuses, "panic" one that does what it says.
func add(tx *store.Tx, items []*store.Item[string, int]) error {
	var rows [][]any
	for _, it := range items {
		switch {
		case strings.HasPrefix(it.In, "un"):
			it.Err = errUnwanted
			continue
		case it.In == "panic":
			panic("asked to")
		case it.In == "bad":
			rows = append(rows, []any{"\x00", 1})
			continue
		}
		rows = append(rows, []any{it.In, 1})
	}
	n, err := tx.ExecRows(`INSERT INTO item (name, count) VALUES /*row*/($1, $2)/*row*/`, rows)
	for _, it := range items {
		it.Out = int(n)
	}
	return err
}

// gate holds transactions up until it is opened.
func gated(db *store.DB, gate <-chan struct{}) func(context.Context, func(*store.Tx) error) error {
	return func(ctx context.Context, f func(*store.Tx) error) error {
		<-gate
		return db.Do(ctx, f)
	}
}

type answer struct {
	together int
	err      error
}

// together calls b with all names while the first one's transaction is held up.
func together(t *testing.T, ctx context.Context, b *store.Batch[string, int], gate chan struct{}, names ...string) map[string]answer {
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]answer{}
	for _, name := range names {
		wg.Go(func() {
			n, err := b.Do(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			got[name] = answer{n, err}
		})
		synctest.Wait()
	}
	close(gate)
	wg.Wait()
	return got
}

func TestCallsThatComeTogetherShareATransaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		gate := make(chan struct{})
		b := store.NewBatch(gated(db, gate), 1, 4, add)
		got := together(t, t.Context(), b, gate, "a", "b", "un", "c", "d", "e")
		// The first runs alone, then come four at a time: b, un, c, d.
		for name, want := range map[string]answer{"a": {1, nil}, "b": {3, nil}, "un": {3, errUnwanted}, "c": {3, nil}, "d": {3, nil}, "e": {1, nil}} {
			if got[name] != want {
				t.Errorf("%s is answered %v, want %v", name, got[name], want)
			}
		}
		if have := fmt.Sprint(names(t, db)); have != "[a b c d e]" {
			t.Errorf("there are %s", have)
		}
	})
}

func TestOneThatFailsTheTransactionFailsAlone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		do(t, db, `INSERT INTO item (name) VALUES ('there')`)
		gate := make(chan struct{})
		b := store.NewBatch(gated(db, gate), 1, 64, add)
		got := together(t, t.Context(), b, gate, "a", "b", "there", "bad", "panic", "un", "c")
		for _, name := range []string{"a", "b", "c"} {
			if got[name].err != nil {
				t.Errorf("%s failed: %v", name, got[name].err)
			}
		}
		if !errors.Is(got["there"].err, store.ErrConflict) || !errors.Is(got["bad"].err, store.ErrInvalidText) || got["un"].err != errUnwanted {
			t.Errorf("the wrong ones fail of %v", got)
		}
		if err := got["panic"].err; err == nil || !strings.Contains(err.Error(), "asked to") {
			t.Errorf("the panic became %v", err)
		}
		if have := fmt.Sprint(names(t, db)); have != "[a b c there]" {
			t.Errorf("there are %s", have)
		}
	})
}

// Not each of many calls finds out for itself that the database is not there.
func TestABatchGivesUpTogether(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) {
			db := storetest.Open(t, url)
			tries := 0
			gate := make(chan struct{})
			b := store.NewBatch(gated(db, gate), 1, 64, func(tx *store.Tx, items []*store.Item[string, int]) error {
				tries++
				if len(items) == 1 && strings.HasPrefix(items[0].In, "un") {
					items[0].Err = errUnwanted
					return nil
				}
				return exec(`DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$`)(tx)
			})
			got := together(t, t.Context(), b, gate, "un0", "un1", "a", "b", "c", "d")
			if got["un1"].err != errUnwanted {
				t.Errorf("its own failure became %v", got["un1"].err)
			}
			for _, name := range []string{"a", "b", "c", "d"} {
				if err := got[name].err; err == nil || !strings.Contains(err.Error(), "gave up after 12 tries: ") {
					t.Errorf("%s is answered %v", name, err)
				}
			}
			// un0 alone, twelve times all others, un1 alone, and a as often again.
			if tries != 26 {
				t.Errorf("%d tries", tries)
			}
		})
	})
}

func TestAFullLaneDoesNotHoldUpTheOther(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		gate := make(chan struct{})
		b := store.NewBatch(gated(db, gate), 2, 64, add)
		got := together(t, t.Context(), b, gate, "a", "b", "c", "d")
		if got["a"].together != 1 || got["b"].together != 1 {
			t.Errorf("the two that found a free lane were answered %v", got)
		}
		for name, a := range got {
			if a.err != nil {
				t.Errorf("%s failed: %v", name, a.err)
			}
		}
	})
}

func TestWhoLeavesTheLineLeavesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		gate := make(chan struct{})
		b := store.NewBatch(gated(db, gate), 1, 64, add)
		var wg sync.WaitGroup
		wg.Go(func() { b.Do(t.Context(), "a") })
		synctest.Wait()
		impatient, leave := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := b.Do(impatient, "b"); !errors.Is(err, context.Canceled) {
				t.Errorf("who left was answered %v", err)
			}
		})
		wg.Go(func() { b.Do(t.Context(), "c") })
		synctest.Wait()
		leave()
		synctest.Wait()
		close(gate)
		wg.Wait()
		if have := fmt.Sprint(names(t, db)); have != "[a c]" {
			t.Errorf("there are %s", have)
		}
	})
}

func TestManyRowsInOneStatement(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		for _, n := range []int{0, 1, 3, 64, 201} {
			var rows, counts [][]any
			for i := range n {
				rows = append(rows, []any{fmt.Sprintf("%d-%d", n, i), i})
				counts = append(counts, []any{fmt.Sprintf("%d-%d", n, i), 2 * i})
			}
			seen := map[string]bool{}
			err := db.Do(t.Context(), func(tx *store.Tx) error {
				clear(seen)
				err := tx.QueryRows(`INSERT INTO item (name, count) VALUES /*row*/($1, $2)/*row*/ ON CONFLICT DO NOTHING RETURNING name`, rows, func(r store.Scanner) error {
					var name string
					if err := r.Scan(&name); err != nil {
						return err
					}
					seen[name] = true
					return nil
				})
				if err != nil {
					return err
				}
				changed, err := tx.ExecRows(`
					UPDATE item SET count = v.column2 FROM (VALUES /*row*/(CAST($1 AS TEXT), CAST($2 AS BIGINT))/*row*/) AS v
					 WHERE name = v.column1`, counts)
				if changed != int64(n) {
					t.Errorf("%d of %d rows changed", changed, n)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(seen) != n {
				t.Errorf("%d rows were inserted and %d told of", n, len(seen))
			}
			var sum int
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT coalesce(sum(count), 0) FROM item WHERE name LIKE $1`, fmt.Sprintf("%d-%%", n)).Scan(&sum)
			}); err != nil {
				t.Fatal(err)
			}
			if sum != n*(n-1) {
				t.Errorf("the counts of %d rows add up to %d, want %d", n, sum, n*(n-1))
			}
		}
	})
}

func TestOneStatementForEachOfManyRows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var rows, keys [][]any
		for i := range 100 {
			rows = append(rows, []any{fmt.Sprintf("%03d", i), i, i%2 == 0, float64(i) / 4, []string{"x", fmt.Sprint(i)}})
			keys = append(keys, []any{fmt.Sprintf("%03d", i*2)}) // every other one is not there
		}
		type name string
		got := map[int]string{}
		err := db.Do(t.Context(), func(tx *store.Tx) error {
			clear(got)
			n, err := tx.ExecEach(`INSERT INTO item (name, count, done, weight, body) VALUES ($1, $2, $3, $4, $5)`, rows)
			if n != 100 {
				t.Errorf("%d rows were inserted", n)
			}
			if err != nil {
				return err
			}
			return tx.QueryEach(`SELECT name, count, done, weight, body FROM item WHERE name = $1 /*for update*/`, keys, func(i int, row store.Scanner) error {
				var id name
				var count int
				var done bool
				var weight float64
				var body []string
				if err := row.Scan(&id, &count, &done, &weight, &body); err != nil {
					return err
				}
				got[i] = fmt.Sprint(id, count, done, weight, body)
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 50 || got[3] != "0066 true 1.5 [x 6]" {
			t.Errorf("%d rows were found, the fourth as %q", len(got), got[3])
		}
		err = db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecEach(`INSERT INTO item (name) VALUES ($1)`, [][]any{{"new"}, {"001"}})
			return err
		})
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("a row that is there was inserted again: %v", err)
		}
		refusal := errors.New("no")
		err = db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryEach(`SELECT name FROM item WHERE name = $1`, keys, func(int, store.Scanner) error { return refusal })
		})
		if !errors.Is(err, refusal) {
			t.Errorf("what reads the rows failed and that became %v", err)
		}
		if n := len(names(t, db)); n != 100 {
			t.Errorf("there are %d rows", n)
		}
	})
}
