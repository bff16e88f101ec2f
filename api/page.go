package api

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// MaxLimit is the most entries a page may hold, and the default.
const MaxLimit = 1000

// A Page is the part of a listing that a caller asks for: at most Limit
// entries after the entry whose key is After. Keys are what the listing is
// sorted by, so a page stays right while entries come and go.
type Page struct {
	Limit int
	After []string // nil: from the start
}

// Page reads the query parameters limit and continuationToken; keys is how
// many key parts the listing's tokens have.
func (c Call[P, B]) Page(keys int) (Page, error) {
	p := Page{Limit: MaxLimit}
	if s := c.Query("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return p, Errorf(InvalidRequestArguments, "limit is %q; it must be a number from 1 to %d", s, MaxLimit)
		}
		p.Limit = min(n, MaxLimit)
	}
	if t := c.Query("continuationToken"); t != "" {
		b, err := base64.RawURLEncoding.DecodeString(t)
		if err == nil {
			err = json.Unmarshal(b, &p.After)
		}
		bad := err != nil || len(p.After) != keys
		for _, k := range p.After {
			bad = bad || !plainText(k)
		}
		if bad {
			return p, Errorf(InvalidRequestArguments, "continuationToken is not one that this method returned; leave it out to start over")
		}
	}
	return p, nil
}

// Token makes the continuation token for the page after the entry with these
// keys.
func (p Page) Token(keys ...string) string {
	b, err := json.Marshal(keys)
	if err != nil {
		panic(err) // strings always marshal
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// Text is a key of After; "", which is before all, from the start.
func (p Page) Text(i int) string {
	if p.After == nil {
		return ""
	}
	return p.After[i]
}

// Int reads a numeric key of a token.
func (p Page) Int(i int) (int64, error) {
	n, err := strconv.ParseInt(p.After[i], 10, 64)
	if err != nil {
		return 0, Errorf(InvalidRequestArguments, "continuationToken is not one that this method returned; leave it out to start over")
	}
	return n, nil
}
