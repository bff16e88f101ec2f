package ring

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func (r *replica) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *replica) exec(statement string, args ...any) {
	r.Helper()
	r.must(r.db.Do(r.Context(), func(tx *store.Tx) error { _, err := tx.Exec(statement, args...); return err }))
}

// All calls that find a key missing get it, not only the one that looks for it.
func TestWhoAsksForAKeyWhileItIsLookedForGetsIt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		root := rootKeys(t, seal.NewKey())
		late, one := start(t, db, root, "late"), start(t, db, root, "one")
		late.keys.Missing(late.Missing)
		time.Sleep(gone + time.Second) // so that it is not waited for
		one.must(errors.Join(one.Follow(t.Context()), one.Add(t.Context(), "seal", "a"), one.Use(t.Context(), "seal", "a")))
		one.add(0, 1)
		list, err := things(t.Context(), db)
		one.must(err)
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := late.keys.Open(list[0].sealed, bound(0)); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	})
}

// A replica with a slow clock is waited for by those whose clocks are right, and one
// that was seen in a year to come is not waited for until then.
func TestAReplicaWithAWrongClockIsWaitedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one := start(t, db, rootKeys(t, seal.NewKey()), "slow")
		ahead := timestamp.Now().Add(10 * time.Minute)
		one.exec(`INSERT INTO platform_key_replica (replica, version, seen, trouble) VALUES ('right', 1000, $1, ''), ('absurd', 0, $2, '')`, ahead, ahead.Add(100*24*time.Hour))
		time.Sleep(seenEvery)
		one.must(one.Follow(t.Context()))
		var seen timestamp.Time
		one.must(db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT seen FROM platform_key_replica WHERE replica = 'slow'`).Scan(&seen)
		}))
		if seen != ahead {
			t.Errorf("it was seen at %s, for one whose clock shows %s", seen, ahead)
		}
		one.must(errors.Join(one.Add(t.Context(), "seal", "a"), one.Use(t.Context(), "seal", "a")))
	})
}

// A key that was made and is not wanted, as it did not work, is not used because it is
// the only one.
func TestWhatIsNotWantedIsNotUsed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		root := rootKeys(t, seal.NewKey())
		one := start(t, db, root, "one")
		ctx := t.Context()
		one.must(errors.Join(one.Add(ctx, "seal", "a"), one.Leave(ctx, "seal", "a"), one.Retire(ctx, "seal", "a")))
		if one.keys.Newest() != root.Newest() {
			t.Error("it is used")
		}
	})
}

// A retired key whose root key is gone does not come back: no replica could start.
func TestARetiredKeyThatCannotBeOpenedStaysRetired(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		table(t, db)
		one := start(t, db, rootKeys(t, seal.NewKey()), "one")
		ctx := t.Context()
		one.must(errors.Join(one.Add(ctx, "seal", "a"), one.Use(ctx, "seal", "a")))
		a := one.keys.Newest()
		one.must(errors.Join(one.Add(ctx, "seal", "b"), one.Use(ctx, "seal", "b"), one.Leave(ctx, "seal", "a")))
		time.Sleep(settle + time.Second)
		one.must(one.Retire(ctx, "seal", "a"))
		one.exec(`DELETE FROM platform_key WHERE id = 'b'`) // the other one was sealed anew
		one.exec(`INSERT INTO sealed_things (id, thing) VALUES (1, $1)`, seal.SealedBy(a)+"x")

		other := rootKeys(t, seal.NewKey())
		two, err := Open(ctx, Config{DB: db, Root: other, Log: slog.New(slog.DiscardHandler), Replica: "two"})
		one.must(err)
		if err := two.Check(ctx); err == nil || !strings.Contains(err.Error(), "put that key back") {
			t.Errorf("looking after the keys: %v", err)
		}
		if _, err := Open(ctx, Config{DB: db, Root: other, Log: slog.New(slog.DiscardHandler), Replica: "three"}); err != nil {
			t.Errorf("starting: %v", err)
		}
	})
}
