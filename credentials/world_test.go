package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A mint is a kind in memory that can be made to fail.
type mint struct {
	mu    sync.Mutex
	have  map[string]time.Time // when each version was last used
	fail  map[string]error     // by method
	made  int
	wait  chan struct{} // that Mint waits for, whatever its context says
	adopt string        // that somebody has made, and is to be replaced
	then  func()        // what happens while Used is asked
	ends  func()        // and while a version is disabled
}

// planted is in all secrets.
const planted = "hunter2-planted"

func (m *mint) failing(method string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fail[method]
}

func (m *mint) failWith(method string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[method] = err
}

func (m *mint) Check(settings json.RawMessage) (string, error) {
	if strings.Contains(string(settings), "wrong") {
		return "", errors.New("settings: wrong is none of them")
	}
	return "memory", nil
}

// Site has room for any number of credentials, but at a place that is named.
func (m *mint) Site(settings json.RawMessage) (string, bool) {
	var s struct{ Place string }
	return string(settings), json.Unmarshal(settings, &s) != nil || s.Place == ""
}

func (m *mint) Mint(_ context.Context, o Order) (Minted, error) {
	if m.wait != nil {
		<-m.wait
	}
	if err := m.failing("mint"); err != nil {
		return Minted{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made++
	m.have[o.ID] = time.Time{}
	return Minted{Public: json.RawMessage(`{"key":"` + o.ID + `"}`), Secret: json.RawMessage(`{"id":"` + o.ID + `","password":"` + planted + `"}`)}, nil
}

func (m *mint) Prove(_ context.Context, v Version) error {
	if err := m.failing("prove"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.have[v.ID]; !ok {
		return ErrNoVersion
	}
	return nil
}

func (m *mint) Used(_ context.Context, v Version) (time.Time, error) {
	if m.then != nil {
		m.then()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.have[strings.TrimPrefix(v.ID, v.Credential+"/")], nil
}

func (m *mint) use(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.have[id] = time.Now()
}

func (m *mint) Disable(context.Context, Version) error {
	if m.ends != nil {
		m.ends()
	}
	return m.failing("disable")
}

func (m *mint) Retire(_ context.Context, v Version) error {
	if err := m.failing("retire"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.have, strings.TrimPrefix(v.ID, v.Credential+"/"))
	return nil
}

func (m *mint) List(_ context.Context, o Order) (list []Found, err error) {
	if err := m.failing("list"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.have {
		f := Found{ID: id, Adopt: id == m.adopt}
		for _, v := range o.Known {
			if v.ID == o.Credential+"/"+id {
				f.ID = v.ID
			}
		}
		list = append(list, f)
	}
	return list, nil
}

// A world is the service with one kind, "mint".
type world struct {
	*testing.T
	*Credentials
	kind    *mint
	times   *schedule.Schedule
	config  Config
	log     bytes.Buffer
	secrets map[string]string
	setting func() // is called when a secret is set
}

func newWorld(t *testing.T, db *store.DB, definitions ...Definition) *world {
	t.Helper()
	w := &world{T: t, kind: &mint{have: map[string]time.Time{}, fail: map[string]error{}}, secrets: map[string]string{}}
	log := slog.New(slog.NewJSONHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	bus, err := event.New(t.Context(), db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w.config = Config{DB: db, Events: bus, Keys: keys, Log: log, Kinds: map[string]Kind{"mint": w.kind}, Secrets: w, Replica: "one", Definitions: definitions}
	w.Credentials = w.start(w.config)
	return w
}

func (w *world) start(c Config) *Credentials {
	w.Helper()
	var err error
	if c.Schedule, err = schedule.New(w.Context(), schedule.Config{DB: c.DB, Events: c.Events, Log: slog.New(slog.DiscardHandler), Replica: c.Replica}); err != nil {
		w.Fatal(err)
	}
	w.times = c.Schedule
	s, err := New(w.Context(), c)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) Set(_ context.Context, name string, value json.RawMessage, _ timestamp.Time) error {
	w.secrets[name] = string(value)
	if w.setting != nil {
		w.setting()
	}
	return nil
}

func pass(ctx context.Context, c *Credentials, names ...string) error {
	var failed []error
	for _, name := range names {
		for _, l := range c.Loops() {
			if l.Name == "credentials."+name {
				_, err := l.Pass(ctx)
				failed = append(failed, err)
			}
		}
	}
	return errors.Join(failed...)
}

// run runs the loops for a time, every minute or, if it is long, every few.
func (w *world) run(d time.Duration) {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	defer stop()
	var jobs sync.WaitGroup
	step := min(max(time.Minute, d/40), 5*time.Minute)
	for end := time.Now().Add(d); ; time.Sleep(min(step, time.Until(end))) {
		if d > 0 { // it may be no bubble
			jobs.Go(func() { w.times.Loops()[0].Pass(ctx) }) // whose runs wait for what follows
			synctest.Wait()
		}
		if err := pass(w.Context(), w.Credentials, "rotate", "deliver"); err != nil && !errors.Is(err, errForTest) {
			w.log.WriteString(err.Error())
		}
		jobs.Wait()
		if !time.Now().Before(end) {
			return
		}
	}
}

var errForTest = errors.New("for the test")

func (w *world) is(name string, want State, says ...string) *view {
	w.Helper()
	v, err := w.describe(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	if v.State != want {
		w.Fatalf("%s is %s (%s), want %s", name, v.State, v.Why, want)
	}
	for _, s := range says {
		if !strings.Contains(v.Why+" "+v.ToDo, s) {
			w.Errorf("%s is %s, %q, to do %q: nothing of %q", name, v.State, v.Why, v.ToDo, s)
		}
	}
	return v
}

// events are the exchanges of what was published.
func (w *world) events() (list []string) {
	w.Helper()
	for _, l := range w.config.Events.Loops() {
		if l.Name == "event.place" {
			for {
				more, err := l.Pass(w.Context())
				if err != nil {
					w.Fatal(err)
				}
				if !more {
					break
				}
			}
		}
	}
	all, err := w.config.Events.Read(w.Context(), 0, 1000)
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range all {
		w.log.WriteString(fmt.Sprintf("%s %s\n", m.RoutingKey, m.Payload)) // so that it is searched, too
		if x, ok := strings.CutPrefix(m.Exchange, "exchange/taskcluster-credentials/v1/"); ok {
			list = append(list, x)
		}
	}
	return list
}
