// Package hawk is the Hawk 1 protocol: requests that carry a keyed hash of
// themselves instead of a secret.
//
// It holds the protocol and nothing of who the clients are: parse and format
// the Authorization header (Header) and the "bewit" of a signed URL (Bewit),
// compute and compare their MACs, hash a payload. Looking up keys, refusing
// replays and interpreting ext are the business of whoever authenticates.
//
// What a stranger sends reaches the parsers first, so they take one pass
// without backtracking, refuse anything not in the grammar (unknown or
// repeated attributes, backslashes, control characters) and bound the length.
// A parsed value contains no newline; the text that is hashed has one field a
// line, so no value can spill into its neighbour's line.
package hawk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// MaxHeader bounds the length of an Authorization header. The ext of
	// temporary credentials holds all their scopes, hence the size.
	MaxHeader = 64 << 10
	// MaxSkew is how far a request's timestamp may be from the server's clock.
	MaxSkew = 15 * time.Minute
)

// A Request is what a MAC covers of an HTTP request.
type Request struct {
	Method   string
	Resource string // path and query exactly as sent
	Host     string // without port; IPv6 addresses in brackets
	Port     int
}

// A MAC is a keyed hash of a request.
type MAC [sha256.Size]byte

// mac computes the MAC of r under key. kind tells headers from bewits, so that
// neither can be passed off as the other.
func (r Request) mac(key, kind string, ts int64, nonce, hash, ext string) (m MAC) {
	buffer := buffers.Get().(*[]byte)
	b := (*buffer)[:0]
	b = append(b, "hawk.1."...)
	b = append(append(b, kind...), '\n')
	b = append(strconv.AppendInt(b, ts, 10), '\n')
	b = append(append(b, nonce...), '\n')
	b = append(append(b, strings.ToUpper(r.Method)...), '\n')
	b = append(append(b, r.Resource...), '\n')
	b = append(append(b, strings.ToLower(r.Host)...), '\n')
	b = append(strconv.AppendInt(b, int64(r.Port), 10), '\n')
	b = append(append(b, hash...), '\n')
	b = append(append(b, ext...), '\n')
	h := hmac.New(sha256.New, []byte(key))
	h.Write(b)
	h.Sum(m[:0])
	if *buffer = b; cap(b) <= 2*MaxHeader {
		buffers.Put(buffer)
	}
	return m
}

// buffers hold the text of one request each, whose ext can be long.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (m MAC) equal(n MAC) bool { return hmac.Equal(m[:], n[:]) }

func (m MAC) String() string { return base64.StdEncoding.EncodeToString(m[:]) }

func parseMAC(s string) (m MAC, err error) {
	if len(s) != base64.StdEncoding.EncodedLen(len(m)) {
		return m, errors.New("mac is not a base64 SHA-256")
	}
	var b [len(m) + 1]byte // as much as there can be
	n, err := base64.StdEncoding.Decode(b[:], []byte(s))
	if err != nil || n != len(m) {
		return m, errors.New("mac is not a base64 SHA-256")
	}
	copy(m[:], b[:])
	return m, nil
}

// A Header is the content of an Authorization header of scheme Hawk.
type Header struct {
	ID        string
	Timestamp int64 // seconds since 1970
	Nonce     string
	Hash      string // of the payload, or ""
	Ext       string // application data, or ""
	MAC       MAC
}

// ParseHeader reads the value of an Authorization header. Its errors say what
// is wrong with the form and repeat nothing of the content.
func ParseHeader(s string) (Header, error) {
	var h Header
	if len(s) > MaxHeader {
		return h, fmt.Errorf("the header has %d bytes, more than %d", len(s), MaxHeader)
	}
	if len(s) < 5 || !strings.EqualFold(s[:4], "hawk") || s[4] != ' ' {
		return h, errors.New("the scheme is not Hawk")
	}
	var ts, mac string
	fields := [...]struct {
		name  string
		value *string
	}{{"id", &h.ID}, {"ts", &ts}, {"nonce", &h.Nonce}, {"hash", &h.Hash}, {"ext", &h.Ext}, {"mac", &mac}}

	rest := strings.TrimLeft(s[5:], " ")
attributes:
	for {
		name, quoted, ok := strings.Cut(rest, `="`)
		if !ok {
			return h, errors.New(`an attribute is not of the form name="value"`)
		}
		value, after, ok := strings.Cut(quoted, `"`)
		if !ok {
			return h, errors.New("a value's closing quote is missing")
		}
		if value == "" || !plain(value) {
			return h, errors.New("a value is empty or contains a backslash or an unprintable character")
		}
		rest = strings.TrimLeft(after, " ")
		for _, f := range fields {
			if f.name != name {
				continue
			}
			if *f.value != "" {
				return h, fmt.Errorf("attribute %s is given twice", name)
			}
			*f.value = value
			switch {
			case rest == "":
				break attributes
			case rest[0] != ',':
				return h, errors.New("there is no comma between two attributes")
			}
			rest = strings.TrimLeft(rest[1:], " ")
			continue attributes
		}
		return h, errors.New("there is an attribute other than id, ts, nonce, hash, ext and mac")
	}
	if h.ID == "" || ts == "" || h.Nonce == "" || mac == "" {
		return h, errors.New("one of the attributes id, ts, nonce and mac is missing")
	}
	var err error
	if h.Timestamp, err = parseSeconds(ts); err != nil {
		return h, fmt.Errorf("ts %w", err)
	}
	h.MAC, err = parseMAC(mac)
	return h, err
}

// plain reports whether s is printable ASCII without backslash; a quote cannot
// occur where it is asked.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// parseSeconds reads a time in the one way that Sign writes it: the number
// takes part in the MAC, so a second spelling of it must not exist.
func parseSeconds(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<36 || strconv.FormatInt(n, 10) != s {
		return 0, errors.New("is not a number of seconds since 1970")
	}
	return n, nil
}

// String is the value of the Authorization header.
func (h Header) String() string {
	var b strings.Builder
	b.WriteString(`Hawk id="` + h.ID + `", ts="` + strconv.FormatInt(h.Timestamp, 10) + `", nonce="` + h.Nonce + `"`)
	if h.Hash != "" {
		b.WriteString(`, hash="` + h.Hash + `"`)
	}
	if h.Ext != "" {
		b.WriteString(`, ext="` + h.Ext + `"`)
	}
	b.WriteString(`, mac="` + h.MAC.String() + `"`)
	return b.String()
}

// Sign sets the MAC for r under key. All other fields must be set.
func (h *Header) Sign(r Request, key string) { h.MAC = h.compute(r, key) }

// Verify reports, in constant time, whether the MAC is that of r under key. It
// does not look at the timestamp.
func (h Header) Verify(r Request, key string) bool { return h.compute(r, key).equal(h.MAC) }

func (h Header) compute(r Request, key string) MAC {
	return r.mac(key, "header", h.Timestamp, h.Nonce, h.Hash, h.Ext)
}

// Skew is how far the header's timestamp lies ahead of now.
func (h Header) Skew(now time.Time) time.Duration { return time.Unix(h.Timestamp, 0).Sub(now) }

// Fresh reports whether the timestamp is within MaxSkew of now.
func (h Header) Fresh(now time.Time) bool { return h.Skew(now).Abs() <= MaxSkew }

// VerifyPayload reports, in constant time, whether the header's hash is that
// of the body.
func (h Header) VerifyPayload(contentType string, body []byte) bool {
	return hmac.Equal([]byte(h.Hash), []byte(PayloadHash(contentType, body)))
}

// PayloadHash is the hash attribute for a body: over its media type, without
// parameters, and its bytes.
func PayloadHash(contentType string, body []byte) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	h := sha256.New()
	h.Write([]byte("hawk.1.payload\n" + strings.ToLower(strings.TrimSpace(mediaType)) + "\n"))
	h.Write(body)
	h.Write([]byte("\n"))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}
