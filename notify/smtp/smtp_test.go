package smtp

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/taskfleet/taskfleet/notify"
)

const password = "correct-horse-battery"

// A post is a mail server with behaviour.
type post struct {
	*smtp.Server
	listener net.Listener
	address  *net.TCPAddr
	ca       string

	mu     sync.Mutex
	mails  []received
	rcpt   error // answers to RCPT TO, MAIL FROM and DATA
	from   error
	data   error
	silent chan struct{} // while it is open, DATA is not answered
}

type received struct {
	from, to string
	secure   bool
	user     string
	text     string
}

// open starts a server; implicit is whether it speaks TLS from the start.
func open(t *testing.T, encrypted, implicit bool) *post {
	t.Helper()
	p := &post{}
	p.Server = smtp.NewServer(p)
	p.Domain, p.AllowInsecureAuth, p.EnableSMTPUTF8 = "mail.test", !encrypted, true
	p.ErrorLog = discard{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().(*net.TCPAddr)
	if encrypted {
		certificate, ca := certify(t)
		p.ca = ca
		p.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		if implicit {
			l = tls.NewListener(l, p.TLSConfig)
		}
	}
	p.listener = l
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Serve(l) // until it is closed
	}()
	t.Cleanup(func() { p.Close(); l.Close(); <-done })
	return p
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func certify(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (p *post) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, secure := c.TLSConnectionState()
	return &session{post: p, received: received{secure: secure}}, nil
}

type session struct {
	post *post
	received
}

func (s *session) Reset()                 { s.received = received{secure: s.secure, user: s.user} }
func (*session) Logout() error            { return nil }
func (*session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, pass string) error {
		if pass != password {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no, " + pass + " is wrong"}
		}
		s.user = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	return s.post.from
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	return s.post.rcpt
}

func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.text = string(text)
	s.post.mu.Lock()
	defer s.post.mu.Unlock()
	if s.post.silent != nil {
		<-s.post.silent
	}
	if s.post.data == nil {
		s.post.mails = append(s.post.mails, s.received)
	}
	return s.post.data
}

func (p *post) config() Config {
	c := Config{Host: "127.0.0.1", Port: p.address.Port, Security: none, From: "Taskfleet <taskfleet@example.com>", CA: p.ca}
	if p.ca != "" {
		c.Security = starttls
	}
	return c
}

func (p *post) sender(t *testing.T, change func(*Config)) *Sender {
	t.Helper()
	c := p.config()
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var letter = notify.Mail{ID: "an-id", To: "ann@example.com", ReplyTo: "bob@example.com", Subject: "Größe: done", Text: "It *works*.\nSchön.\n", HTML: "<p>It <em>works</em>.</p>"}

func TestAnEmailArrivesAsItWasMeant(t *testing.T) {
	p := open(t, false, false)
	if err := p.sender(t, nil).Send(t.Context(), letter); err != nil {
		t.Fatal(err)
	}
	if len(p.mails) != 1 || p.mails[0].from != "taskfleet@example.com" || p.mails[0].to != "ann@example.com" {
		t.Fatalf("mails: %+v", p.mails)
	}
	m, err := mail.ReadMessage(strings.NewReader(p.mails[0].text))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || subject != letter.Subject {
		t.Errorf("subject %q, %v", subject, err)
	}
	for name, want := range map[string]string{
		"From": `"Taskfleet" <taskfleet@example.com>`, "To": "<ann@example.com>", "Reply-To": "<bob@example.com>",
		"Message-ID": "<an-id@example.com>", "Auto-Submitted": "auto-generated",
	} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("content type %s, %v", kind, err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for _, want := range []struct{ kind, text string }{{"text/plain", letter.Text}, {"text/html", letter.HTML}} {
		part, err := r.NextRawPart()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(part))
		if got := strings.ReplaceAll(string(text), "\r\n", "\n"); err != nil || got != want.text || !strings.HasPrefix(part.Header.Get("Content-Type"), want.kind) {
			t.Errorf("%s: %q, %v", part.Header.Get("Content-Type"), got, err)
		}
	}
}

func TestNoTextBecomesAHeaderOrACommand(t *testing.T) {
	p := open(t, false, false)
	s := p.sender(t, nil)
	evil := "x\r\nBcc: eve@example.com\r\n\r\nbody"
	m := letter
	m.Subject, m.ID = evil, evil
	m.Text = "line\r\n.\r\nMAIL FROM:<eve@example.com>\r\n"
	if err := s.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got, err := mail.ReadMessage(strings.NewReader(p.mails[0].text))
	if err != nil || got.Header.Get("Bcc") != "" || len(p.mails) != 1 {
		t.Errorf("%d mails, %v:\n%s", len(p.mails), err, p.mails[0].text)
	}
	for _, change := range []func(*notify.Mail){
		func(m *notify.Mail) { m.To = "ann@example.com>\r\nRCPT TO:<eve@example.com" },
		func(m *notify.Mail) { m.To = "ann@example.com\r\nBcc: eve@example.com" },
		func(m *notify.Mail) { m.ReplyTo = evil },
	} {
		m := letter
		change(&m)
		if _, ok := errors.AsType[*notify.Refusal](s.Send(t.Context(), m)); !ok || len(p.mails) != 1 {
			t.Errorf("%q %q: not refused", m.To, m.ReplyTo)
		}
	}
}

func TestTheConnectionIsEncryptedAndAuthenticated(t *testing.T) {
	for _, security := range []string{starttls, implicit} {
		p := open(t, true, security == implicit)
		s := p.sender(t, func(c *Config) { c.Security, c.Username, c.Password = security, "taskfleet", password })
		if err := s.Send(t.Context(), letter); err != nil {
			t.Fatalf("%s: %v", security, err)
		}
		if m := p.mails[0]; !m.secure && security == starttls || m.user != "taskfleet" {
			t.Errorf("%s: %+v", security, m)
		}
	}
}

func TestNothingIsSentWhereTheServerCannotBeTrusted(t *testing.T) {
	encrypted, open := open(t, true, false), open(t, false, false)
	for name, s := range map[string]*Sender{
		"unknown authority": encrypted.sender(t, func(c *Config) { c.CA = "" }),
		"no STARTTLS":       open.sender(t, func(c *Config) { c.Security = starttls }),
		"no TLS":            open.sender(t, func(c *Config) { c.Security = implicit }),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := s.Send(ctx, letter)
		cancel()
		if err == nil || passing(err) != "service" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(encrypted.mails)+len(open.mails) != 0 {
		t.Error("something was sent")
	}
}

// passing is what a sender's error is about: "message", "address" or "service".
func passing(err error) string {
	if _, ok := errors.AsType[*notify.Refusal](err); ok {
		return "message"
	}
	if _, ok := errors.AsType[*notify.Delay](err); ok {
		return "address"
	}
	return "service"
}

func TestWhatTheServerAnswersDecides(t *testing.T) {
	answer := func(code int, text string) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: text}
	}
	for _, c := range []struct {
		name             string
		from, rcpt, data error
		want             string
	}{
		{"no such user", nil, answer(550, "no such user"), nil, "message"},
		{"greylisted", nil, answer(451, "greylisted, come back"), nil, "address"},
		{"mailbox full", nil, answer(452, "mailbox full"), nil, "address"},
		{"spam", nil, nil, answer(554, "looks like spam"), "message"},
		{"disk full", nil, nil, answer(452, "disk full"), "address"},
		{"sender not allowed", answer(553, "sender not allowed"), nil, nil, "service"},
		{"authentication", answer(530, "authentication required"), nil, nil, "service"},
		{"authentication at the recipient", nil, answer(530, "authentication required"), nil, "service"},
		{"shutting down", nil, answer(421, "shutting down"), nil, "service"},
	} {
		p := open(t, false, false)
		p.from, p.rcpt, p.data = c.from, c.rcpt, c.data
		err := p.sender(t, nil).Send(t.Context(), letter)
		if err == nil || passing(err) != c.want {
			t.Errorf("%s: %v is about the %s, want %s", c.name, err, passing(err), c.want)
		}
	}
}

func TestAServerThatIsNotThereIsAnErrorOfTheService(t *testing.T) {
	p := open(t, false, false)
	s := p.sender(t, nil)
	p.listener.Close()
	if err := s.Send(t.Context(), letter); err == nil || passing(err) != "service" || !strings.Contains(err.Error(), fmt.Sprint(p.address.Port)) {
		t.Errorf("%v", err)
	}
}

func TestAServerThatHangsIsLeftInTime(t *testing.T) {
	p := open(t, false, false)
	p.silent = make(chan struct{})
	defer close(p.silent)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	if err := p.sender(t, nil).Send(ctx, letter); err == nil || passing(err) != "service" {
		t.Errorf("%v", err)
	}
}

// The server is so unkind as to repeat the password in its answer.
func TestThePasswordIsInNoError(t *testing.T) {
	p := open(t, true, false)
	const wrong = "wrong-horse"
	s := p.sender(t, func(c *Config) { c.Username, c.Password = "taskfleet", wrong })
	err := s.Send(t.Context(), letter)
	if err == nil || passing(err) != "service" || strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "(hidden) is wrong") {
		t.Errorf("%v", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v %+v %#v %s", s.config, s.config, s.config, s.config.Password)
	if strings.Contains(b.String(), wrong) {
		t.Errorf("printed: %s", b.String())
	}
}

func TestMistakesOfTheConfigurationAreExplained(t *testing.T) {
	good := Config{Host: "mail.example.com", From: "taskfleet@example.com"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Host = "" }, "host is"},
		{func(c *Config) { c.Host = "mail.example.com:25" }, "host is"},
		{func(c *Config) { c.Port = 70000 }, "port is 70000"},
		{func(c *Config) { c.Security = "ssl" }, `security is "ssl"`},
		{func(c *Config) { c.Username = "x" }, "username and password"},
		{func(c *Config) { c.Username, c.Password, c.Security = "x", "y", none }, "in the clear"},
		{func(c *Config) { c.From = "nobody" }, "from is"},
		{func(c *Config) { c.CA = "x" }, "ca: there is no certificate"},
	} {
		bad := good
		c.change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
