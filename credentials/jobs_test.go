package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// runs are those of the credential's job that have ended, the oldest first.
func (w *world) runs(job string) (list []string) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) (err error) {
		list, err = tx.Column(`SELECT state || ': ' || outcome || error FROM schedule_run WHERE job = $1 AND ended > 0 ORDER BY due`, job)
		return err
	}); err != nil {
		w.Fatal(err)
	}
	return list
}

func TestARotationIsARunOfItsJob(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Plan: Plan{Cron: "0 4 * * *", Zone: "Europe/Berlin", MaxAge: 240 * hours, Jitter: 10 * time.Minute}, Overlap: time.Minute, Grace: time.Minute})
		w.run(time.Minute)
		first := w.is("db", Good).Current
		time.Sleep(24 * hours)
		w.run(30 * time.Minute)
		v := w.is("db", Good)
		if got := w.runs("credentials/db"); len(got) != 1 || got[0] != "done: the version "+v.Current+" is in use" || v.Current == first {
			t.Errorf("the runs are %q", got)
		}
		if err := w.times.Pause(t.Context(), "credentials/db", "tester"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * hours)
		w.run(time.Minute)
		if got := w.is("db", Overdue, "credentials/db, was paused").Current; got != v.Current {
			t.Error("it was rotated while its job was paused")
		}
		if err := w.times.RunNow(t.Context(), "credentials/db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.kind.failWith("mint", Refused("no such user"))
		w.run(time.Minute)
		if got := w.runs("credentials/db"); len(got) != 2 || got[1] != "failed: mint: no such user" {
			t.Errorf("the runs are %q", got)
		}
		w.is("db", Failed, "no such user")
		w.kind.failWith("mint", nil)
		time.Sleep(hours)
		w.run(10 * time.Minute) // it is tried again by itself
		w.is("db", Good)

		// What is not defined any more has no job; if it comes back, it has one again.
		definitions := w.config.Definitions
		for _, c := range []struct {
			list []Definition
			jobs int
		}{{nil, 0}, {definitions, 2}} {
			w.config.Definitions = c.list
			w.Credentials = w.start(w.config)
			w.run(time.Minute)
			var jobs []string
			if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
				jobs, err = tx.Column(`SELECT name FROM schedule_job WHERE kind = 'credentials' ORDER BY name`)
				return err
			}); err != nil || len(jobs) != c.jobs {
				t.Errorf("the jobs are %q, %v", jobs, err)
			}
		}
	})
}

func TestFilesStayWhoseTheyAre(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		dir := t.TempDir()
		name := func(s string) string { return filepath.Join(dir, s) }
		for _, err := range []error{
			os.WriteFile(name("kept"), []byte("before"), 0o640), os.Chmod(name("kept"), 0o640), os.WriteFile(name("target"), nil, 0o600), os.Symlink("target", name("link")), os.Mkdir(name("folder"), 0o755),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		uses := []Use{{Name: "kept", File: name("kept"), Member: "password"}, {Name: "told", File: name("told"), Mode: "0444"}, {Name: "link", File: name("link")}}
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Consumers: uses}, Definition{Name: "bad", Kind: "mint", Consumers: []Use{{Name: "folder", File: name("folder")}}})
		stray, err := w.target(name("kept"))
		if err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		current := w.is("db", Good).Current
		w.is("bad", Undelivered, "is no file")
		for file, mode := range map[string]os.FileMode{"kept": 0o640, "told": 0o444, "target": 0o600} {
			if info, err := os.Stat(name(file)); err != nil || info.Mode() != mode {
				t.Errorf("%s: %v, %v", file, info, err)
			}
		}
		if info, err := os.Lstat(name("link")); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("the link is %v, %v", info, err)
		}
		for file, has := range map[string]string{"target": planted, "kept.version": current + "\n", "link.version": current + "\n"} {
			if text, err := os.ReadFile(name(file)); err != nil || !strings.Contains(string(text), has) {
				t.Errorf("%s holds %q, %v", file, text, err)
			}
		}
		if err := os.WriteFile(stray.temp, []byte(planted), 0o600); err != nil { // as of a crash
			t.Fatal(err)
		}
		if err := os.Chmod(name("told"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.run(time.Minute)
		if info, err := os.Stat(name("told")); err != nil || info.Mode() != 0o444 {
			t.Errorf("the mode that was said is %v, %v", info, err)
		}
		left, err := filepath.Glob(name(".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left is %q, %v", left, err)
		}
	})
}

// A bringer is a mint whose versions people make.
type bringer struct {
	*mint
	expires time.Time
}

func (b bringer) Supplied(json.RawMessage) time.Time { return b.expires }

func (b bringer) Mint(ctx context.Context, o Order) (Minted, error) {
	if strings.Contains(string(o.Seed), "bad") {
		return Minted{}, Refused("it is bad: %s", o.Seed)
	}
	if o.ID == "" {
		return Minted{Secret: o.Seed}, nil
	}
	m, err := b.mint.Mint(ctx, o)
	m.Secret = o.Seed
	return m, err
}

func TestWhatPeopleMakeIsAskedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		kind := &bringer{mint: w.kind, expires: time.Now().Add(100 * 24 * hours)}
		var written []string
		w.config.Notices = notices(func(address, subject, text string) { written = append(written, address+": "+text) })
		w.config.Kinds = map[string]Kind{"mint": kind}
		w.config.Definitions = []Definition{{Name: "db", Kind: "mint", Plan: Plan{MaxAge: 30 * 24 * hours}, Overlap: time.Minute, Grace: time.Minute, Notify: []string{"ops@example.com"}}}
		w.Credentials = w.start(w.config)
		w.run(time.Minute)
		w.is("db", Wanted, "the first version", "taskfleet credentials supply db")
		if len(written) != 1 || !strings.Contains(written[0], "ops@example.com: The credential db (memory): a new version is to be supplied") {
			t.Errorf("written is %q", written)
		}
		supply := func(secret, says string) {
			t.Helper()
			err := w.Supply(t.Context(), "db", json.RawMessage(secret), "tester")
			if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), planted)) {
				t.Errorf("supplying %s: %v", secret, err)
			}
		}
		supply(`{"bad":"`+planted+`"}`, "it is bad")
		supply(`{"a":"one"}`, "")
		supply(`{"a": "one"}`, "") // again, as the answer was lost
		supply(`{"a":"two"}`, "under way with another version")
		w.run(10 * time.Minute)
		first := w.is("db", Good).Current
		time.Sleep(31 * 24 * hours)
		w.run(time.Minute)
		w.is("db", Wanted, "since")
		if got := w.runs("credentials/db"); len(got) != 1 || !strings.Contains(got[0], "is to be supplied") {
			t.Errorf("the runs are %q", got)
		}
		n := len(written)
		for range 15 {
			time.Sleep(24 * hours)
			w.run(0)
		}
		if len(written) != n+2 {
			t.Errorf("in two weeks there were %d reminders", len(written)-n)
		}
		w.kind.failWith("prove", Refused("the password is refused"))
		supply(`{"a":"three"}`, "")
		w.run(time.Minute)
		if v := w.is("db", Wanted, "cannot be used: prove: the password is refused"); v.Current != first {
			t.Error("a version that was refused is in use")
		}
		w.kind.failWith("prove", nil)
		if err := w.Revoke(t.Context(), "db", "tester"); err != nil {
			t.Fatal(err)
		}
		w.is("db", Wanted, "it was revoked")
		supply(`{"a":"four"}`, "")
		w.run(0)
		if v := w.is("db", Good); v.Current == first || len(w.kind.have) != 1 {
			t.Errorf("the provider has %v", w.kind.have)
		}
		kind.expires = time.Now().Add(10 * 24 * hours)
		w.run(time.Minute)
		w.is("db", Wanted, "the one in use expires at")
		if got := w.events(); !slices.Contains(got, "attention") {
			t.Errorf("the events are %q", got)
		}
	})
}

type notices func(address, subject, text string)

func (n notices) Write(_ context.Context, address, subject, text string) error {
	n(address, subject, text)
	return nil
}

// A mail server that hangs.
type deaf struct{}

func (deaf) Write(ctx context.Context, _, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestRotationsDoNotWaitForAMailServer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.config.Notices = deaf{}
		w.config.Kinds = map[string]Kind{"mint": w.kind, "brought": &bringer{mint: &mint{}}}
		w.config.Definitions = []Definition{{Name: "a", Kind: "brought", Notify: []string{"a@example.com", "b@example.com"}}, {Name: "b", Kind: "mint"}}
		w.Credentials = w.start(w.config)
		began := time.Now()
		w.run(0)
		if w.is("b", Good); time.Since(began) > time.Minute {
			t.Errorf("a pass took %s", time.Since(began))
		}
		if !strings.Contains(w.log.String(), "nobody could be told") {
			t.Error("the log does not say that an email was lost")
		}
	})
}

// The number of statements is the same however many credentials there are.
func TestAPageIsReadAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var definitions []Definition
		for i := range 20 {
			definitions = append(definitions, Definition{Name: fmt.Sprintf("c%02d", i), Kind: "mint", Overlap: time.Minute, Consumers: []Use{{Name: "a"}}})
		}
		w := newWorld(t, db, definitions...)
		w.run(time.Minute)
		if err := w.Rotate(t.Context(), "c07", "tester"); err != nil {
			t.Fatal(err)
		}
		var list []*view
		if err := db.View(t.Context(), func(tx *store.Tx) (err error) { list, err = w.views(tx); return err }); err != nil {
			t.Fatal(err)
		}
		for i, v := range list {
			if v.Name != definitions[i].Name || len(v.Versions) != 1+b2i(i == 7) || (v.Rotation != nil) != (i == 7) || len(v.Consumers) != 1 {
				t.Errorf("%d: %+v", i, v)
			}
		}
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
