// Package rabbit passes the messages of the log on to RabbitMQ, for those who
// consume them there.
//
// A Publisher is the handler of a durable subscription to everything. It
// publishes what it is given on one channel, in order, with publisher confirms,
// and succeeds only once the broker has confirmed all of it; until then the
// cursor of the subscription stays where it is. So a message arrives at least
// once, whatever dies when, and messages of an exchange arrive in the order of
// the log. The cursor is written down once a second, not for each delivery: after
// a crash, what the last second has published is published again. So is what is
// not confirmed when a connection is lost, and a consumer sees it twice if the
// broker had it; the property message-id is the position in the log, and tells. Trying again later and later is the
// subscription's loop's.
//
// Exchanges are durable topic exchanges of the published names. A message goes
// with its routing key, and with a header CC of the further keys, by which the
// broker routes it as well.
//
// A broker that is short of memory or disk says that it takes nothing, and is
// waited for. One that refuses a message, as where a consumer's queue is full
// and set to reject rather than to drop, is tried again with it until it takes
// it, and so with all that came after. Some of that may have come before it:
// many messages are on their way at once, and the broker takes those for which
// there is room by then. So once it has refused something, messages go one by
// one for a while, each when the one before is confirmed. A consumer that lets
// its queue reject compares message-id.
package rabbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
)

// Subscription is the name under which a Publisher subscribes.
const Subscription = "rabbitmq"

// Config says which broker, and how.
type Config struct {
	// URL is amqp://USER:PASSWORD@HOST:PORT/VIRTUALHOST, or amqps with TLS.
	// What is special in a URL is escaped, as the virtual host %2f is; without
	// one it is "/". The parameters cacertfile, certfile, keyfile and
	// server_name_indication say what TLS needs besides, heartbeat=SECONDS
	// changes the interval from ten.
	URL string

	// VirtualHost, if it is not empty, replaces that of the URL.
	VirtualHost string

	// Namespace, if it is not empty, replaces "taskcluster-queue" and its like
	// in the names of exchanges. It is for a broker that is shared, and lets
	// its user declare no other than exchange/NAMESPACE/….
	Namespace string

	// Exchanges are the names of those to be declared before any message goes
	// to them, so that consumers can bind to them.
	Exchanges []string

	Log *slog.Logger
}

// A Publisher publishes on one connection, which it opens when it is needed.
type Publisher struct {
	config Config

	at atomic.Pointer[place]

	mu       sync.Mutex // held while publishing
	session  *session   // nil without a connection
	resend   int64      // the first position of a delivery that failed,
	resendAt int64      // and the last of it that was confirmed
	careful  time.Time  // until when messages go one by one
}

// A place is a broker, and who connects to it.
type place struct {
	url     string
	address string // without the password, for errors and logs
}

const (
	heartbeat = 10 * time.Second

	// stall is how long the broker may take to confirm anything.
	stall = 30 * time.Second

	dialTimeout = 15 * time.Second

	// carefulFor is how long messages go one by one after a refusal.
	carefulFor = 10 * time.Minute
)

// New checks the configuration. It does not connect.
func New(c Config) (*Publisher, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "amqp" && u.Scheme != "amqps" || u.Hostname() == "" || u.User == nil {
		// The URL is not in the error, since its password may be anywhere.
		return nil, errors.New("rabbit: the URL must be amqp://USER:PASSWORD@HOST:PORT/VIRTUALHOST, or amqps, with characters such as / @ : ? # % in user, password and virtual host escaped")
	}
	if c.VirtualHost != "" {
		u.Path, u.RawPath = "/"+c.VirtualHost, "/"+url.PathEscape(c.VirtualHost)
	}
	parsed, err := amqp.ParseURI(u.String())
	if err != nil {
		return nil, errors.New("rabbit: the URL cannot be understood: the port must be a number, and the parameters those that Config describes")
	}
	if strings.ContainsAny(c.Namespace, "/\n") || len(c.Namespace) > 64 {
		return nil, fmt.Errorf("rabbit: the namespace %.100q must be at most 64 characters without a slash", c.Namespace)
	}
	p := &Publisher{config: c}
	p.at.Store(&place{u.String(), address(parsed)})
	names := map[string]string{}
	for _, x := range c.Exchanges {
		name := p.name(x)
		if other, ok := names[name]; ok && other != x {
			return nil, fmt.Errorf("rabbit: with the namespace %s both %s and %s would be called %s", c.Namespace, other, x, name)
		}
		names[name] = x
	}
	return p, nil
}

func address(u amqp.URI) string {
	return fmt.Sprintf("%s://%s@%s:%d, virtual host %s", u.Scheme, u.Username, u.Host, u.Port, u.Vhost)
}

// Login has messages be published as another user from now on, or with another
// password, if the broker lets him in and to the exchanges. Where the broker is stays
// as it is. The connection before ends in good order when what is under way on it was
// confirmed, so that no message is lost.
func (p *Publisher) Login(ctx context.Context, user, password string) error {
	u, err := url.Parse(p.at.Load().url)
	if err != nil || user == "" {
		return errors.New("rabbit: no user was given to connect to the broker as")
	}
	u.User = url.UserPassword(user, password)
	parsed, err := amqp.ParseURI(u.String())
	if err != nil {
		return errors.New("rabbit: the user or the password cannot stand in a URL")
	}
	next := &place{u.String(), address(parsed)}
	if next.url == p.at.Load().url {
		return p.Declare(ctx) // is what is in use still good?
	}
	s, err := p.connect(ctx, next)
	if err != nil {
		return err
	}
	p.mu.Lock() // until what is being delivered was confirmed, or is left to be tried again
	before := p.session
	p.session = s
	p.at.Store(next)
	p.mu.Unlock()
	p.end(before)
	return nil
}

// end ends a connection in good order; nil is none.
func (p *Publisher) end(s *session) {
	if s == nil {
		return
	}
	defer s.cut()
	if err := s.conn.CloseDeadline(time.Now().Add(5 * time.Second)); err != nil {
		// It was lost already, which loses nothing: what was not confirmed comes again.
		p.config.Log.Info("the connection to RabbitMQ was not closed in good order", "err", explain(err))
	}
}

// Loops declare the exchanges, at the start and then now and again, so that they
// are there for consumers before the first message is.
func (p *Publisher) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "event.rabbitmq.declare", Doc: "Declares the exchanges in RabbitMQ.",
		When: loop.Every(10 * time.Minute), Pass: func(ctx context.Context) (bool, error) { return false, p.Declare(ctx) },
	}}
}

// Declare declares the exchanges on a connection of its own.
func (p *Publisher) Declare(ctx context.Context) error {
	s, err := p.connect(ctx, p.at.Load())
	if err != nil {
		return err
	}
	defer s.cut()
	return s.conn.Close()
}

// Deliver publishes messages, and returns when the broker has confirmed all of
// them. It is the handler of the subscription. Where a connection is lost, or
// cannot be had, it tries for a while before it leaves trying to the loop.
//
// It does not count as having acted, since consumers have to do with messages that
// come again anyway.
func (p *Publisher) Deliver(ctx context.Context, list []event.Message) (acted bool, err error) {
	return false, p.deliverAll(ctx, list)
}

func (p *Publisher) deliverAll(ctx context.Context, list []event.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	first, end := list[0].Position, time.Now().Add(tryFor)
	if p.resend == first { // what was confirmed of it need not go again
		n, _ := slices.BinarySearchFunc(list, p.resendAt+1, func(m event.Message, at int64) int { return cmp.Compare(m.Position, at) })
		list = list[n:]
	}
	for wait := firstBackoff; ; wait = min(2*wait, maxBackoff) {
		confirmed, err := p.deliver(ctx, list)
		if err == nil {
			p.resend = 0
			return nil
		}
		if confirmed > 0 {
			p.resend, p.resendAt = first, list[confirmed-1].Position
			list = list[confirmed:]
		}
		pause := wait/2 + rand.N(wait)
		var refusal *refusal
		if ctx.Err() != nil || errors.As(err, &refusal) || time.Now().Add(pause).After(end) {
			return err
		}
		p.config.Log.Info("publishing to RabbitMQ again", "after", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

const (
	tryFor       = 5 * time.Second
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = time.Second
)

// deliver tries once, and tells how many messages, from the first on, were
// confirmed if not all were.
func (p *Publisher) deliver(ctx context.Context, list []event.Message) (confirmed int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	if p.session == nil {
		if p.session, err = p.connect(ctx, p.at.Load()); err != nil {
			p.session = nil
			return 0, err
		}
	}
	atOnce := len(list)
	if time.Now().Before(p.careful) {
		atOnce = 1
	}
	for part := range slices.Chunk(list, atOnce) {
		n, err := p.session.publish(ctx, part, p.name)
		confirmed += n
		if err == nil {
			continue
		}
		if errors.Is(err, errRefused) {
			p.careful = time.Now().Add(carefulFor)
		}
		p.session.cut()
		p.session = nil
		return confirmed, fmt.Errorf("rabbit: %s: %w", p.at.Load().address, err)
	}
	return confirmed, nil
}

// Close ends the connection. What is being delivered fails.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(p.session)
	p.session = nil
	return nil
}

// name is the exchange's in the broker.
func (p *Publisher) name(exchange string) string {
	kind, rest, ok := strings.Cut(exchange, "/")
	_, name, named := strings.Cut(rest, "/")
	if p.config.Namespace == "" || !ok || !named {
		return exchange
	}
	return kind + "/" + p.config.Namespace + "/" + name
}

// connect opens a connection and a channel, and declares the exchanges.
func (p *Publisher) connect(ctx context.Context, at *place) (_ *session, err error) {
	var raw net.Conn
	host, _ := os.Hostname()
	conn, err := amqp.DialConfig(at.url, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: amqp.Table{"product": "taskfleet", "connection_name": "taskfleet on " + host},
		Dial: func(network, address string) (_ net.Conn, err error) {
			dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: heartbeat}
			if raw, err = dialer.DialContext(ctx, network, address); err != nil {
				return nil, err
			}
			return raw, raw.SetDeadline(time.Now().Add(dialTimeout)) // of the handshake; the library lifts it
		},
	})
	if err != nil {
		return nil, fmt.Errorf("rabbit: connect to %s: %w", at.address, explain(err))
	}
	s := &session{conn: conn, raw: raw, log: p.config.Log, declared: map[string]bool{}, blocks: conn.NotifyBlocked(make(chan amqp.Blocking, 16))}
	defer func() {
		if err != nil {
			s.cut()
		}
	}()
	release := context.AfterFunc(ctx, s.cut)
	defer release()
	patience := s.watch()
	defer patience.Stop()
	if s.channel, err = conn.Channel(); err != nil {
		return nil, fmt.Errorf("rabbit: open a channel at %s: %w", at.address, explain(err))
	}
	if err := s.channel.Confirm(false); err != nil {
		return nil, fmt.Errorf("rabbit: ask %s for confirms: %w", at.address, explain(err))
	}
	s.closed = s.channel.NotifyClose(make(chan *amqp.Error, 1))
	for _, x := range p.config.Exchanges {
		if err := s.declare(p.name(x)); err != nil {
			return nil, fmt.Errorf("rabbit: %s: %w", at.address, err)
		}
	}
	return s, nil
}
