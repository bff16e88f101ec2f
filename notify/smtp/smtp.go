// Package smtp sends emails through a server that speaks SMTP: a provider's
// submission port, or a relay of one's own.
//
// It is wneessen/go-mail that speaks here, not net/smtp, which is frozen, knows
// neither SCRAM nor how to build a message, and takes no context. go-mail
// encodes what stands in headers, so that a line break in a subject cannot add
// one.
//
// Each message has a connection of its own. That is a few round trips more,
// and nothing that can be left in a bad state by the message before.
package smtp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/taskfleet/taskfleet/notify"
)

// Config is how to reach the server.
type Config struct {
	Host     string        `yaml:"host"`
	Port     int           `yaml:"port"`     // 0: 587 with starttls, 465 with tls, 25 with none
	Security string        `yaml:"security"` // starttls (which "" means), tls, none
	Username string        `yaml:"username"` // "": without authentication
	Password notify.Secret `yaml:"password"`
	From     string        `yaml:"from"` // "Taskfleet <taskfleet@example.com>"
	CA       string        `yaml:"ca"`   // PEM certificates that vouch for the server; "": those of the system
}

// The ways to encrypt.
const (
	starttls = "starttls" // the connection becomes encrypted, or nothing is sent
	implicit = "tls"      // it is encrypted from the start
	none     = "none"
)

// Check finds what cannot work. Each mistake begins with the name of the entry.
func (c Config) Check() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.Host == "" || strings.ContainsAny(c.Host, ":/ ") && net.ParseIP(c.Host) == nil {
		bad("host is %q; it must be the name or the address of the SMTP server, without a port", c.Host)
	}
	if c.Port < 0 || c.Port > 65535 {
		bad("port is %d; it must be from 1 to 65535, or be left out", c.Port)
	}
	switch c.Security {
	case "", starttls, implicit, none:
	default:
		bad("security is %q; it must be starttls, tls or none", c.Security)
	}
	switch {
	case (c.Username == "") != (c.Password == ""):
		bad("username and password go together: give both, or neither")
	case c.Security == none && c.Username != "" && !loopback(c.Host):
		bad("security is none, so that the password would be sent in the clear; use starttls or tls, or no username")
	}
	if _, err := c.from(); err != nil {
		bad("from is %q; it must be an email address, with or without a name, as in Taskfleet <taskfleet@example.com>", c.From)
	}
	if _, err := c.roots(); err != nil {
		bad("ca: %w", err)
	}
	return errors.Join(wrong...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) from() (*netmail.Address, error) { return netmail.ParseAddress(c.From) }

func (c Config) roots() (*x509.CertPool, error) {
	if c.CA == "" {
		return nil, nil
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("there is no certificate in it; it must be PEM text that begins with -----BEGIN CERTIFICATE-----")
	}
	return p, nil
}

// A Sender sends emails through one server.
type Sender struct {
	config Config
	from   *netmail.Address
	tls    *tls.Config
}

// New returns a sender, without asking the server anything.
func New(c Config) (*Sender, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("notify/smtp: %w", err)
	}
	if c.Security == "" {
		c.Security = starttls
	}
	if c.Port == 0 {
		c.Port = map[string]int{starttls: 587, implicit: 465, none: 25}[c.Security]
	}
	from, err := c.from()
	if err != nil {
		return nil, err
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	return &Sender{config: c, from: from, tls: &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12, RootCAs: roots}}, nil
}

// Send hands an email to the server.
func (s *Sender) Send(ctx context.Context, m notify.Mail) error {
	message, err := s.message(m)
	if err != nil {
		return &notify.Refusal{Reason: err.Error()}
	}
	client, err := s.client(ctx)
	if err != nil {
		return fmt.Errorf("notify/smtp: %w", err)
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return s.fault("connecting", err)
	}
	err = client.SendWithSMTPClient(session, message)
	if message.IsDelivered() {
		// The server has it, however the conversation ended.
		_ = client.CloseWithSMTPClient(session)
		return nil
	}
	_ = session.Close()
	return s.verdict(err)
}

func (s *Sender) message(m notify.Mail) (*mail.Msg, error) {
	message := mail.NewMsg(mail.WithNoDefaultUserAgent())
	message.FromMailAddress(s.from)
	if err := message.To(m.To); err != nil {
		return nil, fmt.Errorf("the address %q cannot be written to: %w", m.To, err)
	}
	if m.ReplyTo != "" {
		if err := message.ReplyTo(m.ReplyTo); err != nil {
			return nil, fmt.Errorf("the address for replies, %q: %w", m.ReplyTo, err)
		}
	}
	message.Subject(m.Subject)
	message.SetDate()
	_, domain, _ := strings.Cut(s.from.Address, "@")
	message.SetMessageIDWithValue(m.ID + "@" + domain)
	message.SetGenHeader("Auto-Submitted", "auto-generated") // no replies from those on holiday
	message.SetBodyString(mail.TypeTextPlain, m.Text)
	message.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	return message, nil
}

func (s *Sender) client(ctx context.Context) (*mail.Client, error) {
	timeout := 30 * time.Second
	if end, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(end), time.Millisecond)
	}
	options := []mail.Option{
		mail.WithPort(s.config.Port), mail.WithTimeout(timeout), mail.WithTLSConfig(s.tls),
		mail.WithoutNoop(), mail.WithoutRset(), mail.WithDialContextFunc(s.dial(ctx)),
	}
	switch s.config.Security {
	case starttls:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	default: // dial has seen to it
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if s.config.Username != "" {
		options = append(options, mail.WithUsername(s.config.Username), mail.WithPassword(string(s.config.Password)),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	return mail.NewClient(s.config.Host, options...)
}

// dial returns a dialer whose connections end with ctx, that of the message.
func (s *Sender) dial(ctx context.Context) mail.DialContextFunc {
	return func(dialing context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(dialing, network, net.JoinHostPort(s.config.Host, strconv.Itoa(s.config.Port)))
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		if s.config.Security != implicit {
			return conn, nil
		}
		secure := tls.Client(conn, s.tls)
		if err := secure.HandshakeContext(dialing); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
}

// verdict tells what the server's answer means for the message.
func (s *Sender) verdict(err error) error {
	e, ok := errors.AsType[*mail.SendError](err)
	if !ok {
		return s.fault("sending", err)
	}
	text := s.scrub(e.Error())
	switch code := e.ErrorCode(); {
	case code == 421, code == 530, code == 534, code == 535, code == 538:
		return s.fault("sending", err) // it is closing, or wants other credentials
	case e.Reason == mail.ErrSMTPMailFrom:
		return s.fault("sending", err) // it does not take our sender: nobody's fault who gets emails
	case code >= 500:
		return &notify.Refusal{Reason: "the mail server says: " + text}
	case code >= 400:
		return &notify.Delay{Reason: "the mail server says: " + text}
	}
	return s.fault("sending", err)
}

// scrub takes the password out of what the server says, as it is and as it was
// sent: servers repeat lines that they do not understand.
func (s *Sender) scrub(text string) string {
	c := s.config
	if c.Password == "" {
		return text
	}
	for _, sent := range []string{"\x00" + c.Username + "\x00" + string(c.Password), string(c.Password)} {
		text = notify.Secret(base64.StdEncoding.EncodeToString([]byte(sent))).Scrub(text)
	}
	return c.Password.Scrub(text)
}

func (s *Sender) fault(doing string, err error) error {
	text := s.scrub(err.Error())
	return fmt.Errorf("notify/smtp: %s to %s: %s", doing, net.JoinHostPort(s.config.Host, strconv.Itoa(s.config.Port)), text)
}
