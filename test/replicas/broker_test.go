package replicas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A broker is the RabbitMQ that `make test` has started, and starts again when it has ended, with exchanges of our own
// and a durable queue of all messages about tasks.
type broker struct {
	t         *testing.T
	url       string
	namespace string
	queue     string
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, url: os.Getenv("TASKFLEET_TEST_RABBITMQ"), namespace: fmt.Sprintf("test-%d", rand.Uint64())}
	if b.url == "" || os.Getenv("TASKFLEET_TEST_RABBITMQ_DIRECTORY") == "" {
		t.Fatal("TASKFLEET_TEST_RABBITMQ and TASKFLEET_TEST_RABBITMQ_DIRECTORY are not set: run `make test`, which starts a RabbitMQ for the tests, or see `make rabbitmq`")
	}
	return b
}

// config is the entry for it in the configuration of a server.
func (b *broker) config() string {
	return fmt.Sprintf("rabbitmq: {url: %q, namespace: %s}\n", b.url, b.namespace)
}

// kill kills the broker.
func (b *broker) kill() error {
	text, err := os.ReadFile(filepath.Join(os.Getenv("TASKFLEET_TEST_RABBITMQ_DIRECTORY"), "pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return fmt.Errorf("%q is no process id", text)
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// channel connects.
func (b *broker) channel() (*amqp.Channel, func(), error) {
	conn, err := amqp.Dial(b.url)
	if err != nil {
		return nil, nil, err
	}
	ch, err := conn.Channel()
	if err != nil {
		conn.Close()
	}
	return ch, func() { conn.Close() }, err
}

// bind makes the queue, once the servers have declared their exchanges.
func (b *broker) bind() {
	b.t.Helper()
	eventually(b.t, "the exchanges are declared", func() error {
		ch, done, err := b.channel()
		if err != nil {
			return err
		}
		defer done()
		q, err := ch.QueueDeclare("queue-"+b.namespace, true, false, false, false, nil)
		if err != nil {
			return err
		}
		b.queue = q.Name
		for _, x := range told {
			if err := ch.QueueBind(q.Name, "#", "exchange/"+b.namespace+"/v1/"+x, false, nil); err != nil {
				return err
			}
		}
		return nil
	})
	b.t.Cleanup(func() {
		// Exchanges are left to the broker's end: servers declare them for as long as they run.
		eventually(b.t, "the queue is deleted", func() error {
			ch, done, err := b.channel()
			if err != nil {
				return err
			}
			defer done()
			_, err = ch.QueueDelete(b.queue, false, false, false)
			return err
		})
	})
}

// consume begins to read the queue, as soon as the broker lets it. Done ends it.
func (b *broker) consume(ctx context.Context) (list <-chan amqp.Delivery, done func()) {
	b.t.Helper()
	eventually(b.t, "the queue can be read", func() error {
		ch, close, err := b.channel()
		if err != nil {
			return err
		}
		done = close
		if list, err = ch.ConsumeWithContext(ctx, b.queue, "", false, true, false, false, nil); err != nil {
			close()
		}
		return err
	})
	return list, done
}

// check reads the queue until all positions of l have come, each for the first time in their order.
func (b *broker) check(l *load) {
	t := b.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience+time.Duration(l.total)*10*time.Millisecond)
	defer cancel()
	seen, last, repeated := map[int64]bool{}, int64(0), 0
	for len(seen) < len(l.positions) {
		list, done := b.consume(ctx)
		for d := range list {
			at, err := strconv.ParseInt(d.MessageId, 10, 64)
			switch {
			case err != nil:
				t.Fatalf("a message has the id %q", d.MessageId)
			case seen[at]:
				repeated++
			case at < last:
				l.complain("the broker had message %d after %d", at, last)
			case !l.positions[at]:
				l.complain("the broker had message %d, of which the log told nothing", at)
			}
			seen[at], last = true, max(last, at)
			if err := d.Ack(false); err != nil {
				break // the connection is lost, and what was not acknowledged comes again
			}
			if len(seen) == len(l.positions) {
				break
			}
		}
		done()
		if ctx.Err() != nil {
			var missing []int64
			for at := range l.positions {
				if !seen[at] {
					missing = append(missing, at)
				}
			}
			slices.Sort(missing)
			t.Fatalf("of %d messages %d have not come to the broker, from position %d to %d; %d was the last that has come",
				len(l.positions), len(missing), missing[0], missing[len(missing)-1], last)
		}
	}
	t.Logf("%d messages came to the broker in their order, %d of them more than once", len(seen), repeated)
}

func TestRestartingRabbitMQLosesNoMessage(t *testing.T) {
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			b := newBroker(t)
			s := settings{replicas: 1, config: b.config()}
			if kind == "postgres" {
				s.replicas, s.postgres = 3, true
			}
			p := start(t, s)
			b.bind()
			l := newLoad(t, p, 200)
			l.allowed = 0
			l.run(func(ctx context.Context) { l.storm(ctx, []fault{brokerKilled(b), kill}, 2) })
			b.check(l)
		})
	}
}

// brokerKilled is a fault that lasts until the broker answers again, which takes it more of the machine's time than all else
// that is started again here.
func brokerKilled(b *broker) fault {
	return fault{name: "RabbitMQ is killed", seldom: true, do: func(ctx context.Context, _ *platform) error {
		if err := b.kill(); err != nil {
			return err
		}
		for ctx.Err() == nil {
			if _, done, err := b.channel(); err == nil {
				done()
				return nil
			}
			sleep(ctx, 100*time.Millisecond)
		}
		return nil
	}}
}
