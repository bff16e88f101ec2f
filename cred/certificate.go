package cred

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
)

const (
	// MaxValidity is the longest that temporary credentials can last.
	MaxValidity = 31 * 24 * time.Hour
	// ClockSlack is how long before its start and after its expiry a
	// certificate is still accepted: issuers' clocks are not the server's.
	ClockSlack = 5 * time.Minute

	seedLength = 44
)

// ClientIDPattern is what ids of clients match.
const ClientIDPattern = `^[A-Za-z0-9!@/:.+|_-]+$`

var clientID = regexp.MustCompile(ClientIDPattern)

// ValidClientID reports whether s can be the id of a client.
func ValidClientID(s string) bool { return len(s) <= 1024 && clientID.MatchString(s) }

// A Certificate says what temporary credentials may do.
type Certificate struct {
	Version   int      `json:"version"` // 1
	Scopes    []string `json:"scopes"`
	Start     int64    `json:"start"`            // milliseconds since 1970
	Expiry    int64    `json:"expiry"`           // likewise
	Seed      string   `json:"seed"`             // 44 random characters; the key is derived from it
	Issuer    string   `json:"issuer,omitempty"` // of named credentials; else the client id is the issuer's
	Signature string   `json:"signature"`
}

// Options say what temporary credentials are to be.
type Options struct {
	ClientID string // "": the issuer's; another one needs the scope auth:create-client:<ClientID>
	Scopes   []string
	Start    time.Time // zero: now
	Expiry   time.Time // at most MaxValidity after Start
}

// Temporary issues temporary credentials. The issuer must be permanent.
func Temporary(issuer Credentials, o Options) (Credentials, error) {
	fail := func(format string, args ...any) (Credentials, error) {
		return Credentials{}, fmt.Errorf("issue temporary credentials from those of %s: %w", issuer.ClientID, fmt.Errorf(format, args...))
	}
	if issuer.Certificate != "" {
		return fail("temporary credentials cannot issue others")
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	c := Certificate{Version: 1, Scopes: o.Scopes, Start: o.Start.UnixMilli(), Expiry: o.Expiry.UnixMilli(), Seed: slugid.Token()}
	if c.Scopes == nil {
		c.Scopes = []string{} // null is not a list
	}
	client := issuer.ClientID
	if o.ClientID != "" && o.ClientID != client {
		if !ValidClientID(o.ClientID) {
			return fail("%q cannot be a client id: it must match %s", o.ClientID, clientID)
		}
		client, c.Issuer = o.ClientID, issuer.ClientID
	}
	for _, s := range c.Scopes {
		if !scope.Valid(s) {
			return fail("%q is not a scope", s)
		}
	}
	if err := c.checkTimes(); err != nil {
		return fail("the certificate %w", err)
	}
	c.Signature = base64.StdEncoding.EncodeToString(c.signature(client, issuer.AccessToken))
	return Credentials{client, c.Key(issuer.AccessToken), string(c.JSON())}, nil
}

// Key is the access token of the temporary credentials.
func (c Certificate) Key(issuerToken string) string {
	return base64.RawURLEncoding.EncodeToString(keyed(issuerToken, []byte(c.Seed)))
}

// JSON is the certificate as Credentials carry it.
func (c Certificate) JSON() []byte { return mustJSON(c) }

// Verify reports whether the certificate was signed with issuerToken for
// clientID.
func (c Certificate) Verify(clientID, issuerToken string) error {
	got, err := base64.StdEncoding.DecodeString(c.Signature)
	if err != nil || !hmac.Equal(got, c.signature(clientID, issuerToken)) {
		return errors.New("has a signature that is not valid, or is for another client id")
	}
	return nil
}

// InForce reports whether the certificate is valid at a time, give or take
// ClockSlack.
func (c Certificate) InForce(at time.Time) error {
	now := at.UnixMilli()
	switch {
	case c.Start > now+ClockSlack.Milliseconds():
		return fmt.Errorf("is not in force before %s", stamp(c.Start))
	case c.Expiry < now-ClockSlack.Milliseconds():
		return fmt.Errorf("has expired at %s", stamp(c.Expiry))
	}
	return nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// signature computes the signature. Each field stands on a line of its own;
// neither ids nor scopes can contain a newline.
func (c Certificate) signature(clientID, issuerToken string) []byte {
	b := append([]byte("version:"), strconv.Itoa(c.Version)...)
	if c.Issuer != "" {
		b = append(append(b, "\nclientId:"...), clientID...)
		b = append(append(b, "\nissuer:"...), c.Issuer...)
	}
	b = append(append(b, "\nseed:"...), c.Seed...)
	b = strconv.AppendInt(append(b, "\nstart:"...), c.Start, 10)
	b = strconv.AppendInt(append(b, "\nexpiry:"...), c.Expiry, 10)
	b = append(b, "\nscopes:"...)
	for _, s := range c.Scopes {
		b = append(append(b, '\n'), s...)
	}
	return keyed(issuerToken, b)
}

func keyed(key string, text []byte) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write(text)
	return h.Sum(nil)
}

// parse reads a certificate and checks all that can be checked without the
// issuer's token.
func (c *Certificate) parse(text []byte) error {
	var x struct {
		Certificate
		Scopes json.RawMessage `json:"scopes"`
	}
	if err := json.Unmarshal(text, &x); err != nil || text[0] != '{' {
		return errors.New("is not a JSON object with version, scopes, start, expiry, seed and signature")
	}
	*c = x.Certificate
	var err error
	if c.Scopes, err = parseScopes(x.Scopes); err != nil {
		return fmt.Errorf("scopes: %w", err)
	}
	switch {
	case c.Version != 1:
		return fmt.Errorf("is of version %d, not 1", c.Version)
	case len(c.Seed) != seedLength || !scope.Valid(c.Seed):
		return fmt.Errorf("has a seed that is not of %d printable characters", seedLength)
	case c.Issuer != "" && !ValidClientID(c.Issuer):
		return errors.New("names an issuer that cannot be a client")
	}
	return c.checkTimes()
}

// year9999 keeps every time within what dates can be written for.
var year9999 = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()

func (c Certificate) checkTimes() error {
	switch {
	case c.Start < 0 || c.Start > year9999 || c.Expiry < 0 || c.Expiry > year9999:
		return errors.New("has a start or expiry outside the years 1970 to 9999")
	case c.Expiry <= c.Start:
		return fmt.Errorf("expires at %s, which is not after its start at %s", stamp(c.Expiry), stamp(c.Start))
	case c.Expiry-c.Start > MaxValidity.Milliseconds():
		return fmt.Errorf("lasts from %s to %s, longer than 31 days", stamp(c.Start), stamp(c.Expiry))
	}
	return nil
}

func parseScopes(text []byte) ([]string, error) {
	var list []string
	if err := json.Unmarshal(text, &list); err != nil || list == nil {
		return nil, errors.New("is not a list of scopes")
	}
	for _, s := range list {
		if !scope.Valid(s) {
			return nil, errors.New("has a member that is not a scope: printable ASCII")
		}
	}
	return list, nil
}
