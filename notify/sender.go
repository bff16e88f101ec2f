package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// A Sender hands messages of one kind to the service that carries them. It
// returns when that service has taken the message.
//
// Its errors tell what to do next. A *Refusal is about the message: it is
// dropped. A *Delay is about the address: its messages wait. Any other error is
// about the service or its configuration, credentials included, and concerns
// every message: all are kept and tried again, for a day.
//
// No error holds a secret.
type Sender[M any] interface {
	Send(context.Context, M) error
}

// A Refusal is the error for a message that will not be taken however often it
// is sent. The reason is shown to the caller who asked for it.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return "refused: " + r.Reason }

// A Delay is the error for a message that may be taken later.
type Delay struct {
	After  time.Duration // as the service asks for; 0 where it does not say
	Reason string
}

func (d *Delay) Error() string { return "not now: " + d.Reason }

// Mail is an email ready to be sent.
type Mail struct {
	ID      string // unguessable, the same over attempts
	To      string // bare address
	ReplyTo string // likewise, or ""
	Subject string // one line
	Text    string
	HTML    string
}

// RoomMessage is a message for a room of Matrix.
type RoomMessage struct {
	ID            string `json:"-"`
	RoomID        string `json:"roomId"`
	Body          string `json:"body"`
	Format        string `json:"format,omitempty"`
	FormattedBody string `json:"formattedBody,omitempty"`
	MsgType       string `json:"msgtype"`
}

// ChannelMessage is a message for a channel of Slack.
type ChannelMessage struct {
	ID          string          `json:"-"`
	ChannelID   string          `json:"channelId"`
	Text        string          `json:"text"`
	Blocks      json.RawMessage `json:"blocks,omitempty"`      // list, or nil
	Attachments json.RawMessage `json:"attachments,omitempty"` // likewise
	UnfurlLinks bool            `json:"unfurlLinks"`
	UnfurlMedia bool            `json:"unfurlMedia"`
}

// sending sends what is in the outbox as C by means of a sender of M.
func sending[M, C any](s Sender[M], compose func(id string, content C) (M, error)) func(context.Context, string, []byte) error {
	return func(ctx context.Context, id string, content []byte) error {
		var c C
		if err := json.Unmarshal(content, &c); err != nil {
			return &Refusal{fmt.Sprintf("the message in the outbox cannot be read: %v", err)}
		}
		m, err := compose(id, c)
		if err != nil {
			return &Refusal{fmt.Sprintf("the message cannot be composed: %v", err)}
		}
		return s.Send(ctx, m)
	}
}

// identified are messages that are sent as they are in the outbox.
type identified[M any] interface {
	withID(string) M
}

func asItIs[M identified[M]](id string, m M) (M, error) { return m.withID(id), nil }

func (m RoomMessage) withID(id string) RoomMessage       { m.ID = id; return m }
func (m ChannelMessage) withID(id string) ChannelMessage { m.ID = id; return m }

// refused returns the refusal that err is, or nil.
func refused(err error) *Refusal {
	r, _ := errors.AsType[*Refusal](err)
	return r
}

// A Secret is part of a sender's configuration. However it is printed or
// logged, it does not show.
type Secret string

const hidden = "(hidden)"

// String hides the secret.
func (Secret) String() string { return hidden }

// GoString hides it from %#v.
func (Secret) GoString() string { return hidden }

// LogValue hides it from logs.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides it from whatever is made of a configuration.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Scrub takes the secret out of a text that came from elsewhere, before it
// becomes part of an error.
func (s Secret) Scrub(text string) string {
	if s == "" {
		return text
	}
	return strings.ReplaceAll(text, string(s), hidden)
}
