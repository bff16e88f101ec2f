package credentials

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func at(place string) json.RawMessage { return json.RawMessage(`{"place":"` + place + `"}`) }

// A version ends where it was minted.
func TestWhatWasMintedElsewhereEndsThere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Settings: at("here"), Overlap: time.Minute, Grace: time.Minute})
		w.run(3 * time.Minute)
		old := w.is("db", Good).Current
		there := &mint{have: map[string]time.Time{}, fail: map[string]error{}}
		w.config.Kinds = map[string]Kind{"mint": w.kind, "other": there}
		w.config.Definitions[0].Kind, w.config.Definitions[0].Settings = "other", at("there")
		w.Credentials = w.start(w.config)
		w.run(10 * time.Minute)
		v := w.is("db", Good)
		if v.Current == old || len(w.kind.have) != 0 || len(there.have) != 1 {
			t.Errorf("%s is in use; here is %v, there %v", v.Current, w.kind.have, there.have)
		}
		list, err := w.describeHistory("db")
		if err != nil || len(list) != 2 || list[0].reason != reasonMoved {
			t.Errorf("the rotations are %+v, %v", list, err)
		}

		// Other settings are another place, too, and the kind there may be gone.
		w.config.Definitions[0].Settings = at("far")
		w.Credentials = w.start(w.config)
		w.run(10 * time.Minute)
		w.is("db", Good)
		last := w.is("db", Good).Current
		w.config.Kinds = map[string]Kind{"mint": w.kind}
		w.config.Definitions[0].Kind = "mint"
		w.Credentials = w.start(w.config)
		w.run(20 * time.Minute)
		w.is("db", Failing, "the kind other", "does not have any more", "credentials retire db "+last+" --removed")
		if err := w.Removed(t.Context(), "db", w.current("db"), "tester"); err == nil {
			t.Error("the version in use was noted as removed")
		}
		if err := w.Removed(t.Context(), "db", last, "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(20 * time.Minute)
		w.is("db", Good)
	})
}

func (w *world) current(name string) string {
	w.Helper()
	v, err := w.describe(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	return v.Current
}

func (w *world) describeHistory(name string) (list []*rotation, err error) {
	err = w.db.View(w.Context(), func(tx *store.Tx) error {
		list, err = rotations(tx, `credential = $1 ORDER BY started DESC`, name)
		return err
	})
	return list, err
}

func TestDefinitionsThatAreInEachOthersWayAreRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db,
			Definition{Name: "a", Kind: "mint", Settings: at("same")}, Definition{Name: "b", Kind: "mint", Settings: at("same")},
			Definition{Name: "c", Kind: "mint", Consumers: []Use{{Name: "x", File: "/etc/token"}}}, Definition{Name: "d", Kind: "mint", Consumers: []Use{{Name: "x", File: "/etc/./token"}}},
			Definition{Name: "e", Kind: "mint", Consumers: []Use{{Name: "x", Secret: "s"}, {Name: "y", Secret: "s"}}},
			Definition{Name: "f", Kind: "mint", Consumers: []Use{{Name: "x", Secret: "two\nlines"}}},
			Definition{Name: "g", Kind: "mint", Consumers: []Use{{Name: "x", File: "/etc/g", Mode: "0666"}}},
			Definition{Name: "h", Kind: "mint", Settings: at("other")},
		)
		w.run(time.Minute)
		for name, says := range map[string]string{
			"a": "the credential b is minted at the same place", "b": "the credential a is minted", "c": "the credential d has the file /etc/token", "d": "the credential c has",
			"e": "another consumer of it has the secret s", "f": "control characters", "g": `mode is "0666"`,
		} {
			w.is(name, Invalid, says)
		}
		w.is("h", Good)
	})
}

// A connection that is refused once is no reason for a new version.
func TestACheckThatCannotTellBreaksNothingAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.run(time.Minute)
		w.kind.failWith("prove", errForTest)
		time.Sleep(checkEvery)
		check := func() {
			t.Helper()
			if err := pass(t.Context(), w.Credentials, "check"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Minute)
		}
		check()
		check()
		w.is("db", Good, "could not tell", errForTest.Error())
		w.kind.failWith("prove", nil)
		check()
		if v := w.is("db", Good); v.Why != "" {
			t.Errorf("it still says %q", v.Why)
		}
		w.kind.failWith("prove", errForTest)
		time.Sleep(checkEvery)
		for range 4 {
			check()
		}
		w.is("db", Broken, errForTest.Error())
		w.kind.failWith("prove", nil)
		check()
		w.is("db", Good)
		w.kind.failWith("prove", Refused("the account is closed"))
		time.Sleep(checkEvery)
		check()
		w.is("db", Broken, "the account is closed")
	})
}

func TestWhatBelongsToNobodyCanBeRetired(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.run(time.Minute)
		w.kind.use("foreign")
		for _, c := range []struct {
			id     string
			forced bool
			says   string
		}{{w.current("db"), true, "no version of db"}, {"nothing", false, "no version of db"}, {"foreign", false, "was seen in use"}, {"foreign", true, ""}} {
			err := w.Retire(t.Context(), "db", c.id, "tester", c.forced)
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		if len(w.kind.have) != 1 {
			t.Errorf("the provider has %v", w.kind.have)
		}
	})
}

// What was adopted, has gone, and was made again by somebody is adopted again.
func TestWhatWasAdoptedCanBeAdoptedAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Grace: time.Minute})
		w.kind.adopt = "by-hand"
		for i := range 2 {
			w.kind.mu.Lock()
			w.kind.have["by-hand"] = time.Time{}
			w.kind.mu.Unlock()
			if i > 0 {
				if err := pass(t.Context(), w.Credentials, "check"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(checkEvery)
				if err := pass(t.Context(), w.Credentials, "check"); err != nil {
					t.Fatal(err)
				}
				if _, ok := w.kind.have["by-hand"]; !ok {
					t.Fatal("what somebody has made was removed as what is left of a version")
				}
				if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
					t.Fatal(err)
				}
			}
			w.run(10 * time.Minute)
			if v := w.is("db", Good); len(w.kind.have) != 1 || w.kind.have[v.Current] != (time.Time{}) {
				t.Errorf("round %d: the provider has %v", i, w.kind.have)
			}
		}
	})
}

// A version goes with the settings of the definition now, if they are of the same kind.
func TestAVersionKnowsTheDefinition(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Settings: at("there")})
		d := w.defined["db"]
		old := &version{id: "v", credential: "db", kind: "mint", site: "here"}
		old.settings = w.config.Keys.Seal(at("here"), old.boundSettings())
		v, err := w.open(d, old)
		if err != nil || string(v.Settings) != string(at("here")) || string(v.Defined) != string(d.Settings) {
			t.Errorf("%s, defined %s, %v", v.Settings, v.Defined, err)
		}
		old.kind = "other"
		if v, err = w.open(d, old); err != nil || v.Defined != nil {
			t.Errorf("of another kind: defined %s, %v", v.Defined, err)
		}
	})
}
