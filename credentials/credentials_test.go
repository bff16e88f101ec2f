package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

const hours = time.Hour

func TestACredentialIsRotatedWhenItsTimeComes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Plan: Plan{MaxAge: 48 * hours}, Overlap: 2 * hours, Consumers: []Use{{Name: "app", Secret: "project/db"}}})
		w.is("db", Fresh)
		w.run(time.Minute)
		v := w.is("db", Good)
		first := v.Current
		if !strings.Contains(w.secrets["project/db"], first) || v.Next.Sub(v.Since) != 48*hours {
			t.Errorf("the secret is %q; the next rotation in %s", w.secrets["project/db"], v.Next.Sub(v.Since))
		}
		time.Sleep(47 * hours)
		w.run(2 * time.Minute)
		if w.is("db", Good).Current != first {
			t.Error("it was rotated too early")
		}
		time.Sleep(hours)
		w.run(30 * time.Minute)
		v = w.is("db", Rotating, "waits for app")
		if v.Current == first || len(v.Versions) != 2 || v.Versions[0].State != versionLive {
			t.Errorf("during the overlap there are %+v", v.Versions)
		}
		w.run(2 * hours)
		w.is("db", Rotating, "grace")
		w.run(hours)
		v = w.is("db", Good)
		if len(v.Versions) != 1 || len(w.kind.have) != 1 || w.kind.made != 2 {
			t.Errorf("there are %+v; the provider has %v", v.Versions, w.kind.have)
		}
		if got := w.events(); !slices.Equal(got, []string{"rotated", "rotated"}) {
			t.Errorf("the events are %q", got)
		}
	})
}

func TestTheOldVersionStaysWhileItIsSeenInUse(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: hours, Quiet: hours, Consumers: []Use{{Name: "app", Secret: "s"}}})
		w.run(time.Minute)
		old := w.is("db", Good).Current
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			w.kind.use(old)
			w.run(20 * time.Minute)
		}
		v := w.is("db", InUse, old, "taskfleet credentials revoke db")
		if len(v.Versions) != 2 || v.Versions[0].Used.IsZero() {
			t.Errorf("there are %+v", v.Versions)
		}
		if got := w.events(); !slices.Equal(got, []string{"rotated", "attention"}) {
			t.Errorf("the events are %q", got)
		}
		w.run(4 * hours) // without use
		w.is("db", Good)
	})
}

func TestAConsumerThatMustPickUpIsWaitedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: hours, Grace: time.Minute, Consumers: []Use{{Name: "grafana", Must: true}}})
		w.run(time.Minute)
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(72 * hours / 8)
		v := w.is("db", Waiting, "waits for grafana", "taskfleet credentials revoke db")
		for _, c := range []struct{ consumer, version, says string }{
			{"nobody", "", "no consumer nobody"}, {"grafana", "fN1SbArXTPSVFNUvaOlinQ", "no version"}, {"grafana", "", "has 2 versions that grafana may use"},
		} {
			if err := w.Consumed(t.Context(), "db", c.consumer, c.version); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		if err := w.Consumed(t.Context(), "db", "grafana", v.Versions[0].ID); err != nil { // the old one
			t.Fatal(err)
		}
		w.run(2 * time.Minute)
		w.is("db", Waiting)
		if err := w.Consumed(t.Context(), "db", "grafana", v.Current); err != nil {
			t.Fatal(err)
		}
		w.run(3 * time.Minute)
		w.is("db", Good)
	})
}

func TestARotationThatFailsIsTriedAgainLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Plan: Plan{MaxAge: 24 * hours}, Overlap: time.Minute, Grace: time.Minute})
		w.run(3 * time.Minute)
		old := w.is("db", Good).Current
		w.kind.failWith("prove", errors.New("password refused: "+planted))
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		w.is("db", Rotating) // what was made may not be known everywhere yet
		w.run(10 * time.Minute)
		v := w.is("db", Failed, "prove: password refused", "taskfleet credentials rotate db")
		if v.Current != old || len(w.kind.have) != 1 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
		w.kind.failWith("prove", nil)
		w.kind.failWith("mint", Refused("no such user"))
		w.run(hours)
		if v := w.is("db", Failed, "mint: no such user"); v.Failures != 2 {
			t.Errorf("%d failures", v.Failures)
		}
		w.kind.failWith("mint", nil)
		w.run(2*hours + 5*time.Minute)
		if w.is("db", Good).Current == old {
			t.Error("it was not rotated")
		}
		if got := w.events(); !slices.Equal(got, []string{"rotated", "rotation-failed", "rotation-failed", "rotated"}) {
			t.Errorf("the events are %q", got)
		}
	})
}

func TestAStepThatFailsIsTriedUntilItSucceeds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Grace: time.Minute})
		w.run(3 * time.Minute)
		w.kind.failWith("retire", Refused("not allowed"))
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(2 * hours)
		w.is("db", Failing, "retire", "not allowed")
		w.kind.failWith("retire", nil)
		w.run(10 * time.Minute)
		w.is("db", Good)
	})
}

func TestRevoking(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Consumers: []Use{{Name: "grafana", Must: true}}})
		w.run(time.Minute)
		old := w.is("db", Good).Current
		w.kind.use(old)
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		v := w.is("db", Good)
		if v.Current == old || len(w.kind.have) != 1 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
		// During a rotation, which has published its version already: that goes, too.
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		during := w.is("db", Rotating).Current
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		v = w.is("db", Good)
		if v.Current == during || len(w.kind.have) != 1 || w.kind.made != 4 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
	})
}

// What has leaked goes at once also if no new version could be made at first.
func TestARevocationThatFailsIsStillOneWhenItIsTriedAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Consumers: []Use{{Name: "grafana", Must: true}}})
		w.run(time.Minute)
		old := w.is("db", Good).Current
		w.kind.failWith("mint", Refused("no such user"))
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		w.is("db", Failed, "no such user")
		w.kind.failWith("mint", nil)
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		if v := w.is("db", Good); v.Current == old || len(w.kind.have) != 1 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
	})
}

// What is asked for while a step is at work is not forgotten when that ends.
func TestRevokingWhileAStepIsAtWork(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Quiet: 10 * hours})
		w.run(time.Minute)
		w.kind.use(w.is("db", Good).Current)
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		time.Sleep(2 * time.Minute)
		w.kind.then = func() {
			w.kind.then = nil
			if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
				t.Error(err)
			}
		}
		for range 3 { // no time passes
			w.run(0)
		}
		if v := w.is("db", Good); len(w.kind.have) != 1 || w.kind.made != 3 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
	})
}

func TestRevokingInTheMomentInWhichAStepBegins(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Grace: 10 * hours})
		w.run(time.Minute)
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		w.kind.ends = func() {
			w.kind.ends = nil
			if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(2 * time.Minute)
		for range 3 { // no time passes
			w.run(0)
		}
		if v := w.is("db", Good); len(w.kind.have) != 1 || w.kind.made != 3 {
			t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
		}
	})
}

// Some providers tell only who is there at the moment.
func TestWhatWasSeenInUseCountsThoughTheProviderForgetsIt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: hours, Quiet: 2 * hours, Grace: time.Minute, Consumers: []Use{{Name: "app"}}})
		w.run(time.Minute)
		old := w.is("db", Good).Current
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(30 * time.Minute)
		w.kind.use(old)
		w.run(2 * time.Minute)
		w.kind.have[old] = time.Time{}
		w.run(90 * time.Minute)
		w.is("db", InUse, old, "find who uses the old version")
		w.run(2 * hours)
		w.is("db", Good)
	})
}

func TestARotationThatWasAskedForIsWhatTheStateTells(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.run(time.Minute)
		delete(w.kind.have, w.is("db", Good).Current)
		if _, err := w.Verify(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Broken)
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Rotating)
		w.kind.failWith("mint", errForTest)
		w.run(10 * time.Minute)
		w.is("db", Failing, "mint")
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.kind.failWith("mint", nil)
		w.run(time.Minute)
		w.is("db", Good)
	})
}

// What a provider says can be of any length, and of what no database takes.
func TestAProviderThatSaysTooMuch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		w.kind.failWith("mint", Refused("no\x00no\xff\x1b[2J%s", strings.Repeat("é", 1<<20)))
		w.run(time.Minute)
		if v := w.is("db", Failed, "no no? [2Jé"); len(v.Why) > 2*maxWords {
			t.Errorf("%d bytes are kept of it", len(v.Why))
		}
	})
}

// A revocation does not wait for what became of the rotation that it has met.
func TestARevocationThatMeetsAFailingRotation(t *testing.T) {
	for name, step := range map[string]string{"before its version is made": "mint", "after": "prove"} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
				w.run(time.Minute)
				old := w.is("db", Good).Current
				w.kind.failWith(step, errForTest)
				if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
					t.Fatal(err)
				}
				w.run(0)
				if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
					t.Fatal(err)
				}
				w.kind.failWith(step, Refused("no such user"))
				if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
					t.Fatal(err)
				}
				if v := w.is("db", Rotating); v.Rotation.Reason != reasonRevoke || v.Rotation.Step != stepAdopt {
					t.Errorf("what follows is %+v", v.Rotation)
				}
				w.run(20 * time.Minute)
				v := w.is("db", Failed, "no such user")
				if v.Failures < 4 || v.Next.Sub(v.Since) > hours {
					t.Errorf("%d rotations have failed, and the next is at %s", v.Failures, v.Next)
				}
				w.kind.failWith(step, nil)
				w.run(10 * time.Minute)
				if v := w.is("db", Good); v.Current == old || len(w.kind.have) != 1 {
					t.Errorf("%s is in use, and the provider has %v", v.Current, w.kind.have)
				}
			})
		})
	}
}

// A process that was taken for dead comes back while another has done its work.
func TestAProcessThatHasLostARotationWritesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute})
		w.kind.wait = make(chan struct{})
		slow := make(chan error, 1)
		ctx, away := context.WithCancel(t.Context())
		go func() { slow <- pass(ctx, w.Credentials, "rotate") }()
		synctest.Wait()
		away() // it renews nothing any more
		stuck := w.kind.wait
		w.kind.wait = nil
		time.Sleep(leaseFor + time.Second)
		config := w.config
		config.Replica = "two"
		two := w.start(config)
		if err := pass(t.Context(), two, "rotate"); err != nil {
			t.Fatal(err)
		}
		close(stuck)
		if err := <-slow; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that was away says %v", err)
		}
		if v := w.is("db", Good); len(v.Versions) != 1 || len(w.kind.have) != 1 {
			t.Errorf("there are %+v; the provider has %v", v.Versions, w.kind.have)
		}
	})
}

func TestWhatIsDefinedWronglyIsAStateAndHarmsNothingElse(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db,
			Definition{Name: "good", Kind: "mint"},
			Definition{Name: "kind", Kind: "magic"},
			Definition{Name: "settings", Kind: "mint", Settings: json.RawMessage(`{"wrong":1}`)},
			Definition{Name: "cron", Kind: "mint", Plan: Plan{Cron: "61 * * * *"}},
			Definition{Name: "often", Kind: "mint", Plan: Plan{Cron: "* 4 * * *"}},
			Definition{Name: "zone", Kind: "mint", Plan: Plan{Cron: "0 4 * * *", Zone: "Mars/Phobos"}},
			Definition{Name: "age", Kind: "mint", Plan: Plan{MaxAge: time.Second}},
			Definition{Name: "consumer", Kind: "mint", Consumers: []Use{{Name: "a", File: "b"}, {Name: "a"}, {Name: "x", Secret: "s", Platform: "p"}}},
		)
		w.run(time.Minute)
		w.is("good", Good)
		for name, says := range map[string]string{
			"kind": `no kind "magic"; this deployment has mint`, "settings": "wrong is none", "cron": "61", "often": "cron has dates 1m0s apart", "zone": "Mars/Phobos",
			"age": "maxAge is 1s", "consumer": "absolute path",
		} {
			w.is(name, Invalid, says, "correct its entry")
		}
		w.is("consumer", Invalid, "two consumers a", "more than one of")
		w.config.Definitions = w.config.Definitions[1:]
		w.Credentials = w.start(w.config)
		w.is("good", Undefined, "not in the configuration")
		if err := w.Rotate(t.Context(), "kind", "tester"); err == nil || !strings.Contains(err.Error(), "magic") {
			t.Errorf("rotating what is wrong: %v", err)
		}
		if err := w.Rotate(t.Context(), "nothing", "tester"); err == nil || !strings.Contains(err.Error(), "no credential nothing") {
			t.Errorf("rotating nothing: %v", err)
		}
	})
}

func TestTheDailyCheck(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute})
		w.run(3 * time.Minute)
		old := w.is("db", Good).Current
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(3 * hours)
		current := w.is("db", Good).Current
		w.kind.use(old)       // a request that was under way for long has made it again
		w.kind.use("foreign") // somebody else's
		time.Sleep(checkEvery)
		if err := pass(t.Context(), w.Credentials, "check"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Good)
		left, err := w.leftovers(t.Context(), w.defined["db"])
		if err != nil || len(left) != 1 || left[0].ID != "foreign" || left[0].State != "unknown" {
			t.Errorf("left over is %+v, %v", left, err)
		}
		delete(w.kind.have, current)
		time.Sleep(checkEvery)
		if err := pass(t.Context(), w.Credentials, "check"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Broken, "does not have it any more", "taskfleet credentials rotate db")
		if got := w.events(); got[len(got)-1] != "attention" {
			t.Errorf("the events are %q", got)
		}
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(3 * hours)
		w.is("db", Good)
	})
}

func TestWhatProvidersSayIsChecked(t *testing.T) {
	for text, says := range map[string]string{
		`{"public":{},"secret":"x"}`:                                                        "no JSON object",
		`{"public":{},"secret":{}}`:                                                         "empty",
		`{"public":"x","secret":{"a":"b"}}`:                                                 "public member",
		`{"secret":{"a":"` + strings.Repeat("x", maxSecret) + `"}}`:                         "up to 262144",
		`{"public":{"a":"` + strings.Repeat("x", maxPublic) + `"},"secret":{"a":"hunter"}}`: "up to 16384",
		`{"secret":{"a":"b"}}`:                                                              "",
	} {
		var m Minted
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if err := m.check(); (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || !refused(err)) {
			t.Errorf("%.50s: %v", text, err)
		}
	}
}

func TestNoSecretIsShown(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: time.Minute, Grace: time.Minute})
		w.run(time.Minute)
		for _, method := range []string{"prove", "disable", "retire"} {
			w.kind.failWith(method, fmt.Errorf("%s says: %s", method, planted))
			if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
				t.Fatal(err)
			}
			w.run(20 * time.Minute)
			w.events()
			text := w.log.String() + w.rows()
			if strings.Contains(text, planted) || !strings.Contains(text, method+" says: (secret)") {
				t.Errorf("while %s fails a secret is shown, or nothing told, in %s", method, text)
			}
			w.kind.failWith(method, nil)
			w.run(20 * time.Minute)
		}
	})
}

// rows is all text that the tables hold.
func (w *world) rows() (text string) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) error {
		for _, statement := range []string{
			`SELECT trouble || broken FROM credential`, `SELECT public || sealed FROM credential_version`, `SELECT note FROM credential_rotation`,
			`SELECT error FROM credential_step`, `SELECT error FROM credential_pickup`,
		} {
			list, err := tx.Column(statement)
			if err != nil {
				return err
			}
			text += strings.Join(list, "\n")
		}
		return nil
	}); err != nil {
		w.Fatal(err)
	}
	return text
}

func TestSecretsAreSealedAnew(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		old := seal.NewKey()
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint"})
		config := w.config
		var err error
		if config.Keys, err = seal.NewKeys(old); err != nil {
			t.Fatal(err)
		}
		w.Credentials = w.start(config)
		w.run(time.Minute)
		newest := seal.NewKey()
		if config.Keys, err = seal.NewKeys(old, newest); err != nil {
			t.Fatal(err)
		}
		if err := pass(t.Context(), w.start(config), "upkeep"); err != nil {
			t.Fatal(err)
		}
		if config.Keys, err = seal.NewKeys(newest); err != nil {
			t.Fatal(err)
		}
		_, secret, err := w.start(config).Reveal(t.Context(), "db", "tester")
		if err != nil || !strings.Contains(string(secret), planted) {
			t.Errorf("with the new key alone: %s, %v", secret, err)
		}
	})
}
