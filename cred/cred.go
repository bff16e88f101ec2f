// Package cred is what a client holds to prove who it is, and how it signs its
// requests with that.
//
// Credentials are a client id and an access token. Whoever holds them can issue
// temporary ones (Temporary) without asking anybody: a Certificate, signed with
// the access token, says which scopes they have and until when, and a key for
// them is derived from the token and the certificate's seed. The server, which
// knows the token, checks the one and derives the other, and stores nothing.
// Named temporary credentials carry a client id of their own; their certificate
// names the issuer.
//
// A request carries certificate and authorized scopes in the ext of its Hawk
// header (Ext). The package has values and their arithmetic only; who a client
// is and what its scopes imply is known to the auth service.
package cred

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/hawk"
)

// Credentials prove who a client is. Certificate is the JSON text of a
// Certificate, or "" where the credentials are permanent.
type Credentials struct {
	ClientID    string `json:"clientId"`
	AccessToken string `json:"accessToken"`
	Certificate string `json:"certificate,omitempty"`
}

// String names the client and nothing secret.
func (c Credentials) String() string { return "credentials of " + c.ClientID }

// GoString keeps the token out of %#v.
func (c Credentials) GoString() string { return c.String() }

// LogValue keeps the token out of logs.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.ClientID) }

// Sign puts an Authorization header on req, made for the host that req names.
// The server restricts the request to authorizedScopes, unless they are nil.
// Credentials without client id leave the request as it is: anonymous.
func Sign(req *http.Request, c Credentials, authorizedScopes []string) error {
	if c.ClientID == "" {
		return nil
	}
	s, err := NewSigner(c, authorizedScopes)
	if err != nil {
		return err
	}
	return s.Sign(req)
}

// A Signer signs requests with one set of credentials. It is safe for concurrent
// use.
type Signer struct{ id, token, ext string }

// NewSigner returns a Signer that does what Sign does.
func NewSigner(c Credentials, authorizedScopes []string) (*Signer, error) {
	if c.ClientID == "" {
		return &Signer{}, nil
	}
	ext, err := c.ext(authorizedScopes)
	if err != nil {
		return nil, err
	}
	return &Signer{c.ClientID, c.AccessToken, ext}, nil
}

// Sign puts an Authorization header on req, made for the host that req names.
func (s *Signer) Sign(req *http.Request) error {
	if s.id == "" {
		return nil
	}
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	r, err := signed(req.Method, req.URL, host)
	if err != nil {
		return err
	}
	h := hawk.Header{ID: s.id, Timestamp: time.Now().Unix(), Nonce: rand.Text(), Ext: s.ext}
	h.Sign(r, s.token)
	req.Header.Set("Authorization", h.String())
	return nil
}

// SignURL returns the URL with a bewit: whoever has it may GET it, with these
// credentials' authority, until it expires.
func SignURL(u string, c Credentials, expires time.Time, authorizedScopes []string) (string, error) {
	ext, err := c.ext(authorizedScopes)
	if err != nil {
		return "", err
	}
	parsed, err := url.Parse(u)
	if err != nil {
		return "", fmt.Errorf("sign URL: %w", err)
	}
	r, err := signed(http.MethodGet, parsed, parsed.Host)
	if err != nil {
		return "", err
	}
	b := hawk.Bewit{ID: c.ClientID, Expires: expires.Unix(), Ext: ext}
	b.Sign(r, c.AccessToken)
	if parsed.RawQuery != "" {
		parsed.RawQuery += "&"
	}
	parsed.RawQuery += "bewit=" + b.String()
	return parsed.String(), nil
}

func (c Credentials) ext(authorizedScopes []string) (string, error) {
	e := Ext{AuthorizedScopes: authorizedScopes}
	if c.Certificate != "" {
		e.Certificate = new(Certificate)
		if err := json.Unmarshal([]byte(c.Certificate), e.Certificate); err != nil {
			return "", fmt.Errorf("%s: the certificate is not valid JSON: %w", c, err)
		}
	}
	return e.String(), nil
}

// signed is what the MAC of a request to u covers, as the server will see it.
func signed(method string, u *url.URL, hostport string) (hawk.Request, error) {
	r := hawk.Request{Method: method, Resource: u.RequestURI()}
	if method == "" {
		r.Method = http.MethodGet
	}
	var err error
	if r.Host, r.Port, err = SplitHost(hostport); err != nil {
		return r, err
	}
	if r.Port == 0 {
		switch u.Scheme {
		case "http":
			r.Port = 80
		case "https":
			r.Port = 443
		default:
			return r, fmt.Errorf("cannot sign a request to %s://%s: the scheme must be http or https", u.Scheme, hostport)
		}
	}
	return r, nil
}

// SplitHost separates the port, 0 where there is none, from the value of a
// Host header. An IPv6 address keeps its brackets.
func SplitHost(hostport string) (host string, port int, err error) {
	if hostport == "" {
		return "", 0, errors.New("the host is missing")
	}
	i := strings.LastIndexByte(hostport, ':')
	if i < 0 || strings.HasSuffix(hostport, "]") {
		return hostport, 0, nil
	}
	if _, _, err := net.SplitHostPort(hostport); err != nil {
		return "", 0, fmt.Errorf("the host is not of the form name:port: %w", err)
	}
	if hostport[i+1:] == "" {
		return hostport[:i], 0, nil
	}
	n, err := strconv.ParseUint(hostport[i+1:], 10, 16)
	if err != nil {
		return "", 0, errors.New("the port of the host is not a number up to 65535")
	}
	return hostport[:i], int(n), nil
}

// An Ext is what a request says about its credentials beyond their key.
type Ext struct {
	Certificate      *Certificate
	AuthorizedScopes []string // nil: all that the credentials have
}

type extJSON struct {
	Certificate      json.RawMessage `json:"certificate,omitempty"`
	AuthorizedScopes json.RawMessage `json:"authorizedScopes,omitempty"`
}

// String is the ext attribute, "" where there is nothing to say.
func (e Ext) String() string {
	if e.Certificate == nil && e.AuthorizedScopes == nil {
		return ""
	}
	var x extJSON
	if e.Certificate != nil {
		x.Certificate = e.Certificate.JSON()
	}
	if e.AuthorizedScopes != nil {
		x.AuthorizedScopes = mustJSON(e.AuthorizedScopes)
	}
	return base64.StdEncoding.EncodeToString(mustJSON(x))
}

// ParseExt reads an ext attribute and checks its form; whether a certificate is
// genuine only Certificate.Verify can tell. Either base64 alphabet is
// understood, with padding or without: clients differ.
//
// A member that is null is refused rather than taken as absent: a client that
// lost its list of authorized scopes must not get all of them.
func ParseExt(s string) (Ext, error) {
	var e Ext
	if s == "" {
		return e, nil
	}
	text, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "=")))
	if err != nil {
		return e, errors.New("ext is not base64")
	}
	var x extJSON
	if err := json.Unmarshal(text, &x); err != nil || text[0] != '{' {
		return e, errors.New("ext is not a JSON object in base64")
	}
	if x.Certificate != nil {
		e.Certificate = new(Certificate)
		if err := e.Certificate.parse(x.Certificate); err != nil {
			return e, fmt.Errorf("ext.certificate %w", err)
		}
	}
	if x.AuthorizedScopes != nil {
		if e.AuthorizedScopes, err = parseScopes(x.AuthorizedScopes); err != nil {
			return e, fmt.Errorf("ext.authorizedScopes %w", err)
		}
	}
	return e, nil
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}
