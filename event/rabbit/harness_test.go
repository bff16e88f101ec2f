package rabbit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
)

var quiet = slog.New(slog.DiscardHandler)

// broker is the URL of the RabbitMQ of all tests.
func broker(t testing.TB) string {
	t.Helper()
	u := os.Getenv("TASKFLEET_TEST_RABBITMQ")
	if u == "" {
		t.Fatal("TASKFLEET_TEST_RABBITMQ is not set: run `make test`, which starts a RabbitMQ for the tests")
	}
	return u
}

// directory is where the broker can be laid hands on.
func directory(t testing.TB) string {
	t.Helper()
	d := os.Getenv("TASKFLEET_TEST_RABBITMQ_DIRECTORY")
	if d == "" {
		t.Fatal("TASKFLEET_TEST_RABBITMQ_DIRECTORY is not set: run `make test`, which starts a RabbitMQ for the tests")
	}
	return d
}

// kill kills the broker. It is started again.
func kill(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(directory(t), "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		t.Fatalf("%q is no process id", text)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// namespace keeps the exchanges of a test apart from those of others.
func namespace(t testing.TB) string {
	return fmt.Sprintf("test-%d", rand.Uint64())
}

func publisher(t testing.TB, c Config) *Publisher {
	t.Helper()
	if c.URL == "" {
		c.URL = broker(t)
	}
	if c.Log == nil {
		c.Log = quiet
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// channel is a channel of a consumer's.
func channel(t testing.TB) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(broker(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// queue makes a durable queue bound to an exchange, for the time of the test.
func queue(t testing.TB, exchange, pattern string, args amqp.Table) (name string) {
	t.Helper()
	ch := channel(t)
	q, err := ch.QueueDeclare(fmt.Sprintf("queue-%d", rand.Uint64()), true, false, false, false, args)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(q.Name, pattern, exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ch := channel(t)
		ch.QueueDelete(q.Name, false, false, false)
		ch.ExchangeDelete(exchange, false, false)
	})
	return q.Name
}

// A path is a TCP proxy in front of the broker. It can cut all connections, and
// let nothing through without cutting them.
type path struct {
	url      string
	listener net.Listener
	mu       sync.Mutex
	still    *sync.Cond
	stopped  bool
	conns    []net.Conn
}

func proxy(t testing.TB) *path {
	t.Helper()
	u, err := url.Parse(broker(t))
	if err != nil {
		t.Fatal("TASKFLEET_TEST_RABBITMQ is no URL")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{listener: l}
	p.still = sync.NewCond(&p.mu)
	target := u.Host
	u.Host = l.Addr().String()
	p.url = u.String()
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, a, b)
			p.mu.Unlock()
			go p.copy(a, b)
			go p.copy(b, a)
		}
	}()
	t.Cleanup(func() { l.Close(); p.stop(false); p.cut() })
	return p
}

func (p *path) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		for p.stopped {
			p.still.Wait()
		}
		p.mu.Unlock()
		if _, e := to.Write(buffer[:n]); err != nil || e != nil {
			return
		}
	}
}

func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *path) stop(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = on
	p.still.Broadcast()
}

// A log is a bus with a publisher, as in a running platform.
type log struct {
	db   *store.DB
	bus  *event.Bus
	stop func()
}

func run(t testing.TB, db *store.DB, p *Publisher) *log {
	t.Helper()
	bus, err := event.New(t.Context(), db, quiet)
	if err != nil {
		t.Fatal(err)
	}
	bus.Subscribe(Subscription, nil, p.Deliver)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loop.NewRunner(quiet, loop.Alone, prometheus.NewRegistry()).Run(ctx, append(bus.Loops(), p.Loops()...)...)
	}()
	l := &log{db, bus, func() { cancel(); <-done }}
	t.Cleanup(l.stop)
	for { // what was published before a subscriber was first there is not for it
		err := db.View(t.Context(), func(tx *store.Tx) error {
			var at int64
			return tx.QueryRow(`SELECT position FROM event_cursor WHERE name = $1`, Subscription).Scan(&at)
		})
		if err == nil {
			return l
		}
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// publish writes n messages for each of many tasks, in transactions of a few.
func (l *log) publish(t testing.TB, from, to, tasks int) {
	t.Helper()
	const each = 20
	for i := from; i < to; i += each {
		var list []event.Outgoing
		for k := i; k < min(i+each, to); k++ {
			list = append(list, event.Outgoing{
				Exchange: completed, RoutingKey: fmt.Sprintf("primary.task%d.%d", k%tasks, k/tasks), CC: []string{"route.a"},
				Payload: map[string]string{"status": strings.Repeat("x", 700)},
			})
		}
		if err := l.db.Do(t.Context(), func(tx *store.Tx) error { return l.bus.PublishAll(tx, list) }); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader consumes a queue, whatever happens to its connection, and keeps
// book of what came first.
type reader struct {
	mu         sync.Mutex
	next       map[string]int // by task
	first      int
	duplicates int
	wrong      []string
	done       chan struct{} // closed when as many have come as are expected
}

func consume(t testing.TB, queue string, expect int) *reader {
	t.Helper()
	r := &reader{next: map[string]int{}, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			r.session(ctx, broker(t), queue, expect)
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return r
}

func (r *reader) session(ctx context.Context, url, queue string, expect int) {
	conn, err := amqp.Dial(url)
	if err != nil {
		return
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return
	}
	ch.Qos(1000, 0, false)
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return
			}
			r.note(d, expect)
			d.Ack(false)
		case <-ctx.Done():
			return
		}
	}
}

func (r *reader) note(d amqp.Delivery, expect int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	part := strings.Split(d.RoutingKey, ".")
	n, _ := strconv.Atoi(part[2])
	switch want := r.next[part[1]]; {
	case n == want:
		r.next[part[1]]++
		if r.first++; r.first == expect {
			close(r.done)
		}
	case n < want:
		r.duplicates++
	default:
		r.wrong = append(r.wrong, fmt.Sprintf("%s came where %d was due", d.RoutingKey, want))
	}
}

// wait waits for all and checks the books.
func (r *reader) wait(t testing.TB) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(10 * time.Minute):
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d messages, %d duplicates", r.first, r.duplicates)
	if len(r.wrong) > 0 {
		t.Errorf("%d out of order: %s", len(r.wrong), r.wrong[0])
	}
	select {
	case <-r.done:
	default:
		t.Errorf("only %d messages came", r.first)
	}
}

func (r *reader) waitFor(t testing.TB, n int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		first := r.first
		r.mu.Unlock()
		if first >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("only %d of %d messages came", first, n)
		}
	}
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
