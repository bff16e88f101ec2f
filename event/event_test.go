package event

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

const exchange = "exchange/taskcluster-queue/v1/task-completed"

func newBus(t *testing.T, db *store.DB) *Bus {
	b, err := New(t.Context(), db, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func runLoops(t *testing.T, b *Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, prometheus.NewRegistry()).Run(ctx, b.Loops()...)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func publish(t *testing.T, db *store.DB, b *Bus, key string, cc ...string) {
	t.Helper()
	if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.Publish(tx, exchange, key, cc, map[string]string{"key": key}) }); err != nil {
		t.Fatal(err)
	}
}

func TestAMessageExistsExactlyIfItsTransactionCommits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		failure := errors.New("no")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if err := b.Publish(tx, exchange, "lost", nil, 1); err != nil {
				return err
			}
			return failure
		}); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		publish(t, db, b, "kept")
		synctest.Wait()
		list, err := b.Read(t.Context(), 0, 10)
		if err != nil || len(list) != 1 || list[0].RoutingKey != "kept" || list[0].Position != 1 {
			t.Errorf("log = %v, %v", list, err)
		}
	})
}

func TestASubscriberGetsEverythingInOrderAcrossFailuresAndRestarts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		publish(t, db, b, "before") // it does not know of the subscriber yet
		var got []string
		failing := 0
		subscribe := func(b *Bus) {
			b.Subscribe("reader", []Binding{{exchange, "a.#"}}, func(_ context.Context, list []Message) error {
				if failing > 0 {
					failing--
					return errors.New("not now")
				}
				for _, m := range list {
					got = append(got, m.RoutingKey)
				}
				return nil
			})
		}
		subscribe(b)
		stop := runLoops(t, b)
		synctest.Wait()
		for i := range 3 {
			publish(t, db, b, fmt.Sprintf("a.%d", i))
			publish(t, db, b, fmt.Sprintf("b.%d", i))
		}
		synctest.Wait()
		failing = 3
		publish(t, db, b, "a.3")
		time.Sleep(time.Minute)
		stop()
		publish(t, db, b, "a.4") // while nobody listens
		again := newBus(t, db)
		subscribe(again)
		runLoops(t, again)
		synctest.Wait()
		if s := strings.Join(got, " "); s != "a.0 a.1 a.2 a.3 a.4" {
			t.Errorf("got %s", s)
		}
	})
}

func TestMessagesAreForgottenADayAfterTheyWereDelivered(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		pass := func(f func(context.Context) (bool, error)) {
			if _, err := f(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, db, b, "old")
		pass(b.place)
		if err := db.Do(t.Context(), func(tx *store.Tx) error { // a subscriber that an older version had
			_, err := tx.Exec(`INSERT INTO event_cursor (name, position) VALUES ('gone', 0)`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		publish(t, db, b, "new")
		pass(b.place)
		pass(b.expire)
		list, err := b.Read(t.Context(), 0, 10)
		if err != nil || len(list) != 1 || list[0].RoutingKey != "new" || list[0].Position != 2 {
			t.Errorf("log = %v, %v", list, err)
		}
		oldest, head, err := b.span(t.Context())
		if oldest != 2 || head != 2 || err != nil {
			t.Errorf("span = %d, %d, %v", oldest, head, err)
		}
	})
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{
		{"#", "a.b.c", true}, {"a.#", "a", true}, {"a.#.c", "a.c", true}, {"a.#.c", "a.b.b.c", true}, {"a.#.c", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"#.b.#", "a.b.c", true}, {"#.x.#", "a.b.c", false},
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"*.*", "a.b", true}, {"#.*", "a", true}, {"#.#.#", "a", true},
	} {
		if got := matches([]Binding{{exchange, c.pattern}}, Message{Exchange: exchange, RoutingKey: c.key}); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.key, got)
		}
		if got := matches([]Binding{{exchange, c.pattern}}, Message{Exchange: exchange, RoutingKey: "zz.zz.zz.zz.zz", CC: []string{"x.x", c.key}}); got != c.want && !strings.Contains(c.pattern, "#") && c.pattern != "*.*" {
			t.Errorf("%s matches CC %s: %v", c.pattern, c.key, got)
		}
		if matches([]Binding{{"other", c.pattern}}, Message{Exchange: exchange, RoutingKey: c.key}) {
			t.Errorf("%s matches on another exchange", c.pattern)
		}
	}
}

type anybody struct{}

func (anybody) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{Scopes: scope.NewSet("events:connect")}, nil
}

// A sse is one server-sent event.
type sse struct{ event, id, data string }

func connectTo(t *testing.T, server *httptest.Server, pattern, last string) (next func() sse, hangUp func()) {
	t.Helper()
	bindings, _ := json.Marshal(map[string]any{"bindings": []Binding{{exchange, pattern}}})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/api/events/v1/connect/?bindings="+url.QueryEscape(string(bindings)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, body)
	}
	lines := bufio.NewScanner(resp.Body)
	return func() sse {
		var e sse
		for lines.Scan() {
			k, v, _ := strings.Cut(lines.Text(), ": ")
			switch k {
			case "event":
				e.event = v
			case "id":
				e.id = v
			case "data":
				e.data = v
			case "":
				return e
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return e
	}, func() { cancel(); resp.Body.Close() }
}

func TestAStreamResumesWhereItBrokeOff(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		s := api.NewServer(api.Options{Auth: anybody{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err := api.Mount(s, API, b); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(s)
		defer server.Close()

		next, hangUp := connectTo(t, server, "a.#", "")
		if e := next(); e.event != "ready" || e.id != "0" {
			t.Fatalf("first event: %+v", e)
		}
		publish(t, db, b, "a.0")
		e := next()
		var m Message
		if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.event != "message" || m.RoutingKey != "a.0" || string(m.Payload) != `{"key":"a.0"}` {
			t.Fatalf("%+v, %v", e, err)
		}
		hangUp()
		for i := range 1200 { // more than one batch
			publish(t, db, b, fmt.Sprintf("%c.%d", "ab"[i%2], i+1))
		}
		next, hangUp = connectTo(t, server, "a.#", e.id)
		defer hangUp()
		next() // ready
		for i := 1; i <= 1200; i += 2 {
			if e := next(); !strings.Contains(e.data, fmt.Sprintf(`"a.%d"`, i)) {
				t.Fatalf("message %d: %+v", i, e)
			}
		}
		// Part of what a reader wants is gone: it is told which.
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`DELETE FROM event WHERE position <= 1000`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		next, hangUp = connectTo(t, server, "a.#", "5")
		defer hangUp()
		next()
		if e := next(); e.event != "gap" || e.data != `{"from":6,"to":1000}` {
			t.Errorf("%+v", e)
		}
		if e := next(); !strings.Contains(e.data, `"a.1001"`) && !strings.Contains(e.data, `"a.1000"`) {
			t.Errorf("after the gap: %+v", e)
		}
	})
}
