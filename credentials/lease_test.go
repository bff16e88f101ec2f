package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A patient kind mints for as long as it is given, and tells when it was given no more.
type patient struct {
	*mint
	gaveUp time.Time
}

func (p *patient) Mint(ctx context.Context, _ Order) (Minted, error) {
	<-ctx.Done()
	p.gaveUp = time.Now()
	return Minted{}, ctx.Err()
}

// Others take a rotation over when the lease ends that the database has, however long it
// took to get that.
func TestALeaseThatWasLongInComingEndsNoLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		slow := &patient{mint: w.kind}
		w.config.Kinds = map[string]Kind{"mint": slow}
		w.Credentials = w.start(w.config)
		var taken time.Time
		ctx := cut.With(t.Context(), func(point string) error {
			if point == "journal take after" {
				taken = time.Now()
				time.Sleep(leaseFor - time.Second)
			}
			return nil
		})
		if err := pass(ctx, w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		if slow.gaveUp.Sub(taken) >= leaseFor {
			t.Errorf("it has minted until %s after the lease began", slow.gaveUp.Sub(taken))
		}
	})
}

// What a process was at that was killed goes on as soon as there is another one on its machine.
func TestARestartTakesBackWhatItWasAt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		died := errors.New("killed")
		ctx := cut.With(t.Context(), func(point string) error {
			if point == "mint after" || point == "journal mint ends before" {
				return died
			}
			return nil
		})
		if err := pass(ctx, w.Credentials, "rotate"); !errors.Is(err, died) {
			t.Fatalf("the process went on: %v", err)
		}
		two := w.config
		two.Replica = "two"
		if err := pass(t.Context(), w.start(two), "rotate"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Rotating) // that is another replica
		if err := pass(t.Context(), w.start(w.config), "rotate"); err != nil {
			t.Fatal(err)
		}
		if w.is("db", Good); w.kind.made != 2 || len(w.kind.have) != 1 {
			t.Errorf("there are %v, minted %d times", w.kind.have, w.kind.made)
		}
	})
}

// Nothing that was noted as removed comes back, nor is it what consumers are left with.
func TestAVersionThatIsRemovedByHandWhileItIsMade(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Grace: time.Minute, Consumers: []Use{{Name: "app", Secret: "s"}}})
		w.run(10 * time.Minute)
		old := w.is("db", Good).Current
		made := func() string {
			v, err := w.describe(t.Context(), "db")
			if err != nil {
				t.Fatal(err)
			}
			return v.Rotation.Version
		}
		w.kind.wait = make(chan struct{})
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- pass(t.Context(), w.Credentials, "rotate") }()
		synctest.Wait()
		if err := w.Removed(t.Context(), "db", made(), "tester"); err != nil {
			t.Fatal(err)
		}
		close(w.kind.wait)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "removed by hand") {
			t.Errorf("what was minted meanwhile: %v", err)
		}
		w.run(2 * time.Minute)
		if v := w.is("db", Failed, "removed by hand"); v.Current != old || len(v.Versions) != 1 {
			t.Errorf("it has %s of %+v", v.Current, v.Versions)
		}

		var refused error
		w.setting = func() { refused = w.Removed(t.Context(), "db", made(), "tester") }
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(10 * time.Minute)
		if e, ok := errors.AsType[*api.Error](refused); !ok || e.Code != api.RequestConflict {
			t.Errorf("one that is being handed out was noted as removed: %v", refused)
		}
		if v := w.is("db", Good); v.Current == old || !strings.Contains(w.secrets["s"], v.Current) {
			t.Errorf("%s is in use, and the secret is %s", v.Current, w.secrets["s"])
		}
	})
}

func TestAFailureIsToldWithTheStepThatHasFailed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.kind.failWith("list", Refused("the account is closed"))
		w.run(time.Minute)
		w.is("db", Failed, "adopt: the account is closed")
	})
}

// A secret that is named later is written by a rotation, which somebody has to ask for.
func TestASecretThatIsNamedLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Settings: json.RawMessage(`{}`), Overlap: time.Minute, Grace: time.Minute})
		w.run(time.Minute)
		w.is("db", Good)
		w.config.Definitions[0].Consumers = []Use{{Name: "app", Secret: "s"}}
		w.Credentials = w.start(w.config)
		w.run(time.Minute)
		w.is("db", Undelivered, "the next one: app", "taskfleet credentials rotate db")
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(10 * time.Minute)
		if v := w.is("db", Good); !strings.Contains(w.secrets["s"], v.Current) {
			t.Errorf("the secret is %s", w.secrets["s"])
		}
	})
}

func TestOneThatCannotBeBegunHoldsNoOtherUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "a", Kind: "mint"}, Definition{Name: "b", Kind: "mint"})
		begun := 0
		ctx := cut.With(t.Context(), func(point string) error {
			if point == "journal begin before" {
				if begun++; begun == 1 {
					return errForTest
				}
			}
			return nil
		})
		if err := pass(ctx, w.Credentials, "rotate"); !errors.Is(err, errForTest) || !strings.Contains(err.Error(), "credential a") {
			t.Errorf("a rotation that cannot be begun: %v", err)
		}
		w.is("a", Fresh)
		w.is("b", Good)
	})
}

func TestWhatIsNotDefinedAnyMoreHoldsNoOtherUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.run(time.Minute)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			for i := range 100 {
				if _, err := tx.Exec(`INSERT INTO credential (name, kind, place, site, current, since, latest, plan, next, failures, trouble, broken, doubt, doubts, doubted, checked, wanted, reminded, again)
					SELECT $1, kind, place, site, current, since, latest, plan, next, failures, trouble, broken, doubt, doubts, doubted, 0, wanted, reminded, again FROM credential WHERE name = 'db'`,
					fmt.Sprintf("gone-%d", i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(checkEvery)
		w.kind.failWith("prove", Refused("the account is closed"))
		if err := pass(t.Context(), w.Credentials, "check"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Broken)
	})
}
