package rabbit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/event"
)

// A session is a connection and the channel on it. After any error it is cut.
type session struct {
	conn     *amqp.Connection
	raw      net.Conn
	channel  *amqp.Channel
	closed   chan *amqp.Error // receives why the channel ended
	blocks   chan amqp.Blocking
	blocked  string // why the broker takes nothing; "" if it does
	stalled  atomic.Bool
	declared map[string]bool
	log      *slog.Logger
}

// watch cuts the connection when nothing comes of it for a while: a write or a
// wait in the library has no end of its own.
func (s *session) watch() *time.Timer {
	return time.AfterFunc(stall, func() {
		s.stalled.Store(true)
		s.cut()
	})
}

// cut ends the connection without a word, also one on which a write waits.
func (s *session) cut() {
	s.raw.Close()
}

// declare makes sure that there is an exchange.
func (s *session) declare(name string) error {
	if s.declared[name] {
		return nil
	}
	if err := s.channel.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare the exchange %s: %w", name, explain(err))
	}
	s.declared[name] = true
	return nil
}

// publish publishes messages and waits until they are confirmed. With an error
// it tells how many of them were, from the first on.
func (s *session) publish(ctx context.Context, list []event.Message, name func(string) string) (confirmed int, err error) {
	// What waits for the broker, in the library too, ends with the connection.
	release := context.AfterFunc(ctx, s.cut)
	defer release()
	patience := s.watch()
	defer patience.Stop()

	pending := make([]*amqp.DeferredConfirmation, 0, len(list))
	for _, m := range list {
		exchange := name(m.Exchange)
		if err = s.declare(exchange); err != nil {
			break
		}
		var c *amqp.DeferredConfirmation
		if c, err = s.channel.PublishWithDeferredConfirm(exchange, m.RoutingKey, false, false, publishing(m)); err != nil {
			err = explain(err)
			break
		}
		pending = append(pending, c)
	}
	if err != nil { // some may have been confirmed; do not wait for others
		for confirmed < len(pending) && pending[confirmed].Acked() {
			confirmed++
		}
		return confirmed, s.cause(ctx, err)
	}
	for confirmed < len(pending) {
		select {
		case <-pending[confirmed].Done():
			if !pending[confirmed].Acked() {
				return confirmed, s.cause(ctx, errRefused)
			}
			confirmed++
			if s.blocked == "" {
				patience.Reset(stall)
			}
		case b, ok := <-s.blocks:
			if !ok { // the connection ends, and so will the wait
				s.blocks = nil
				continue
			}
			s.note(b)
			if b.Active {
				patience.Stop() // it is waited for as long as ctx lets us
			} else {
				patience.Reset(stall)
			}
		}
	}
	return confirmed, nil
}

var errRefused = errors.New("the broker refused a message, as it does for a queue that is full and has x-overflow=reject-publish")

func publishing(m event.Message) amqp.Publishing {
	cc := make([]any, len(m.CC))
	for i, key := range m.CC {
		cc[i] = key
	}
	return amqp.Publishing{
		Headers:         amqp.Table{"CC": cc},
		ContentType:     "application/json",
		ContentEncoding: "utf-8",
		DeliveryMode:    amqp.Persistent,
		MessageId:       strconv.FormatInt(m.Position, 10),
		Body:            m.Payload,
	}
}

// note logs that the broker begins or ceases to take nothing.
func (s *session) note(b amqp.Blocking) {
	s.blocked = ""
	if b.Active {
		if s.blocked = b.Reason; s.blocked == "" {
			s.blocked = "it does not say why"
		}
		s.log.Warn("RabbitMQ takes no messages for now; they wait in the database", "reason", s.blocked)
	} else {
		s.log.Info("RabbitMQ takes messages again")
	}
}

// cause makes an error say what it came of: in the end it is often that the
// connection was closed, by us.
func (s *session) cause(ctx context.Context, err error) error {
	for range len(s.blocks) {
		if b, ok := <-s.blocks; ok {
			s.note(b)
		}
	}
	var why *amqp.Error
	select {
	case why = <-s.closed:
	case <-time.After(time.Second): // the library is still at it
	}
	switch {
	case s.blocked != "":
		return fmt.Errorf("the broker takes no messages (%s): %w", s.blocked, err)
	case ctx.Err() != nil:
		return fmt.Errorf("broken off: %w", context.Cause(ctx))
	case why != nil && why.Server:
		return explain(why)
	case s.stalled.Load():
		return fmt.Errorf("the broker confirmed nothing for %s: %w", stall, err)
	case why != nil:
		return fmt.Errorf("the connection was lost: %w", why)
	}
	return err
}

// explain says what to do about what a broker answers.
func explain(err error) error {
	var e *amqp.Error
	if !errors.As(err, &e) {
		return err
	}
	advice := ""
	switch {
	case errors.Is(err, amqp.ErrCredentials):
		advice = "user or password is wrong, or the user may not connect from here"
	case errors.Is(err, amqp.ErrVhost), e.Code == amqp.NotAllowed:
		advice = "the virtual host does not exist, or the user has no permission there"
	case e.Code == amqp.AccessRefused:
		advice = "give the user the permissions configure and write for the exchanges: rabbitmqctl set_permissions -p VIRTUALHOST USER '^exchange/' '^exchange/' ''"
	case e.Code == amqp.PreconditionFailed:
		advice = "the exchange is there and is no durable topic exchange; delete it, and it is declared anew"
	case e.Code == amqp.NotFound:
		advice = "somebody has deleted the exchange; it is declared anew"
	default:
		return err
	}
	return &refusal{advice, err}
}

// A refusal is an error that trying again at once does not help.
type refusal struct {
	advice string
	err    error
}

func (r *refusal) Error() string { return r.advice + ": " + r.err.Error() }

func (r *refusal) Unwrap() error { return r.err }
