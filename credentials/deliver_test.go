package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestEveryReplicaGetsItsFilesAndCommands(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		dir := t.TempDir()
		file, seen := filepath.Join(dir, "password"), filepath.Join(dir, "seen")
		script := filepath.Join(dir, "reload")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n[ -e "+dir+"/away ] && { cat >&2; exit 1; }\ncat > "+seen+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		uses := []Use{{Name: "proxy", File: file, Member: "password"}, {Name: "reload", Command: []string{script}}}
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: 10 * hours, Grace: time.Minute, Consumers: uses})
		w.run(time.Minute)
		text, err := os.ReadFile(file)
		info, _ := os.Stat(file)
		if err != nil || string(text) != planted || info.Mode() != 0o600 {
			t.Errorf("the file has %q, %v, %v", text, info.Mode(), err)
		}
		if text, err := os.ReadFile(seen); err != nil || !strings.Contains(string(text), `"action":"publish"`) || !strings.Contains(string(text), planted) {
			t.Errorf("the command was given %q, %v", text, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		if text, err := os.ReadFile(file); err != nil || string(text) != planted {
			t.Errorf("a file that was removed has %q, %v", text, err)
		}

		// A command that fails says so without the secret, and is run again.
		if err := os.WriteFile(filepath.Join(dir, "away"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		config := w.config
		config.Replica = "two"
		two := w.start(config)
		if err := pass(t.Context(), two, "deliver"); err != nil {
			t.Errorf("a command that fails has the pass fail: %v", err)
		}
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(2 * time.Minute)
		v := w.is("db", Undelivered, "the consumer reload on one", "ended with code 1", "taskfleet credentials revoke db")
		if !strings.Contains(v.Rotation.Note, "waits for proxy, reload") {
			t.Errorf("the rotation says %q", v.Rotation.Note)
		}
		for _, u := range v.Consumers {
			if u.Name == "reload" && (u.Error == "" || strings.Contains(u.Error, planted)) {
				t.Errorf("the command's failure is told as %q", u.Error)
			}
		}
		if err := os.Remove(filepath.Join(dir, "away")); err != nil {
			t.Fatal(err)
		}
		if err := w.Consumed(t.Context(), "db", "proxy", v.Current); err != nil {
			t.Fatal(err)
		}
		w.run(0)
		w.is("db", Undelivered, "the consumer reload on two") // the other replica has yet to run it
		if err := pass(t.Context(), two, "deliver"); err != nil {
			t.Fatal(err)
		}
		w.run(3 * time.Minute)
		w.is("db", Good)
	})
}

func TestAPartOfThePlatformGetsItAfterARestart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		given := 0
		w := newWorld(t, db)
		w.config.Platform = map[string]Part{"sentry": func(context.Context, string, json.RawMessage) error { given++; return nil }}
		w.config.Definitions = []Definition{{Name: "dsn", Kind: "mint", Consumers: []Use{{Name: "self", Platform: "sentry"}}}}
		w.Credentials = w.start(w.config)
		w.run(2 * time.Minute)
		if given != 1 {
			t.Errorf("it was given %d times", given)
		}
		w.Credentials = w.start(w.config)
		w.run(2 * time.Minute)
		if given != 2 {
			t.Errorf("after a restart it was given %d times", given)
		}
	})
}

// parts starts a process with one credential for each part, named by it.
func (w *world) parts(parts map[string]Part, uses ...Use) {
	w.Helper()
	w.config.Platform = parts
	w.config.Definitions = nil
	for _, name := range sortedKeys(parts) {
		w.config.Definitions = append(w.config.Definitions, Definition{Name: name, Kind: "mint", Overlap: hours, Grace: time.Minute,
			Consumers: append([]Use{{Name: "self", Platform: name}}, uses...)})
	}
	w.Credentials = w.start(w.config)
}

// What has leaked does not wait for consumers that hang.
func TestARevocationDoesNotWaitForConsumersThatHang(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var hang atomic.Bool
		w := newWorld(t, db)
		w.parts(map[string]Part{"db": func(ctx context.Context, _ string, _ json.RawMessage) error {
			if hang.Load() {
				<-ctx.Done()
			}
			return ctx.Err()
		}}, Use{Name: "again", Platform: "db"})
		w.run(time.Minute)
		old := w.is("db", Good).Current
		hang.Store(true)
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		if v := w.is("db", Good); v.Current == old || len(w.kind.have) != 1 || time.Since(before) > 0 {
			t.Errorf("%s is in use after %s, and the provider has %v", v.Current, time.Since(before), w.kind.have)
		}
		// One that is not forced has its steps done, too.
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		if v := w.is("db", Rotating, "waits for self, again"); v.Rotation.Attempt != 0 {
			t.Errorf("the step was attempted %d times", v.Rotation.Attempt)
		}
	})
}

func TestWhatIsHandedOutLateIsNotTheOlderVersion(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		var has []string
		entered, release := make(chan struct{}, 1), make(chan struct{})
		w.parts(map[string]Part{"db": func(_ context.Context, id string, _ json.RawMessage) error {
			if entered != nil {
				entered <- struct{}{}
				entered = nil
				<-release
			}
			has = append(has, id)
			return nil
		}})
		began := entered
		// The first version is published, and the loop hands it out for long.
		w.Credentials.defined["db"].delivery.turn <- struct{}{} // so that the rotation does not
		if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		<-w.Credentials.defined["db"].delivery.turn
		first := w.is("db", Good).Current
		done := make(chan error, 1)
		go func() { done <- pass(t.Context(), w.Credentials, "deliver") }()
		<-began
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		second := w.is("db", Rotating, "waits for self").Current
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if v := w.is("db", Rotating); v.Consumers[0].Version != "" || v.Consumers[0].Confirmed != "" {
			t.Errorf("what was replaced meanwhile is noted as handed out: %+v", v.Consumers)
		}
		w.run(2 * time.Minute)
		if !slices.Equal(has, []string{first, second}) {
			t.Errorf("it was given %q, want %q and then %q", has, first, second)
		}
		if v := w.describeConsumer("db"); v.Confirmed != second {
			t.Errorf("it is known to use %q", v.Confirmed)
		}
	})
}

func (w *world) describeConsumer(name string) useView {
	w.Helper()
	v, err := w.describe(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	return v.Consumers[0]
}

// A replica is there though what it runs takes long, and nobody else waits for that.
func TestConsumersThatHangHoldNothingElseUp(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		var tried atomic.Int32
		w.parts(map[string]Part{
			"hangs": func(ctx context.Context, _ string, _ json.RawMessage) error {
				tried.Add(1)
				<-ctx.Done()
				return ctx.Err()
			},
			"works": func(context.Context, string, json.RawMessage) error { return nil },
		}, Use{Name: "b", Platform: "hangs"}, Use{Name: "c", Platform: "hangs"}, Use{Name: "d", Platform: "hangs"})
		w.config.Definitions[1].Consumers = w.config.Definitions[1].Consumers[:1]
		w.Credentials = w.start(w.config)
		if err := pass(t.Context(), w.Credentials, "rotate"); err != nil {
			t.Fatal(err)
		}
		tried.Store(0)
		done := make(chan error, 1)
		go func() { done <- pass(t.Context(), w.Credentials, "deliver") }()
		time.Sleep(replicaGone + commandLimit + commandLimit/2)
		synctest.Wait()
		if got := w.describeConsumer("works"); got.Confirmed == "" {
			t.Errorf("the other credential was not handed out: %+v", got)
		}
		var list []pickup
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) { list, err = pickups(tx, "hangs"); return err }); err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if !p.of(w.config.Definitions[0].Consumers[slices.IndexFunc(w.config.Definitions[0].Consumers, func(u Use) bool { return u.Name == p.consumer })], timestamp.Now()) {
				t.Errorf("the replica is taken for gone: %+v", p)
			}
		}
		if len(list) != 4 {
			t.Errorf("there are %+v", list)
		}
		if err := <-done; err != nil {
			t.Errorf("the pass says %v", err)
		}
		if tried.Load() != 4 {
			t.Errorf("they were tried %d times", tried.Load())
		}
	})
}

func TestAConsumerThatFailsBacksOffByItself(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		tried := 0
		w.parts(map[string]Part{"db": func(context.Context, string, json.RawMessage) error { tried++; return errors.New("no: " + planted) }})
		w.run(0)
		for range 10 {
			w.run(0)
		}
		if tried != 1 {
			t.Errorf("it was tried %d times at once", tried)
		}
		w.run(10 * hours)
		if tried < 100 || tried > 200 {
			t.Errorf("it was tried %d times in ten hours", tried)
		}
	})
}

// Whoever cannot be given the new version keeps the old one.
func TestTheOldVersionStaysForConsumersThatCannotBeGivenTheNewOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Overlap: hours, Quiet: time.Minute, Grace: time.Minute,
			Consumers: []Use{{Name: "proxy", File: filepath.Join(t.TempDir(), "f"), Member: "pasword"}}})
		w.run(10 * time.Minute)
		w.is("db", Undelivered, "the consumer proxy on one", `no member "pasword"`, "mend what it names")
		if got := w.events(); !slices.Equal(got, []string{"rotated", "attention"}) {
			t.Errorf("the events are %q", got)
		}
		if err := w.Rotate(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(4 * hours)
		v := w.is("db", Undelivered, "taskfleet credentials revoke db")
		if len(v.Versions) != 2 || v.Versions[0].State != versionLive || !strings.Contains(v.Rotation.Note, "waits for proxy, which could not be given") {
			t.Errorf("there are %+v, and the rotation says %q", v.Versions, v.Rotation.Note)
		}
		w.config.Definitions[0].Consumers[0].Member = "password"
		w.Credentials = w.start(w.config)
		w.run(10 * time.Minute)
		w.is("db", Good)

		w.config.Definitions[0].Consumers[0].Member = "pasword"
		w.Credentials = w.start(w.config)
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		if v := w.is("db", Undelivered); v.Rotation != nil || len(w.kind.have) != 1 {
			t.Errorf("a revocation has waited: %+v", v.Rotation)
		}
	})
}
