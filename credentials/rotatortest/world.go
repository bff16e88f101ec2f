package rotatortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A world is a credential with its consumers, and the process that rotates it.
type world struct {
	*testing.T
	db      *store.DB
	subject Subject
	name    string
	keys    *seal.Keys
	bus     *event.Bus
	over    chan struct{}
	engines int
	engine  *credentials.Credentials
	killed  chan struct{} // of the engine

	mu     sync.Mutex
	after  int // points to come until the cut
	armed  bool
	mode   string // of the cut
	cutAt  string // where it was
	outage bool
	forced bool
	worked map[string]bool // what consumers have used since something was changed at the provider

	prompt json.RawMessage // what the secret of the platform holds
	label  string          // of which version that is
	part   json.RawMessage // what the process has
	lag    json.RawMessage // what the slow consumer uses
	lagged string          // of which version that is
	since  time.Time       // since when it could use something newer
	file   string
}

const (
	overlap = 9 * time.Minute
	grace   = 4 * time.Minute
	quiet   = 4 * time.Minute
	pace    = 5 * time.Minute // of the driver
	slow    = 4 * time.Minute // is how long the slow consumer takes

	theEnd = "the end"
)

func newWorld(t *testing.T, db *store.DB, s Subject, name string) *world {
	t.Helper()
	w := &world{T: t, db: db, subject: s, name: name, over: make(chan struct{}), file: filepath.Join(folder(t), "secret"), worked: map[string]bool{}}
	var err error
	if w.keys, err = seal.NewKeys(seal.NewKey()); err != nil {
		t.Fatal(err)
	}
	if w.bus, err = event.New(t.Context(), db, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w.engine = w.start()
	return w
}

// folder is one in memory, where there is such: files are synced.
func folder(t *testing.T) string {
	name, err := os.MkdirTemp("/dev/shm", "rotatortest-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(name) })
	return name
}

// end lets go what was killed.
func (w *world) end() { close(w.over) }

// start starts a process.
func (w *world) start() *credentials.Credentials {
	w.Helper()
	w.engines++
	w.killed = make(chan struct{})
	w.mu.Lock()
	w.part = nil // of the one before
	w.mu.Unlock()
	c, err := credentials.New(w.Context(), credentials.Config{
		DB: w.db, Events: w.bus, Keys: w.keys, Log: slog.New(slog.DiscardHandler), Replica: fmt.Sprintf("%s-%d", w.name, w.engines),
		Kinds: map[string]credentials.Kind{"kind": w.subject.Kind}, Secrets: w,
		Platform: map[string]credentials.Part{"part": func(_ context.Context, _ string, secret json.RawMessage) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.part = slices.Clone(secret)
			return nil
		}},
		Definitions: []credentials.Definition{{
			Name: w.name, Kind: "kind", Settings: json.RawMessage(w.subject.Settings), Overlap: overlap, Grace: grace, Quiet: quiet,
			Consumers: []credentials.Use{
				{Name: "app", Secret: "project/app"}, {Name: "file", File: w.file}, {Name: "part", Platform: "part"}, {Name: "slow", Must: true},
			},
		}},
	})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// Set is the secrets of the platform.
func (w *world) Set(_ context.Context, _ string, value json.RawMessage, _ timestamp.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	secret, label, ok := strings.Cut(string(value), `,"credentialVersion":"`)
	if !ok {
		w.Errorf("the secret does not say of which version it is")
	}
	w.prompt, w.label = json.RawMessage(secret+"}"), strings.TrimSuffix(label, `"}`)
	w.since = time.Now()
	return nil
}

// ctx is that of a process: with the points of it.
func (w *world) ctx() context.Context {
	killed, over := w.killed, w.over
	return cut.With(w.Context(), func(point string) error {
		select {
		case <-killed: // nothing of it goes on
			<-over
			runtime.Goexit()
		default:
		}
		if changes(point) {
			w.mu.Lock()
			clear(w.worked)
			w.mu.Unlock()
		}
		if !w.subject.Slow || (changes(point) || hands(point)) && strings.HasSuffix(point, " after") {
			w.probe(point)
		}
		w.mu.Lock()
		w.after--
		if !w.armed || w.after != 0 {
			w.mu.Unlock()
			return nil
		}
		w.cutAt = point
		mode := w.mode
		w.mu.Unlock()
		if mode == "error" {
			return fmt.Errorf("cut at %s", point)
		}
		close(killed)
		<-over
		runtime.Goexit()
		return nil
	})
}

// changes tells that a point is about something that can make a difference at the provider.
func changes(point string) bool {
	what, _, _ := strings.Cut(point, " ")
	return what == "mint" || what == "disable" || what == "retire"
}

// hands tells that it is about what a consumer has.
func hands(point string) bool {
	return strings.HasPrefix(point, "publish ") || strings.HasPrefix(point, "deliver ")
}

// arm has the kth point from now on be the last one, or fail.
func (w *world) arm(k int, mode string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after, w.mode, w.cutAt, w.armed = k, mode, "", true
}

func (w *world) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
}

// probe has all consumers use what they have.
func (w *world) probe(at string) {
	w.mu.Lock()
	cutAt, mode := w.cutAt, w.mode
	held := map[string]json.RawMessage{"app": w.prompt, "part": w.part, "slow": w.lag}
	if w.forced { // consumers that are slow are left behind then
		delete(held, "slow")
		delete(held, "part")
	} else if text, err := os.ReadFile(w.file); err == nil {
		held["file"] = text
	}
	outage := w.outage
	w.mu.Unlock()
	if outage {
		return
	}
	tried := map[string]bool{}
	for consumer, secret := range held {
		secret := strings.TrimSpace(string(secret))
		w.mu.Lock()
		worked := w.worked[secret] && w.subject.Slow && at != theEnd
		w.mu.Unlock()
		if secret == "" || tried[secret] || worked {
			continue
		}
		tried[secret] = true
		if err := w.subject.Works(w.Context(), json.RawMessage(secret)); err != nil {
			w.Errorf("at %s, after a cut (%s) at %q: the consumer %s cannot use what it has: %v", at, mode, cutAt, consumer, err)
			continue
		}
		w.mu.Lock()
		w.worked[secret] = true
		w.mu.Unlock()
	}
}

// do has the process do something, and starts another one if it was killed by that.
func (w *world) do(f func(*credentials.Credentials) error) {
	w.Helper()
	done := make(chan error, 1)
	c, killed := w.engine, w.killed
	go func() {
		var err error
		ended := false
		defer func() {
			if ended {
				done <- err
			}
		}()
		err = f(c)
		ended = true
	}()
	select {
	case err := <-done:
		if err != nil && !strings.Contains(err.Error(), "cut at ") {
			w.Fatalf("%v", err)
		}
	case <-killed:
		w.engine = w.start()
	}
}

// rotate asks for a rotation.
func (w *world) rotate() {
	w.Helper()
	w.again(w.ask())
}

// ask is how one is asked for: by bringing a version, where people make them.
func (w *world) ask() func(*credentials.Credentials) error {
	if w.subject.Supply == nil {
		return func(c *credentials.Credentials) error { return c.Rotate(w.ctx(), w.name, "tester") }
	}
	secret := w.subject.Supply()
	return func(c *credentials.Credentials) error { return c.Supply(w.ctx(), w.name, secret, "tester") }
}

// revoke asks for one that is forced.
func (w *world) revoke() {
	w.Helper()
	ask := func(c *credentials.Credentials) error { return c.Revoke(w.ctx(), w.name, "tester") }
	if w.subject.Supply == nil {
		w.again(ask)
		return
	}
	for range 2 {
		if w.text(`SELECT name FROM credential WHERE name = $1 AND again`, w.name) == "" {
			w.do(ask)
		}
	}
	w.rotate()
}

// first asks for the first version, where it does not come by itself.
func (w *world) first() {
	w.Helper()
	if w.subject.Supply != nil {
		w.rotate()
	}
	w.drive()
}

// again asks once more if nothing has come of it.
func (w *world) again(ask func(*credentials.Credentials) error) {
	w.Helper()
	w.do(ask)
	if w.running() == 0 {
		w.do(ask)
	}
}

func (w *world) running() int {
	return len(w.column(`SELECT id FROM credential_rotation WHERE credential = $1 AND state = 'running'`, w.name))
}

// drive runs the loops, on and on, until no rotation is under way.
func (w *world) drive() {
	w.Helper()
	for range 100 {
		w.do(func(c *credentials.Credentials) error { return pass(w.ctx(), c, "credentials.rotate") })
		w.do(func(c *credentials.Credentials) error { return pass(w.ctx(), c, "credentials.deliver") })
		w.catchUp()
		w.probe("rest")
		if w.running() == 0 && w.prompt != nil && string(w.lag) == string(w.prompt) && string(w.part) == string(w.prompt) {
			return
		}
		time.Sleep(pace)
	}
	w.Fatalf("after a cut (%s) at %q the rotation finds no end: %q", w.mode, w.cutAt,
		w.column(`SELECT step || ' ' || attempt || ': ' || note FROM credential_rotation WHERE credential = $1 AND state = 'running'`, w.name))
}

// catchUp has the slow consumer use what is there, after a while, and say so.
func (w *world) catchUp() {
	w.mu.Lock()
	if string(w.lag) != string(w.prompt) && (time.Since(w.since) >= slow || w.lag == nil || w.forced) {
		w.lag, w.lagged = w.prompt, w.label
	}
	id := w.lagged
	w.mu.Unlock()
	for range 2 { // what failed is said once more
		said := w.column(`SELECT v.id FROM credential_version v LEFT JOIN credential_pickup p ON p.credential = v.credential AND p.consumer = 'slow'
			 WHERE v.id = $1 AND v.state = 'live' AND (p.confirmed IS NULL OR p.confirmed <> v.id)`, id)
		if len(said) == 0 {
			return // it was, or the journal does not know yet that the version was handed out
		}
		w.do(func(c *credentials.Credentials) error { return c.Consumed(w.ctx(), w.name, "slow", id) })
	}
}

// settled checks that there is one version, which everybody uses, and nothing else.
func (w *world) settled() {
	w.Helper()
	w.probe(theEnd)
	at := fmt.Sprintf("after a cut (%s) at %q", w.mode, w.cutAt)
	live := w.column(`SELECT id FROM credential_version WHERE credential = $1 AND state NOT IN ('retired', 'withdrawn')`, w.name)
	current := w.text(`SELECT current FROM credential WHERE name = $1`, w.name)
	if len(live) != 1 || live[0] != current {
		w.Errorf("%s: the versions are %q, the current one is %q", at, live, current)
	}
	if left := w.column(`SELECT id FROM credential_version WHERE credential = $1 AND state IN ('retired', 'withdrawn') AND sealed <> ''`, w.name); len(left) > 0 {
		w.Errorf("%s: secrets of versions that are gone are kept: %q", at, left)
	}
	file, err := os.ReadFile(w.file)
	if err != nil || strings.TrimSpace(string(file)) != string(w.prompt) || string(w.part) != string(w.prompt) || string(w.lag) != string(w.prompt) {
		w.Errorf("%s: the consumers do not have the same", at)
	}
	public := w.text(`SELECT public FROM credential_version WHERE id = $1`, current)
	found, err := w.subject.Kind.List(w.Context(), credentials.Order{Credential: w.name, Settings: json.RawMessage(w.subject.Settings),
		Known: []credentials.Version{{ID: current, Credential: w.name, Public: json.RawMessage(public)}}})
	if err != nil && !errors.Is(err, credentials.ErrNotTold) {
		w.Errorf("%s: listing: %v", at, err)
	} else if err == nil && (len(found) != 1 || found[0].ID != current) {
		w.Errorf("%s: the provider has %+v, and should have %s alone", at, found, current)
	}
}

// dead checks that what was replaced does not work any more.
func (w *world) dead(secret json.RawMessage) {
	w.Helper()
	if string(secret) == string(w.prompt) {
		w.Errorf("after a cut (%s) at %q nothing was replaced", w.mode, w.cutAt)
	} else if w.subject.Works(w.Context(), secret) == nil {
		w.Errorf("after a cut (%s) at %q what was replaced still works", w.mode, w.cutAt)
	}
}

func pass(ctx context.Context, c *credentials.Credentials, name string) error {
	for _, l := range c.Loops() {
		if l.Name == name {
			_, err := l.Pass(ctx)
			return err
		}
	}
	return fmt.Errorf("there is no loop %s", name)
}

func (w *world) column(statement string, args ...any) (list []string) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) (err error) { list, err = tx.Column(statement, args...); return err }); err != nil {
		w.Fatal(err)
	}
	return list
}

func (w *world) text(statement string, args ...any) string {
	w.Helper()
	if list := w.column(statement, args...); len(list) > 0 {
		return list[0]
	}
	return ""
}
