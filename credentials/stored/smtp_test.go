package stored

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// A post is a mail server that nobody sends emails through.
type post struct{}

func (post) NewSession(*smtp.Conn) (smtp.Session, error) { return session{}, nil }

type session struct{}

func (session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user == "builds" && password == "right" {
			return nil
		}
		return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no such password: " + password}
	}), nil
}

func (session) Mail(string, *smtp.MailOptions) error { return errors.New("not here") }
func (session) Rcpt(string, *smtp.RcptOptions) error { return errors.New("not here") }
func (session) Data(io.Reader) error                 { return errors.New("not here") }
func (session) Reset()                               {}
func (session) Logout() error                        { return nil }

func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestAPasswordIsTriedBySMTP(t *testing.T) {
	for _, security := range []string{starttls, implicit} {
		pair, ca := certificate(t)
		server := smtp.NewServer(post{})
		server.Domain, server.ErrorLog = "mail.test", log.New(io.Discard, "", 0)
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if security == implicit {
			l = tls.NewListener(l, server.TLSConfig)
		}
		go server.Serve(l)
		settings, err := json.Marshal(Settings{Place: "a mail service", Prove: bySMTP, SMTP: &SMTP{Host: "127.0.0.1", Port: port, Security: security, Username: "builds", CA: ca}})
		if err != nil {
			t.Fatal(err)
		}
		if err := (Kind{}).Prove(t.Context(), version(string(settings), `{"password":"right"}`)); err != nil {
			t.Errorf("%s: %v", security, err)
		}
		err = Kind{}.Prove(t.Context(), version(string(settings), `{"password":"hunter2"}`))
		if err == nil || !strings.Contains(err.Error(), "535") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a wrong password: %v", security, err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := (Kind{}).Prove(t.Context(), version(string(settings), `{"password":"right"}`)); err == nil {
			t.Errorf("%s: a server that is away has proved a password", security)
		}
	}
}
