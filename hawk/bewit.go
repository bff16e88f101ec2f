package hawk

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Bewit signs a URL: whoever has the URL may GET it until it expires, as
// often as they like. It travels in the query parameter "bewit".
type Bewit struct {
	ID      string
	Expires int64 // seconds since 1970
	Ext     string
	MAC     MAC
}

// CutBewit separates the bewit from a resource (path and query). What it
// returns as rest is the resource that was signed.
func CutBewit(resource string) (rest, bewit string, found bool) {
	path, query, ok := strings.Cut(resource, "?")
	if !ok {
		return resource, "", false
	}
	for i := 0; ; {
		param, _, more := strings.Cut(query[i:], "&")
		if b, ok := strings.CutPrefix(param, "bewit="); ok {
			before, after := query[:i], strings.TrimPrefix(query[i+len(param):], "&")
			if after == "" {
				before = strings.TrimSuffix(before, "&")
			}
			if before+after == "" {
				return path, b, true
			}
			return path + "?" + before + after, b, true
		}
		if !more {
			return resource, "", false
		}
		i += len(param) + 1
	}
}

// ParseBewit reads the value of the bewit parameter.
func ParseBewit(s string) (Bewit, error) {
	var b Bewit
	if len(s) > MaxHeader {
		return b, fmt.Errorf("the bewit has %d bytes, more than %d", len(s), MaxHeader)
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return b, errors.New("the bewit is not URL-safe base64")
	}
	parts := strings.Split(string(text), `\`)
	if len(parts) != 4 {
		return b, fmt.Errorf("the bewit has %d parts, not 4", len(parts))
	}
	for _, p := range parts {
		if !plain(p) {
			return b, errors.New("the bewit contains an unprintable character")
		}
	}
	b.ID, b.Ext = parts[0], parts[3]
	if b.ID == "" {
		return b, errors.New("the bewit names no client")
	}
	if b.Expires, err = parseSeconds(parts[1]); err != nil {
		return b, fmt.Errorf("the bewit's expiry %w", err)
	}
	b.MAC, err = parseMAC(parts[2])
	return b, err
}

// String is the value of the bewit parameter.
func (b Bewit) String() string {
	text := b.ID + `\` + strconv.FormatInt(b.Expires, 10) + `\` + b.MAC.String() + `\` + b.Ext
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// Sign sets the MAC for r, whose Resource is without bewit, under key.
func (b *Bewit) Sign(r Request, key string) { b.MAC = b.compute(r, key) }

// Verify reports, in constant time, whether the MAC is that of r, whose
// Resource is without bewit, under key. It does not look at the expiry.
func (b Bewit) Verify(r Request, key string) bool { return b.compute(r, key).equal(b.MAC) }

func (b Bewit) compute(r Request, key string) MAC {
	r.Method = "GET" // also when it is used for a HEAD
	return r.mac(key, "bewit", b.Expires, "", "", b.Ext)
}

// Expired reports whether the bewit's time is over.
func (b Bewit) Expired(now time.Time) bool { return now.Unix() >= b.Expires }
