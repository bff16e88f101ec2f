package event

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

type anybody struct{}

func (anybody) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{Scopes: scope.NewSet("events:connect")}, nil
}

func serve(t testing.TB, b *Bus) *httptest.Server {
	t.Helper()
	s := api.NewServer(api.Options{Auth: anybody{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err := api.Mount(s, API, b); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

// A sent is an event as it came.
type sent struct{ event, id, data string }

func (e sent) key(t testing.TB) string {
	t.Helper()
	var m Message
	if err := json.Unmarshal([]byte(e.data), &m); err != nil || e.event != "message" {
		t.Fatalf("%+v is no message: %v", e, err)
	}
	return m.RoutingKey
}

func query(bindings []Binding, last string) string {
	q := url.Values{}
	if bindings != nil {
		text, _ := json.Marshal(map[string]any{"bindings": bindings})
		q.Set("bindings", string(text))
	}
	if last != "" {
		q.Set("lastEventId", last)
	}
	return "/api/events/v1/connect/?" + q.Encode()
}

// connectTo opens a stream of server-sent events. next leaves pings out, as one may come at any time.
func connectTo(t testing.TB, server *httptest.Server, pattern, last string) (next func() sent, hangUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+query([]Binding{{exchange, pattern}}, ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Content-Encoding") != "" {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %v: %s", resp.Status, resp.Header, body)
	}
	lines := bufio.NewReader(resp.Body)
	return func() (e sent) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("the stream ended: %v", err)
			}
			k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch k {
			case "event":
				e.event = v
			case "id":
				e.id = v
			case "data":
				e.data = v
			case "":
				if e.event != "ping" {
					return e
				}
			}
		}
	}, func() { cancel(); resp.Body.Close() }
}

func TestAStreamResumesWhereItBrokeOff(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		stop := runLoops(t, b)
		server := serve(t, b)
		next, hangUp := connectTo(t, server, "a.#", "")
		if e := next(); e.event != "ready" || e.id != "0" {
			t.Fatalf("first event: %+v", e)
		}
		publish(t, db, b, "a.0")
		e := next()
		if e.key(t) != "a.0" || e.id != "1" || !strings.Contains(e.data, `"cc":[],"payload":{"key":"a.0"},"created":"`) {
			t.Fatalf("%+v", e)
		}
		hangUp()
		for i := range 1200 { // more than one batch
			publish(t, db, b, fmt.Sprintf("%c.%d", "ab"[i%2], i+1))
		}
		next, hangUp = connectTo(t, server, "a.#", e.id)
		next() // ready
		for i := 1; i <= 1200; i += 2 {
			if key := next().key(t); key != fmt.Sprintf("a.%d", i) {
				t.Fatalf("message %d: %s", i, key)
			}
		}
		hangUp()

		// Part of what a reader wants is gone: it is told which, also by a process
		// that has just been started.
		stop()
		for _, statement := range []string{`DELETE FROM event_batch WHERE id IN (SELECT batch FROM event_place WHERE position <= 1000)`, `DELETE FROM event_place WHERE position <= 1000`} {
			if err := db.Do(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(statement); return err }); err != nil {
				t.Fatal(err)
			}
		}
		b = newBus(t, db)
		next, hangUp = connectTo(t, serve(t, b), "a.#", "5")
		defer hangUp()
		if e := next(); e.event != "ready" || e.id != "5" {
			t.Errorf("%+v", e)
		}
		if e := next(); e.event != "gap" || e.id != "1000" || e.data != `{"from":6,"to":1000}` {
			t.Errorf("%+v", e)
		}
		if key := next().key(t); key != "a.1001" {
			t.Errorf("after the gap: %s", key)
		}
	})
}

func TestAStreamGetsAMessageOnceThoughManyBindingsFit(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		server := serve(t, b)
		conn, next := dial(t, server, query([]Binding{{exchange, "#"}, {exchange, "a.#"}, {exchange, "*.b"}, {exchange, "route.#"}}, ""))
		defer conn.CloseNow()
		next()
		publish(t, db, b, "a.b", "route.x", "route.y")
		publish(t, db, b, "c", "route.x")
		if one, two := next().key(t), next().key(t); one != "a.b" || two != "c" {
			t.Errorf("%s, %s", one, two)
		}
	})
}

// A reader that does not read is not waited for, and nothing is kept for it.
func TestASlowReaderMissesNothing(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		server := serve(t, b)
		server.Client().Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, conn.(*net.TCPConn).SetReadBuffer(256 << 10)
		}
		next, hangUp := connectTo(t, server, "#", "")
		defer hangUp()
		fast, hangUpFast := connectTo(t, server, "#", "")
		defer hangUpFast()
		next()
		fast()
		const total = 2000
		payload := strings.Repeat("x", 4000) // twice as much as a connection holds
		for i := 0; i < total; i += 100 {
			var list []Outgoing
			for k := range 100 {
				list = append(list, Outgoing{exchange, fmt.Sprint(i + k), nil, payload})
			}
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
				t.Fatal(err)
			}
		}
		for i := range total {
			if key := fast().key(t); key != fmt.Sprint(i) {
				t.Fatalf("the fast reader got %s at %d", key, i)
			}
		}
		behind := 0
		b.hub.mu.Lock()
		for _, s := range b.hub.exchanges[exchange].others.streams() {
			if len(s.queue) > maxQueue {
				t.Errorf("%d messages are kept for a reader", len(s.queue))
			}
			if !s.live {
				behind++
			}
		}
		b.hub.mu.Unlock()
		if behind == 0 {
			t.Error("the slow reader is not behind")
		}
		for i := range total {
			if key := next().key(t); key != fmt.Sprint(i) {
				t.Fatalf("the slow reader got %s at %d", key, i)
			}
		}
		publish(t, db, b, "end")
		if a, b := next().key(t), fast().key(t); a != "end" || b != "end" {
			t.Errorf("%s, %s", a, b)
		}
	})
}

func (s boundSet) streams() (list []*stream) {
	for b := range s {
		list = append(list, b.stream)
	}
	return list
}

func TestManyStreamsReadTheDatabaseOnce(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		reads := make(chan int, 100_000)
		b.tail.read = func(ctx context.Context, at int64, limit int) ([]*entry, bool, error) {
			list, more, err := b.read(ctx, at, limit)
			reads <- len(list)
			return list, more, err
		}
		server := serve(t, b)
		const streams, messages = 200, 50
		var nexts []func() sent
		for range streams {
			next, hangUp := connectTo(t, server, "#", "")
			defer hangUp()
			next()
			nexts = append(nexts, next)
		}
		other := newBus(t, db)
		for i := range messages {
			publish(t, db, other, fmt.Sprint(i))
		}
		for _, next := range nexts {
			for i := range messages {
				if key := next().key(t); key != fmt.Sprint(i) {
					t.Fatalf("%s came where %d was due", key, i)
				}
			}
		}
		total := 0
		queries := len(reads)
		for range queries {
			total += <-reads
		}
		if total != messages || queries > 4*messages {
			t.Errorf("%d streams of %d messages read %d in %d queries", streams, messages, total, queries)
		}
	})
}

func TestWhatIsNoStreamIsSaidSo(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		server := serve(t, b)
		ok := query([]Binding{{exchange, "#"}}, "")
		many := make([]Binding, 101)
		for i := range many {
			many[i] = Binding{exchange, fmt.Sprint(i)}
		}
		for path, want := range map[string]string{
			"/api/events/v1/connect/":                                  "must be JSON",
			"/api/events/v1/connect":                                   "must be JSON",
			"/api/events/v1/connect/?bindings=%7B":                     "must be JSON",
			query([]Binding{}, ""):                                     "needs 1 to 100",
			query(many, ""):                                            "needs 1 to 100",
			query([]Binding{{"", "#"}}, ""):                            "needs an exchange",
			query([]Binding{{exchange, ""}}, ""):                       "needs a routingKeyPattern",
			query([]Binding{{exchange, strings.Repeat("x", 256)}}, ""): "needs a routingKeyPattern",
			ok + "&lastEventId=1":                                      "an id that this stream has sent",
			ok + "&lastEventId=-1":                                     "lastEventId",
			ok + "&lastEventId=999999999999999999":                     "an id that this stream has sent",
		} {
			resp, err := http.Get(server.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 400 || !strings.Contains(string(body), want) {
				t.Errorf("%.80s: %s %s", path, resp.Status, body)
			}
		}
		resp, err := http.Head(server.URL + ok)
		if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("HEAD: %v, %v", resp, err)
		}
		b.hub.mu.Lock()
		b.hub.streams = maxStreams
		b.hub.mu.Unlock()
		if resp, err := http.Get(server.URL + ok); err != nil || resp.StatusCode != 429 {
			t.Errorf("one too many: %v, %v", resp, err)
		}
		b.hub.mu.Lock()
		b.hub.streams = 0
		b.hub.mu.Unlock()
		if b.hub.run != nil {
			t.Error("the hub runs for nobody")
		}
	})
}

// dial opens a WebSocket; next is as that of connectTo.
func dial(t testing.TB, server *httptest.Server, path string) (*websocket.Conn, func() sent) {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), server.URL+path, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://elsewhere.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(1 << 20)
	return conn, func() (e sent) {
		t.Helper()
		for {
			_, text, err := conn.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var f struct {
				Event   string
				ID      json.RawMessage
				Payload json.RawMessage
			}
			if err := json.Unmarshal(text, &f); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if f.Event != "ping" {
				return sent{f.Event, strings.Trim(string(f.ID), `"`), string(f.Payload)}
			}
		}
	}
}

func TestBindingsComeAndGoOverAWebSocket(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		server := serve(t, b)
		conn, next := dial(t, server, "/api/events/v1/connect")
		defer conn.CloseNow()
		say := func(text string) sent {
			t.Helper()
			if err := conn.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
				t.Fatal(err)
			}
			return next()
		}
		if e := next(); e.event != "ready" || e.id != "0" {
			t.Fatalf("%+v", e)
		}
		bind := func(method, id, pattern string) sent {
			t.Helper()
			return say(fmt.Sprintf(`{"method":%q,"id":%q,"options":{"exchange":%q,"routingKeyPattern":%q}}`, method, id, exchange, pattern))
		}
		// Once it has had a binding in force it is where the hub is, and what nobody is bound to passes it by.
		bind("bind", "none", "nothing")
		waitFor(t, func() bool {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return len(b.hub.exchanges) == 1
		})
		bind("unbind", "none", "nothing")
		publish(t, db, b, "a.0")
		waitFor(t, func() bool { return b.hub.position() == 1 })
		if e := bind("bind", "first", "a.#"); e != (sent{"bound", "first", "{}"}) {
			t.Errorf("%+v", e)
		}
		if e := bind("bind", "again", "a.#"); e != (sent{"bound", "again", "{}"}) {
			t.Errorf("%+v", e)
		}
		publish(t, db, b, "a.1")
		publish(t, db, b, "b.2")
		publish(t, db, b, "a.3")
		if one, two := next(), next(); one.key(t) != "a.1" || one.id != "2" || two.key(t) != "a.3" {
			t.Errorf("%+v %+v", one, two)
		}
		if e := bind("bind", "second", "b.#"); e.event != "bound" {
			t.Errorf("%+v", e)
		}
		if e := bind("unbind", "third", "a.#"); e != (sent{"unbound", "third", "{}"}) {
			t.Errorf("%+v", e)
		}
		publish(t, db, b, "a.4")
		publish(t, db, b, "b.5")
		if e := next(); e.key(t) != "b.5" {
			t.Errorf("%+v", e)
		}
		for text, want := range map[string]sent{
			`{"method":"unbind","id":"x","options":{"exchange":"a","routingKeyPattern":"b"}}`: {"error", "x", "no binding of a"},
			`{"method":"bind","id":7,"options":{"exchange":"a"}}`:                             {"error", "7", "needs a routingKeyPattern"},
			`{"method":"dance","id":"x"}`:                                                     {"error", "x", "is not known"},
			`{"method":"bind","id":{}}`:                                                       {"error", "null", "must be a string or a number"},
			`bind`:                                                                            {"error", "null", "it must be JSON"},
		} {
			if e := say(text); e.event != want.event || e.id != want.id || !strings.Contains(e.data, want.data) {
				t.Errorf("%s: %+v", text, e)
			}
		}
		for i := range 99 {
			if e := bind("bind", "x", fmt.Sprint(i)); e.event != "bound" {
				t.Fatalf("%d: %+v", i, e)
			}
		}
		if e := bind("bind", "x", "99"); e.event != "error" || !strings.Contains(e.data, "100 bindings") {
			t.Errorf("%+v", e)
		}
		conn.Close(websocket.StatusNormalClosure, "")
		waitFor(t, func() bool {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return b.hub.streams == 0 && b.hub.run == nil && len(b.hub.exchanges) == 0
		})
	})
}

func (h *hub) position() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to it")
		}
	}
}

func TestAWebSocketResumes(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		server := serve(t, b)
		for i := range 10 {
			publish(t, db, b, fmt.Sprint(i))
		}
		mustPass(t, b.place)
		conn, next := dial(t, server, query([]Binding{{exchange, "#"}}, "3"))
		defer conn.CloseNow()
		if e := next(); e.event != "ready" || e.id != "3" {
			t.Errorf("%+v", e)
		}
		for i := 3; i < 10; i++ {
			if e := next(); e.key(t) != fmt.Sprint(i) || e.id != fmt.Sprint(i+1) {
				t.Errorf("%+v", e)
			}
		}
		// With the binding given later, it begins with that.
		conn, next = dial(t, server, query(nil, "8"))
		defer conn.CloseNow()
		next()
		publish(t, db, b, "10")
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(`{"method":"bind","id":1,"options":{"exchange":"`+exchange+`","routingKeyPattern":"#"}}`)); err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for range 4 {
			e := next()
			got[e.event+e.id] = true
		}
		if !got["bound1"] || !got["message9"] || !got["message10"] || !got["message11"] {
			t.Errorf("%v", got)
		}
	})
}

// A connection that takes nothing at all is cut off.
func TestAReaderThatIsGoneIsCutOff(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		server := serve(t, b)
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", query([]Binding{{exchange, "#"}}, ""))
		waitFor(t, func() bool {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return b.hub.streams == 1 && len(b.hub.exchanges) == 1
		})
		conn.Close()
		waitFor(t, func() bool {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			return b.hub.streams == 0
		})
	})
}

// The server ends its streams when it stops, and they resume elsewhere.
func TestAStreamEndsWithTheServer(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		s := api.NewServer(api.Options{Auth: anybody{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err := api.Mount(s, API, b); err != nil {
			t.Fatal(err)
		}
		calls, stop := context.WithCancel(context.Background())
		server := httptest.NewUnstartedServer(s)
		server.Config.BaseContext = func(net.Listener) context.Context { return calls }
		server.Start()
		defer server.Close()
		conn, next := dial(t, server, query([]Binding{{exchange, "#"}}, ""))
		defer conn.CloseNow()
		next()
		stop()
		var err error
		for err == nil { // until then a ping may come
			_, _, err = conn.Read(t.Context())
		}
		if websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("%v", err)
		}
	})
}

// A tape is a connection that takes everything.
type tape struct{ events []string }

func (t *tape) event(_ context.Context, name string, id int64, _ any) error {
	t.events = append(t.events, fmt.Sprint(name, id))
	return nil
}

func (t *tape) messages(_ context.Context, list []*entry) error {
	for _, e := range list {
		t.events = append(t.events, fmt.Sprint("message", e.Position))
	}
	return nil
}

func TestAStreamIsKeptAwakeAndEndsAfterSomeHours(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		s, err := b.open(t.Context(), []Binding{{exchange, "a"}}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer b.hub.leave(s)
		start := time.Now()
		tape := &tape{}
		ended := make(chan error)
		go func() { ended <- s.carry(t.Context(), tape) }()
		time.Sleep(30 * time.Second)
		publish(t, db, b, "b")
		publish(t, db, b, "a")
		publish(t, db, b, "b")
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d < 5*time.Hour || d > maxLife+pingInterval {
			t.Errorf("it ended after %s", d)
		}
		// A ping has the position up to which nothing was of interest.
		if got := fmt.Sprint(tape.events[:4]); got != "[ping0 message2 ping3 ping3]" || len(tape.events) < 800 {
			t.Errorf("%s, %d events", got, len(tape.events))
		}
	})
}
