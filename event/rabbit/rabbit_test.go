package rabbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store/storetest"
)

const (
	completed = "exchange/taskcluster-queue/v1/task-completed"
	running   = "exchange/taskcluster-queue/v1/task-running"
)

func message(position int64, exchange, key string, cc ...string) event.Message {
	return event.Message{Position: position, Exchange: exchange, RoutingKey: key, CC: cc, Payload: json.RawMessage(fmt.Sprintf(`{"n":%d}`, position))}
}

func TestAMessageLooksAsConsumersExpect(t *testing.T) {
	ns := namespace(t)
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed, running}})
	if err := p.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := "exchange/" + ns + "/v1/task-completed"
	byKey := queue(t, name, "primary.#", nil)
	byRoute := queue(t, name, "route.index.#", nil)
	m := message(7, completed, "primary.t.0", "route.index.a", "route.other")
	if _, err := p.Deliver(t.Context(), []event.Message{m}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{byKey, byRoute} {
		d, ok, err := channel(t).Get(q, true)
		if !ok || err != nil {
			t.Fatalf("%s: nothing came: %v", q, err)
		}
		if d.Exchange != name || d.RoutingKey != m.RoutingKey || string(d.Body) != string(m.Payload) || d.MessageId != "7" ||
			d.ContentType != "application/json" || d.ContentEncoding != "utf-8" || d.DeliveryMode != amqp.Persistent {
			t.Errorf("%s: %+v", q, d)
		}
		if cc := fmt.Sprint(d.Headers["CC"]); cc != "[route.index.a route.other]" {
			t.Errorf("CC is %s", cc)
		}
	}
	// An exchange that nobody had told of is declared with the first message.
	if _, err := p.Deliver(t.Context(), []event.Message{message(8, "exchange/taskcluster-new/v1/thing", "a")}); err != nil {
		t.Fatal(err)
	}
	queue(t, "exchange/"+ns+"/v1/thing", "#", nil)
	queue(t, "exchange/"+ns+"/v1/task-running", "#", nil)
}

// Whoever binds to the log's streams and to RabbitMQ gets the same messages.
func TestRabbitMQMatchesAsWeDo(t *testing.T) {
	ns := namespace(t)
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed}})
	if err := p.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := "exchange/" + ns + "/v1/task-completed"
	r := rand.New(rand.NewPCG(1, 2))
	words := func(from string) string {
		list := make([]string, r.IntN(5))
		for i := range list {
			list[i] = string(from[r.IntN(len(from))])
			if list[i] == "-" {
				list[i] = ""
			}
		}
		return strings.Join(list, ".")
	}
	var messages []event.Message
	for i := range 100 {
		m := message(int64(i+1), completed, words("ab-"))
		for range r.IntN(3) {
			m.CC = append(m.CC, words("ab"))
		}
		messages = append(messages, m)
	}
	patterns := map[string]string{"": ""}
	for len(patterns) < 60 {
		patterns[words("aab-**#")] = ""
	}
	for pattern := range patterns {
		patterns[pattern] = queue(t, name, pattern, nil)
	}
	if _, err := p.Deliver(t.Context(), messages); err != nil {
		t.Fatal(err)
	}
	ch := channel(t)
	for pattern, q := range patterns {
		there := map[string]bool{}
		for {
			d, ok, err := ch.Get(q, true)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			there[d.MessageId] = true
		}
		matcher := event.Compile([]event.Binding{{Exchange: completed, RoutingKeyPattern: pattern}})
		for _, m := range messages {
			if here := matcher.Matches(m); here != there[strconv.FormatInt(m.Position, 10)] {
				t.Errorf("%q: key %q, CC %q: we say %v", pattern, m.RoutingKey, m.CC, here)
			}
		}
	}
}

func TestErrorsSayWhatToDoAndNotThePassword(t *testing.T) {
	u, err := url.Parse(broker(t))
	if err != nil {
		t.Fatal("TASKFLEET_TEST_RABBITMQ is no URL")
	}
	password, _ := u.User.Password()
	with := func(f func(u *url.URL)) string {
		changed := *u
		f(&changed)
		return changed.String()
	}
	ns := namespace(t)
	if err := channel(t).ExchangeDeclare("exchange/"+ns+"/v1/task-completed", "fanout", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	defer queue(t, "exchange/"+ns+"/v1/task-completed", "", nil)
	for _, c := range []struct{ url, want string }{
		{with(func(u *url.URL) { u.User = url.UserPassword("nobody", password) }), "user or password is wrong"},
		{with(func(u *url.URL) { u.Path = "/nowhere" }), "the virtual host does not exist"},
		{with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), "connection refused"},
		{u.String(), "the exchange is there and is no durable topic exchange"},
	} {
		p := publisher(t, Config{URL: c.url, Namespace: ns, Exchanges: []string{completed}})
		err := p.Declare(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), password) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	for _, bad := range []string{"http://a:" + password + "@b/", "amqp://a:" + password + "%@b/", "amqp://a:" + password + "@b:x/", password, "amqp://host/"} {
		if _, err := New(Config{URL: bad}); err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("New: %v", err)
		}
	}
}

func TestNothingIsLostNorOutOfOrderWhateverBreaks(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, u string) {
		const total, tasks = 8_000, 50
		ns := namespace(t)
		through := proxy(t)
		config := Config{URL: through.url, Namespace: ns, Exchanges: []string{completed}}
		p := publisher(t, config)
		if err := p.Declare(t.Context()); err != nil {
			t.Fatal(err)
		}
		exchange := "exchange/" + ns + "/v1/task-completed"
		q := queue(t, exchange, "#", nil)
		r := consume(t, q, total)
		db := storetest.Open(t, u)
		l := run(t, db, p)

		published := make(chan struct{})
		go func() {
			defer close(published)
			l.publish(t, 0, total, tasks)
		}()
		r.waitFor(t, 500)
		through.cut()
		r.waitFor(t, 1500)
		kill(t) // the broker
		r.waitFor(t, 3000)
		l.stop() // this replica; another one takes over
		other := publisher(t, config)
		run(t, db, other)
		r.waitFor(t, 4500)
		for at := 5000; at < 7500; at += 500 {
			through.cut()
			r.waitFor(t, at)
		}
		<-published
		r.wait(t)
	})
}

func TestAnExchangeThatWasDeletedIsDeclaredAgain(t *testing.T) {
	ns := namespace(t)
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed}})
	if _, err := p.Deliver(t.Context(), []event.Message{message(1, completed, "a")}); err != nil {
		t.Fatal(err)
	}
	name := "exchange/" + ns + "/v1/task-completed"
	if err := channel(t).ExchangeDelete(name, false, false); err != nil {
		t.Fatal(err)
	}
	// The broker closes the channel.
	_, err := p.Deliver(t.Context(), []event.Message{message(2, completed, "a")})
	if err == nil || !strings.Contains(err.Error(), "somebody has deleted the exchange") {
		t.Errorf("%v", err)
	}
	if _, err := p.Deliver(t.Context(), []event.Message{message(2, completed, "a")}); err != nil {
		t.Error(err)
	}
	queue(t, name, "#", nil)
}

func TestAMessageThatTheBrokerRefusesIsTriedAgain(t *testing.T) {
	ns := namespace(t)
	said := &lines{}
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed}, Log: slog.New(slog.NewTextHandler(said, nil))})
	if err := p.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := queue(t, "exchange/"+ns+"/v1/task-completed", "#", amqp.Table{"x-max-length": 2, "x-overflow": "reject-publish"})
	var list []event.Message
	for i := range 5 {
		list = append(list, message(int64(i+1), completed, "a"))
	}
	delivered := make(chan error, 1)
	deliver := func() { delivered <- p.deliverAll(t.Context(), list) }
	go deliver()
	refused := func() bool { return strings.Contains(said.String(), "refused a message") }
	var got []string
	ch := channel(t)
	for done := false; !done; {
		select {
		case err := <-delivered:
			if errors.Is(err, errRefused) { // until it gave up: the loop would call it again
				fmt.Fprintln(said, err)
				go deliver()
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(20 * time.Millisecond): // the queue is full meanwhile
		}
		for refused() { // until then it stays full
			d, ok, err := ch.Get(q, true)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			got = append(got, d.MessageId)
		}
	}
	if !refused() {
		t.Errorf("nothing was refused: %s", said)
	}
	highest := 0
	for _, id := range got {
		n, _ := strconv.Atoi(id)
		if n > highest+1 {
			t.Errorf("%d came after %d: %v", n, highest, got)
		}
		highest = max(highest, n)
	}
	if highest != 5 {
		t.Errorf("%v", got)
	}
}

func TestABrokerThatDoesNotAnswerIsLeft(t *testing.T) {
	ns := namespace(t)
	through := proxy(t)
	p := publisher(t, Config{URL: through.url, Namespace: ns, Exchanges: []string{completed}})
	if _, err := p.Deliver(t.Context(), []event.Message{message(1, completed, "a")}); err != nil {
		t.Fatal(err)
	}
	q := queue(t, "exchange/"+ns+"/v1/task-completed", "#", nil)
	through.stop(true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p.Deliver(ctx, []event.Message{message(2, completed, "a")}); err == nil || !strings.Contains(err.Error(), "broken off") {
		t.Errorf("%v", err)
	}
	through.stop(false)
	if _, err := p.Deliver(t.Context(), []event.Message{message(2, completed, "a")}); err != nil {
		t.Fatal(err)
	}
	d, ok, err := channel(t).Get(q, true)
	if !ok || err != nil || d.MessageId != "2" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestABrokerThatTakesNothingIsWaitedFor(t *testing.T) {
	ctl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(filepath.Join(directory(t), "ctl"), args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	ns := namespace(t)
	said := &lines{}
	p := publisher(t, Config{Namespace: ns, Exchanges: []string{completed}, Log: slog.New(slog.NewTextHandler(said, nil))})
	if err := p.Declare(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := queue(t, "exchange/"+ns+"/v1/task-completed", "#", nil)
	defer func() {
		if t.Failed() { // others use it as well
			ctl("set_vm_memory_high_watermark", "0.4")
		}
	}()
	ctl("set_vm_memory_high_watermark", "0.0000001") // it is short of memory now
	delivered := make(chan error, 1)
	go func() {
		delivered <- p.deliverAll(t.Context(), []event.Message{message(1, completed, "a"), message(2, completed, "a")})
	}()
	for !strings.Contains(said.String(), "takes no messages") {
		select {
		case err := <-delivered:
			t.Fatalf("delivered to a broker without memory: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	ctl("set_vm_memory_high_watermark", "0.4")
	if err := <-delivered; err != nil {
		t.Error(err)
	}
	ch := channel(t)
	for want := 1; want <= 2; want++ { // and once
		if d, ok, err := ch.Get(q, true); !ok || err != nil || d.MessageId != strconv.Itoa(want) {
			t.Errorf("%+v, %v", d, err)
		}
	}
	if d, ok, _ := ch.Get(q, true); ok {
		t.Errorf("%+v came, too", d)
	}
}

// BenchmarkDeliver is of one batch: what passes between the database and the
// broker in a second.
func BenchmarkDeliver(b *testing.B) {
	ns := namespace(b)
	p := publisher(b, Config{Namespace: ns, Exchanges: []string{completed}})
	if err := p.Declare(b.Context()); err != nil {
		b.Fatal(err)
	}
	queue(b, "exchange/"+ns+"/v1/task-completed", "#", nil)
	payload, _ := json.Marshal(map[string]string{"status": strings.Repeat("x", 900)})
	const n = 500
	at := int64(0)
	for b.Loop() {
		list := make([]event.Message, n)
		for i := range list {
			at++
			list[i] = message(at, completed, fmt.Sprintf("primary.%d", at), "route.a")
			list[i].Payload = payload
		}
		if _, err := p.Deliver(b.Context(), list); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "messages/s")
}
