package notify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A kind of address, as the API and routes name it.
type kind string

const (
	byEmail  kind = "email"
	byPulse  kind = "pulse"
	byMatrix kind = "matrix-room"
	bySlack  kind = "slack-channel"
)

// topic is what is woken when there is something to send.
func (k kind) topic() string { return "notify." + string(k) }

func (k kind) unconfigured() string {
	service := map[kind]string{byEmail: "emails", byMatrix: "messages to Matrix", bySlack: "messages to Slack"}[k]
	return "This deployment does not send " + service + ": its operators have not configured how, under notify in the server's configuration."
}

// mailbox is an address as it is compared: nobody has two mailboxes that
// differ in case alone, but somebody may try to reach one by several spellings.
func (k kind) mailbox(address string) string {
	if k == byEmail {
		return strings.ToLower(address)
	}
	return address
}

// Bounds of what is sent. Those that the schemas have are of use where a
// template of a task makes the message.
const (
	maxAddress    = 1024
	maxEmail      = 254
	maxSubject    = 255    // characters
	maxContent    = 102400 // characters
	maxLinkText   = 40     // characters
	maxLinkHref   = 1024   // characters
	maxRoomBody   = 60_000 // both bodies: an event in Matrix has at most 65,535 bytes
	maxSlackText  = 40_000 // Slack cuts what is longer
	maxSlackTotal = 256 << 10
	maxBlocks     = 50
	maxAttached   = 100
	maxPulse      = 1 << 20
	maxKey        = 255 // bytes of a routing key in AMQP
)

// A message is something to send, as the API takes it.
type message interface {
	kind() kind
	address() string

	// check says what is wrong with it, beyond what a schema can say.
	check() error

	// essence is what makes two messages to one address the same.
	essence() any
}

// digest is equal for the same messages to the same mailbox.
func digest(m message) (string, error) {
	b, err := json.Marshal([]any{m.kind(), m.kind().mailbox(m.address()), m.essence()})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// A letter is an email as it was asked for.
type letter struct {
	Address  string `json:"address"`
	Subject  string `json:"subject"`
	Content  string `json:"content"` // Markdown
	Link     *link  `json:"link,omitempty"`
	ReplyTo  string `json:"replyTo,omitempty"`
	Template string `json:"template"`

	// Silence, if it is not zero, is until when the address gets no more: this
	// is the last email before the limit.
	Silence timestamp.Time `json:"silence,omitzero"`
}

type link struct {
	Text string `json:"text"`
	Href string `json:"href"`
}

// The templates of emails.
const (
	simple     = "simple"
	fullscreen = "fullscreen"
)

func (*letter) kind() kind        { return byEmail }
func (l *letter) address() string { return l.Address }
func (l *letter) essence() any    { return []any{l.Subject, l.Content, l.Link, l.ReplyTo} }

func (l *letter) check() error {
	if err := checkEmail("address", l.Address); err != nil {
		return err
	}
	if l.ReplyTo != "" {
		if err := checkEmail("replyTo", l.ReplyTo); err != nil {
			return err
		}
	}
	if oneLine(l.Subject) == "" {
		return api.Errorf(api.InputError, "subject is empty.")
	}
	if l.Link != nil {
		return l.Link.check()
	}
	return nil
}

func checkEmail(field, address string) error {
	a, err := mail.ParseAddress(address)
	if err != nil || a.Name != "" || a.Address != address || len(address) > maxEmail || strings.ContainsFunc(address, unprintable) {
		return api.Errorf(api.InputError, "%s is %q; it must be a bare email address, such as somebody@example.com, of at most %d bytes.", field, clip(address, 100), maxEmail)
	}
	return nil
}

func unprintable(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }

func (l *link) check() error {
	u, err := url.Parse(l.Href)
	if err != nil || !mayLink(u.Scheme) {
		return api.Errorf(api.InputError, "link.href is %q; it must be an http, https or mailto URL.", clip(l.Href, 100))
	}
	return nil
}

// mayLink tells which URLs an email may lead to.
func mayLink(scheme string) bool {
	switch strings.ToLower(scheme) {
	case "http", "https", "mailto":
		return true
	}
	return false
}

func (RoomMessage) kind() kind        { return byMatrix }
func (m RoomMessage) address() string { return m.RoomID }
func (m RoomMessage) essence() any {
	return []string{m.Format, m.FormattedBody, m.Body, m.MsgType}
}

func (m RoomMessage) check() error {
	switch {
	case !strings.HasPrefix(m.RoomID, "!") || len(m.RoomID) > maxKey || strings.ContainsFunc(m.RoomID, unprintable):
		return api.Errorf(api.InputError, "roomId is %q; it must be the id of a room, which begins with an exclamation mark, as in !gXkLwqUGpZcWuSbyNE:example.org; aliases do not work.", clip(m.RoomID, 100))
	case len(m.Format) > maxKey:
		return api.Errorf(api.InputError, "format has %d bytes; the names of formats have at most %d.", len(m.Format), maxKey)
	case len(m.Body)+len(m.FormattedBody) > maxRoomBody:
		return api.Errorf(api.InputError, "body and formattedBody have %d bytes together; Matrix takes no more than about %d.", len(m.Body)+len(m.FormattedBody), maxRoomBody)
	}
	return nil
}

func (ChannelMessage) kind() kind        { return bySlack }
func (m ChannelMessage) address() string { return m.ChannelID }
func (m ChannelMessage) essence() any {
	return []any{m.Text, canonical(m.Blocks), canonical(m.Attachments)}
}

func (m ChannelMessage) check() error {
	switch {
	case m.ChannelID == "" || len(m.ChannelID) > maxKey || strings.ContainsFunc(m.ChannelID, unprintable):
		return api.Errorf(api.InputError, "channelId is %q; it must be the id of a channel, as in C0123456789.", clip(m.ChannelID, 100))
	case len(m.Text) > maxSlackText:
		return api.Errorf(api.InputError, "text has %d bytes; Slack takes at most %d.", len(m.Text), maxSlackText)
	case len(m.Text)+len(m.Blocks)+len(m.Attachments) > maxSlackTotal:
		return api.Errorf(api.InputError, "text, blocks and attachments have %d bytes together; at most %d are taken.", len(m.Text)+len(m.Blocks)+len(m.Attachments), maxSlackTotal)
	}
	if err := checkList("blocks", m.Blocks, maxBlocks); err != nil {
		return err
	}
	return checkList("attachments", m.Attachments, maxAttached)
}

func checkList(field string, list json.RawMessage, limit int) error {
	if list == nil {
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(list, &items); err != nil {
		return api.Errorf(api.InputError, "%s is not a list.", field)
	}
	if len(items) > limit {
		return api.Errorf(api.InputError, "%s has %d elements; Slack takes at most %d.", field, len(items), limit)
	}
	return nil
}

// A publication is a message for the exchange.
type publication struct {
	RoutingKey string          `json:"routingKey"`
	Message    json.RawMessage `json:"message"`
}

func (publication) kind() kind        { return byPulse }
func (p publication) address() string { return p.RoutingKey }
func (p publication) essence() any    { return canonical(p.Message) }

func (p publication) check() error {
	switch limit := maxKey - len(primary); {
	case p.RoutingKey == "":
		return api.Errorf(api.InputError, "routingKey is empty.")
	case len(p.RoutingKey) > limit:
		return api.Errorf(api.InputError, "routingKey has %d bytes; with the prefix %q it must fit into %d, which leaves it %d.", len(p.RoutingKey), primary, maxKey, limit)
	case strings.ContainsFunc(p.RoutingKey, unicode.IsControl):
		return api.Errorf(api.InputError, "routingKey is %q; it must not have control characters, such as line breaks.", p.RoutingKey)
	case len(p.Message) > maxPulse:
		return api.Errorf(api.InputError, "message has %d bytes; at most %d are published.", len(p.Message), maxPulse)
	}
	return nil
}

// canonical is JSON as a value, so that how it is written makes no difference.
func canonical(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return string(raw)
	}
	return v
}

// oneLine makes a text fit for a header.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// clip is s with at most limit characters, the last of which then is an
// ellipsis.
func clip(s string, limit int) string {
	if len(s) <= limit || utf8.RuneCountInString(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s…", string([]rune(s)[:limit-1]))
}
