package ring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A replica is a process with the keys, which seals rows of a table and opens them.
type replica struct {
	*testing.T
	*Ring
	db   *store.DB
	keys *seal.Keys
	name string
}

func rootKeys(t *testing.T, keys ...seal.Key) *seal.Keys {
	t.Helper()
	ks, err := seal.NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func start(t *testing.T, db *store.DB, root *seal.Keys, name string) *replica {
	t.Helper()
	r := &replica{T: t, db: db, keys: rootKeys(t, root.All()...), name: name}
	var err error
	if r.Ring, err = Open(t.Context(), Config{DB: db, Root: root, Log: slog.New(slog.DiscardHandler), Replica: name}); err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(t.Context(), "seal", Sealing("to seal", root, r.keys, r.move)); err != nil {
		t.Fatal(err)
	}
	if err := r.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func table(t *testing.T, db *store.DB) {
	t.Helper()
	if err := db.Do(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`CREATE TABLE sealed_things (id BIGINT PRIMARY KEY, thing TEXT NOT NULL)`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func bound(id int64) string { return fmt.Sprint("thing/", id) }

// add seals things, as services do: before the transaction that writes them.
func (r *replica) add(from, n int64) {
	r.Helper()
	var rows [][]any
	for id := from; id < from+n; id++ {
		rows = append(rows, []any{id, r.keys.Seal([]byte(fmt.Sprint("secret ", id)), bound(id))})
	}
	if err := r.db.Do(r.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecEach(`INSERT INTO sealed_things (id, thing) VALUES ($1, $2)`, rows)
		return err
	}); err != nil {
		r.Fatal(err)
	}
}

type thing struct {
	id     int64
	sealed string
}

func things(ctx context.Context, db *store.DB) (list []thing, err error) {
	err = db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT id, thing FROM sealed_things ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x thing
			if err := rows.Scan(&x.id, &x.sealed); err != nil {
				return err
			}
			list = append(list, x)
		}
		return rows.Err()
	})
	return list, err
}

// move is a loop of a service that seals anew, in parts.
func (r *replica) move(ctx context.Context) error {
	list, err := things(ctx, r.db)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(x thing) bool { return r.keys.Current(x.sealed) })
	for part := range slices.Chunk(list, 300) {
		var rows [][]any
		for _, x := range part {
			text, err := r.keys.Open(x.sealed, bound(x.id))
			if err != nil {
				return err
			}
			rows = append(rows, []any{r.keys.Seal(text, bound(x.id)), x.id, x.sealed})
		}
		if err := r.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.ExecEach(`UPDATE sealed_things SET thing = $1 WHERE id = $2 AND thing = $3`, rows)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// opens checks that all that is sealed can be opened on a replica as it is now.
func (r *replica) opens(list []thing, at string) {
	r.Helper()
	for _, x := range list {
		if text, err := r.keys.Open(x.sealed, bound(x.id)); err != nil || string(text) != fmt.Sprint("secret ", x.id) {
			r.Fatalf("%s: on %s the thing %d is lost: %v", at, r.name, x.id, err)
		}
	}
}

// A countdown is the context of a process that is cut off when it has looked at it
// so many times: at any statement, and in between.
type countdown struct {
	context.Context
	left *atomic.Int64
	end  context.CancelFunc
}

func cutAfter(ctx context.Context, n int64) countdown {
	inner, cancel := context.WithCancel(ctx)
	left := &atomic.Int64{}
	left.Store(n)
	return countdown{inner, left, cancel}
}

func (c countdown) look() {
	if c.left.Add(-1) <= 0 {
		c.end()
	}
}

func (c countdown) Done() <-chan struct{} { c.look(); return c.Context.Done() }
func (c countdown) Err() error            { c.look(); return c.Context.Err() }

func TestAKillAtAnyPointLosesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		root := rootKeys(t, seal.NewKey())
		one, two, slow := start(t, db, root, "one"), start(t, db, root, "two"), start(t, db, root, "slow")
		next, points, cuts := int64(100), 0, 0
		one.add(0, next)
		look := func(at string) {
			t.Helper()
			for _, r := range []*replica{one, two, slow} { // each goes on sealing, with what it has
				r.add(next, 1)
				next++
			}
			list, err := things(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []*replica{one, two, slow} {
				r.opens(list, at)
			}
		}
		previous := ""
		looks := int64(1)
		for n := 1; ; n++ {
			looks += 4 + looks/2
			// A rotation, of which each step is tried until it is done. The first process
			// has so many looks at its context, and each next one more.
			id, ctx := fmt.Sprintf("key-%03d", n), context.Context(cutAfter(t.Context(), looks))
			by, cut := one, false
			step := func(name string, f func(ctx context.Context, r *replica) error) {
				t.Helper()
				for try := 0; ; try++ {
					points++
					at := fmt.Sprintf("rotation %d, %s, try %d", n, name, try)
					err := f(ctx, by)
					look(at)
					if err == nil {
						return
					}
					if try > 10 {
						t.Fatalf("%s: %v", at, err)
					}
					if ctx.Err() != nil {
						cut, cuts = true, cuts+1
						one = start(t, db, root, "one") // which is killed, and another one goes on
						by, ctx = two, t.Context()
					}
					wait := 20 * time.Second
					if errors.Is(err, errBusy) {
						wait = settle
					}
					time.Sleep(wait)
					for _, r := range []*replica{one, two} {
						if err := r.Follow(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if err := slow.note(t.Context(), -1, ""); err != nil { // it is there, and no further
						t.Fatal(err)
					}
					if try > 1 {
						if err := slow.Follow(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			step("add", func(ctx context.Context, r *replica) error { return r.Add(ctx, "seal", id) })
			step("use", func(ctx context.Context, r *replica) error { return r.Use(ctx, "seal", id) })
			if previous != "" {
				step("retire", func(ctx context.Context, r *replica) error { return r.Retire(ctx, "seal", previous) })
				if slow.keys.Has(previous) {
					if err := slow.Follow(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			previous = id
			if !cut {
				break
			}
		}
		t.Logf("%d rows, %d points, %d processes killed", next, points, cuts)
		if cuts < 8 {
			t.Errorf("only %d processes were killed", cuts)
		}
		list, err := one.Ring.Keys(t.Context(), "seal")
		if err != nil || len(list) != 1 || list[0].ID != previous {
			t.Errorf("in the end there are %v, %v", list, err)
		}
	})
}

// No key is used before the slow one has it, nor retired before it uses the next.
func TestNobodyIsLeftBehind(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		root := rootKeys(t, seal.NewKey())
		one, slow := start(t, db, root, "one"), start(t, db, root, "slow")
		ctx := t.Context()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(one.Add(ctx, "seal", "a"))
		if err := one.Use(ctx, "seal", "a"); !errors.Is(err, ErrBehind) || !strings.Contains(err.Error(), "slow") {
			t.Errorf("using what a replica does not have: %v", err)
		}
		if one.keys.Newest() != root.Newest() {
			t.Error("it is used already")
		}
		must(slow.Follow(ctx))
		must(one.Use(ctx, "seal", "a"))
		one.add(0, 1)
		list, err := things(ctx, db)
		must(err)
		slow.opens(list, "before it knows that the key is used")
		must(slow.Follow(ctx))
		must(one.Add(ctx, "seal", "b"))
		must(slow.Follow(ctx))
		must(one.Use(ctx, "seal", "b"))
		if err := one.Retire(ctx, "seal", "b"); !errors.Is(err, errBusy) {
			t.Errorf("retiring what is used: %v", err)
		}
		if err := one.Retire(ctx, "seal", "a"); !errors.Is(err, ErrBehind) {
			t.Errorf("retiring what a replica uses: %v", err)
		}
		slow.add(1, 1) // with a, and rightly so
		must(slow.Follow(ctx))
		if err := one.Retire(ctx, "seal", "a"); !errors.Is(err, errBusy) {
			t.Errorf("retiring what was used a moment ago: %v", err)
		}
		if err := one.Use(ctx, "seal", "a"); err != nil || one.keys.Newest() != slow.keys.Newest() {
			t.Errorf("an older key is used again: %v", err)
		}
		time.Sleep(settle + time.Second)
		must(one.Follow(ctx))
		must(slow.Follow(ctx))
		must(one.Retire(ctx, "seal", "a"))
		if list, err = things(ctx, db); err != nil {
			t.Fatal(err)
		}
		slow.opens(list, "in the end")
		if err := one.Add(ctx, "seal", "a"); !errors.Is(err, ErrRetired) {
			t.Errorf("a key that was retired comes back: %v", err)
		}
		must(one.Retire(ctx, "seal", "never"))
		if err := one.Add(ctx, "seal", "never"); !errors.Is(err, ErrRetired) {
			t.Errorf("a request that was late makes a key: %v", err)
		}
	})
}

// A replica that stood still for a long time has a key that was retired meanwhile, and
// writes down what it has sealed with it.
func TestWhatTurnsUpLateIsNotLost(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		root := rootKeys(t, seal.NewKey())
		one, still := start(t, db, root, "one"), start(t, db, root, "still")
		ctx := t.Context()
		both := []*replica{one, still}
		follow := func(list ...*replica) {
			t.Helper()
			for _, r := range list {
				if err := r.Follow(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(one.Add(ctx, "seal", "a"))
		follow(both...)
		must(one.Use(ctx, "seal", "a"))
		follow(both...)
		time.Sleep(time.Hour) // in which only one of them goes on
		must(one.Add(ctx, "seal", "b"))
		must(one.Use(ctx, "seal", "b"))
		must(one.Leave(ctx, "seal", "a"))
		time.Sleep(time.Hour)
		must(one.Retire(ctx, "seal", "a"))
		still.keys.Missing(still.Ring.Missing)
		one.add(0, 1)
		list, err := things(ctx, db)
		must(err)
		still.opens(list, "what was sealed by a key that came meanwhile")
		late := still.keys
		still.keys = rootKeys(t, late.All()[len(late.All())-1])
		_, err = one.check(ctx)
		must(err)

		// As if what it had under way had been sealed before that.
		gone := start(t, db, root, "third")
		var a seal.Key
		must(db.View(ctx, func(tx *store.Tx) error {
			rows, err := rows(tx, "seal")
			if err != nil {
				return err
			}
			text, err := gone.unseal("seal", "a", find(rows, "a").Secret)
			if err != nil {
				return err
			}
			a, err = seal.ParseKey(text)
			return err
		}))
		gone.keys = rootKeys(t, a)
		gone.add(7, 1)
		if one.keys.Has(a.ID()) {
			t.Fatal("the key is there")
		}
		_, err = one.check(ctx)
		must(err)
		if list, err = things(ctx, db); err != nil {
			t.Fatal(err)
		}
		one.opens(list, "after it was looked for")
		if id := seal.KeyID(list[1].sealed); id != one.keys.Newest() {
			t.Errorf("it stays sealed with %s", id)
		}
		time.Sleep(settle + time.Second)
		follow(one)
		must(one.Retire(ctx, "seal", "a"))
		time.Sleep(keep + time.Hour)
		_, err = one.check(ctx)
		must(err)
		must(db.View(ctx, func(tx *store.Tx) error {
			rows, err := rows(tx, "seal")
			if err == nil && find(rows, "a").Secret != "" {
				t.Error("a key that was retired long ago is kept")
			}
			return err
		}))
	})
}

// The root key changes in its file: before the last line first, then as the last.
func TestAnotherRootSealsAHandfulOfRowsAnew(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		first, second := seal.NewKey(), seal.NewKey()
		root := rootKeys(t, first)
		one := start(t, db, root, "one")
		ctx := t.Context()
		one.add(0, 3) // with the root key: what there was before
		for _, id := range []string{"a", "b"} {
			if err := errors.Join(one.Add(ctx, "seal", id), one.Use(ctx, "seal", id)); err != nil {
				t.Fatal(err)
			}
		}
		one.add(3, 3)
		after := rootKeys(t, first, second)
		two := start(t, db, after, "one")
		if _, err := two.check(ctx); err != nil {
			t.Fatal(err)
		}
		if err := two.move(ctx); err != nil {
			t.Fatal(err)
		}
		three := start(t, db, rootKeys(t, second), "one")
		list, err := things(ctx, db)
		if err != nil {
			t.Fatal(err)
		}
		three.opens(list, "without the old root key")
		_, err = Open(ctx, Config{DB: db, Root: root, Log: slog.New(slog.DiscardHandler), Replica: "late"})
		if err == nil || !strings.Contains(err.Error(), second.ID()) || !strings.Contains(err.Error(), "before the last line") {
			t.Errorf("without the new root key: %v", err)
		}
	})
}

// Tokens have an own one first, which is retired like others; no more than two are
// accepted.
func TestTheKeyOfTheConfigurationIsTheFirst(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		r := start(t, db, rootKeys(t, seal.NewKey()), "one")
		var has []string
		used := map[string]timestamp.Time{}
		n := 0
		serve := func(r *replica) {
			t.Helper()
			if err := r.Serve(ctx, "token", Purpose{
				Doc: "a token", Own: "own-token", New: func() string { n++; return fmt.Sprint("token-", n) }, Most: 2, LastUsed: func() map[string]timestamp.Time { return used },
				Take: func(_ context.Context, keys []Key) error {
					has = nil
					for _, k := range keys {
						has = append(has, k.Secret)
					}
					return nil
				},
			}); err != nil {
				t.Fatal(err)
			}
		}
		serve(r)
		want := func(tokens ...string) {
			t.Helper()
			if !slices.Equal(has, tokens) {
				t.Errorf("the tokens are %q, not %q", has, tokens)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		want("own-token")
		must(r.Add(ctx, "token", "a"))
		want("own-token", "token-1")
		if err := r.Add(ctx, "token", "b"); err == nil || !strings.Contains(err.Error(), "retire one first") {
			t.Errorf("a third token: %v", err)
		}
		must(r.Use(ctx, "token", "a"))
		want("token-1", "own-token")
		used[Own] = timestamp.Now()
		time.Sleep(settle)
		must(r.Follow(ctx))
		list, err := r.Ring.Keys(ctx, "token")
		if err != nil || len(list) != 2 || list[1].ID != Own || list[1].LastUsed != used[Own] {
			t.Errorf("%+v, %v", list, err)
		}
		must(r.Leave(ctx, "token", Own))
		time.Sleep(settle + time.Second)
		must(r.Follow(ctx))
		must(r.Retire(ctx, "token", Own))
		want("token-1")
		again := start(t, db, r.config.Root, "one")
		serve(again)
		want("token-1") // what the configuration has is of no use any more
		if shown := fmt.Sprintf("%v %+v %#v %s", list[0], list, r.keys, Key{Secret: "hunter2"}); strings.Contains(shown, "token-1") || strings.Contains(shown, "hunter2") {
			t.Errorf("a key shows in %s", shown)
		}
	})
}
