package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// socket is the format of WebSockets: JSON texts.
type socket struct{ conn *websocket.Conn }

// A frame is what goes over a socket to the client.
type frame struct {
	Event   string          `json:"event"`
	ID      json.RawMessage `json:"id"`
	Payload any             `json:"payload"`
}

// A command is what comes from it.
type command struct {
	Method  string          `json:"method"`
	ID      json.RawMessage `json:"id"`
	Options Binding         `json:"options"`
}

const (
	maxCommand  = 16 << 10 // bytes
	maxIDLength = 100

	// commandPace is how often commands are taken in the long run.
	commandPace   = 50 * time.Millisecond
	commandCredit = 2 * maxBindings
)

func (s *stream) serveSocket(w http.ResponseWriter, r *http.Request) error {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		// Who may connect is said by the request's signature. No cookie counts,
		// so a page of another site can do no more than its visitor gave it.
		InsecureSkipVerify: true,
	})
	if err != nil {
		return err // Accept has answered
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxCommand)
	f := socket{conn}
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	if err := f.event(ctx, "ready", s.position(), struct{}{}); err != nil {
		return err
	}
	go func() { end(s.obey(ctx, f)) }()
	err = s.carry(ctx, f)
	switch {
	case err == nil:
		conn.Close(websocket.StatusGoingAway, "the stream has come of age; resume with the last id")
	case r.Context().Err() != nil:
		conn.Close(websocket.StatusGoingAway, "the server is being stopped; resume with the last id")
	}
	return err
}

// obey carries out commands until the connection ends.
func (s *stream) obey(ctx context.Context, f socket) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	var busy time.Time // until when there are commands to be paid for
	for {
		// A read that is broken off breaks the connection, on which there is a
		// farewell to be said.
		_, text, err := f.conn.Read(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		now := time.Now()
		if busy = later(busy, now).Add(commandPace); busy.Sub(now) > commandCredit*commandPace {
			pause.Reset(commandPace)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := f.reply(ctx, s.command(text)); err != nil {
			return err
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// command carries out one.
func (s *stream) command(text []byte) frame {
	c, err := parseCommand(text)
	if err == nil {
		switch c.Method {
		case "bind":
			if err = s.bind(c.Options); err == nil {
				return frame{"bound", c.ID, struct{}{}}
			}
		case "unbind":
			if err = s.unbind(c.Options); err == nil {
				return frame{"unbound", c.ID, struct{}{}}
			}
		default:
			err = fmt.Errorf("the method %.50q is not known; there are bind and unbind", c.Method)
		}
	}
	return frame{"error", c.ID, map[string]string{"message": err.Error()}}
}

// parseCommand reads a command. What it returns with an error has the ID if
// that could be read.
func parseCommand(text []byte) (c command, err error) {
	err = json.Unmarshal(text, &c)
	if len(c.ID) > maxIDLength || len(c.ID) > 0 && c.ID[0] != '"' && c.ID[0] != 'n' && (c.ID[0] < '0' || c.ID[0] > '9') {
		c.ID = nil
		err = errors.Join(err, fmt.Errorf("the id must be a string or a number, of at most %d bytes", maxIDLength))
	}
	if c.ID == nil {
		c.ID = json.RawMessage("null")
	}
	if err != nil {
		err = fmt.Errorf(`it must be JSON such as {"method":"bind","id":"1","options":{"exchange":"exchange/taskcluster-queue/v1/task-completed","routingKeyPattern":"#"}}: %w`, err)
	}
	return c, err
}

func (f socket) event(ctx context.Context, name string, id int64, payload any) error {
	return f.reply(ctx, frame{name, json.RawMessage(`"` + strconv.FormatInt(id, 10) + `"`), payload})
}

func (f socket) reply(ctx context.Context, x frame) error {
	text, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return f.write(ctx, text)
}

func (f socket) messages(ctx context.Context, list []*entry) error {
	for _, e := range list {
		if err := e.write(); err != nil {
			return err
		}
		if err := f.write(ctx, e.ws); err != nil {
			return err
		}
	}
	return nil
}

// write gives a reader that takes nothing the time of writeTimeout. A write that
// is broken off breaks the connection, too, so none begins when ctx has ended,
// and one that has begun goes on.
func (f socket) write(ctx context.Context, text []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return f.conn.Write(ctx, websocket.MessageText, text)
}
