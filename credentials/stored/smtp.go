package stored

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/taskfleet/taskfleet/credentials"
)

// An SMTP is how a password of a mail server is tried: by logging in, without an email.
type SMTP struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`     // 0: 587 with starttls, 465 with tls
	Security string `json:"security"` // starttls (which "" means) or tls
	Username string `json:"username"` // "": the member username of the secret
	CA       string `json:"ca"`       // PEM certificates that vouch for the server; "": those of the system

	roots *x509.CertPool
}

const (
	starttls = "starttls"
	implicit = "tls"

	smtpLimit = 30 * time.Second
)

func (s *SMTP) check() (needs []string, err error) {
	if s.Host == "" || strings.ContainsAny(s.Host, ":/ ") && net.ParseIP(s.Host) == nil {
		return nil, fmt.Errorf("host is %q; it must be the name or the address of the server, without a port", s.Host)
	}
	if s.Security == "" {
		s.Security = starttls
	}
	if s.Security != starttls && s.Security != implicit {
		return nil, fmt.Errorf("security is %q; it must be starttls or tls", s.Security)
	}
	if s.Port == 0 {
		s.Port = map[string]int{starttls: 587, implicit: 465}[s.Security]
	}
	if s.Port < 0 || s.Port > 65535 {
		return nil, fmt.Errorf("port is %d; it must be from 1 to 65535, or be left out", s.Port)
	}
	if s.CA != "" {
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM([]byte(s.CA)) {
			return nil, errors.New("ca has no certificate in it; it must be PEM text")
		}
	}
	if s.Username == "" {
		needs = append(needs, "username")
	}
	return append(needs, "password"), nil
}

func (s *SMTP) prove(ctx context.Context, _ http.RoundTripper, secret map[string]string) error {
	user, password := s.Username, secret["password"]
	if user == "" {
		user = secret["username"]
	}
	ctx, stop := context.WithTimeout(ctx, smtpLimit)
	defer stop()
	conf := &tls.Config{ServerName: s.Host, MinVersion: tls.VersionTLS12, RootCAs: s.roots}
	options := []mail.Option{
		mail.WithPort(s.Port), mail.WithTimeout(smtpLimit), mail.WithTLSConfig(conf), mail.WithoutNoop(), mail.WithUsername(user), mail.WithPassword(password),
		mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin), mail.WithTLSPolicy(mail.TLSMandatory),
	}
	if s.Security == implicit {
		options = append(options, mail.WithSSL())
	}
	c, err := mail.NewClient(s.Host, options...)
	if err != nil {
		return credentials.Refused("%s", scrub(err, user, password))
	}
	session, err := c.DialToSMTPClientWithContext(ctx)
	if err != nil {
		text := fmt.Sprintf("logging in to %s: %s", net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), scrub(err, user, password))
		if e, ok := errors.AsType[*textproto.Error](err); ok && (e.Code == 534 || e.Code == 535) {
			return credentials.Refused("%s", text)
		}
		return errors.New(text)
	}
	_ = c.CloseWithSMTPClient(session) // it has said all that it was asked
	return nil
}

// scrub takes the password out of an error, as it is and as it was sent.
func scrub(err error, user, password string) string {
	text := err.Error()
	for _, sent := range []string{
		base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password)), base64.StdEncoding.EncodeToString([]byte(password)), password,
	} {
		if sent != "" {
			text = strings.ReplaceAll(text, sent, "(secret)")
		}
	}
	return text
}

func (*SMTP) retire(context.Context, http.RoundTripper, map[string]string) error { return nil }
