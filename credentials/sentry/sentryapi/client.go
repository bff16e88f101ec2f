// Package sentryapi calls the part of Sentry's management API that the platform needs:
// an organization's teams and projects, the keys of projects, and alerts.
//
// There is no client in Go that is kept and covers this; what is called here is in the
// schema that Sentry publishes, but for the figures of a key (KeyUse).
//
// Every call waits for its turn where there is a Pace. What Sentry refuses with 429 is tried again when it
// says; what is asked or set is repeated after a failure of the server or the network.
// What is created is not: it may have been, so callers look first. Lists are read to
// their last page, or not at all.
package sentryapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/plain"
)

// Config says where the API is and who calls it.
type Config struct {
	URL          string // https://sentry.io where it is empty
	Organization string // its slug
	Token        string
	Pace         Pace              // nil: calls are made at once
	Transport    http.RoundTripper // nil: that of net/http
}

// A Pace says when a call may be made.
type Pace interface {
	// Turn waits for the turn of a call. It fails if that is too far off.
	Turn(ctx context.Context) error

	// Hold has no call be made before a time.
	Hold(ctx context.Context, until time.Time) error
}

// A Client calls the API. It is safe for concurrent use.
type Client struct {
	base         string
	organization string
	token        atomic.Pointer[string]
	pace         Pace
	http         *http.Client
}

const (
	timeout   = 30 * time.Second // of one try
	maxAnswer = 8 << 20
	maxPages  = 1000
	tries     = 4
	firstWait = time.Second
	maxWait   = 30 * time.Second // for which a call waits by itself
)

// MaxHold is how long Sentry can ask for that it is not called.
const MaxHold = time.Hour

// slugs are what Sentry takes for the names of teams and projects in its addresses.
var slugs = regexp.MustCompile(`^[a-z0-9_-]{1,100}$`)

// ValidSlug tells that a team or project could be called so.
func ValidSlug(s string) bool {
	return slugs.MatchString(s) && strings.Trim(s, "0123456789") != ""
}

// New checks the configuration. It does not connect.
func New(c Config) (*Client, error) {
	u, err := url.Parse(cmp.Or(c.URL, "https://sentry.io"))
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "":
		return nil, errors.New("sentry: url must be that of a Sentry server, such as https://sentry.io, without a user")
	case !slugs.MatchString(c.Organization):
		return nil, fmt.Errorf("sentry: organization is %q; it must be the slug of an organization, as in its address", c.Organization)
	}
	if err := CheckToken(c.Token); err != nil {
		return nil, err
	}
	client := &Client{
		base: strings.TrimSuffix(u.String(), "/") + "/api/0", organization: c.Organization, pace: c.Pace,
		http: &http.Client{Transport: c.Transport, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	client.token.Store(&c.Token)
	return client, nil
}

// CheckToken tells what is wrong with how a token is written.
func CheckToken(token string) error {
	if token == "" {
		return errors.New("sentry: token must be one of Sentry's, of an internal integration for instance")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("sentry: token has characters that none of Sentry's has")
	}
	return nil
}

// Use has calls be made with another token from now on, once a call with it, which
// changes nothing, was not refused.
func (c *Client) Use(ctx context.Context, token string) error {
	if err := CheckToken(token); err != nil {
		return err
	}
	trial := &Client{base: c.base, organization: c.organization, pace: c.pace, http: c.http}
	trial.token.Store(&token)
	if _, err := trial.do(ctx, request{doing: "list projects with the new token", method: http.MethodGet, path: path("organizations", c.organization, "projects"),
		query: url.Values{"per_page": {"1"}}}, nil); err != nil {
		return err
	}
	c.token.Store(&token)
	return nil
}

// Place tells in words where the API is.
func (c *Client) Place() string {
	return strings.TrimSuffix(c.base[strings.Index(c.base, "://")+3:], "/api/0") + " " + c.organization
}

// String leaves the token out.
func (c *Client) String() string { return "Sentry " + c.Place() }

// GoString leaves the token out.
func (c *Client) GoString() string { return c.String() }

// ErrNotFound is what there is not, or what the token does not let be seen.
var ErrNotFound = errors.New("sentry: there is no such thing, or the token does not let it be seen")

// ErrConflict is what there is already.
var ErrConflict = errors.New("sentry: there is one already")

// An Error is an answer that is no success.
type Error struct {
	Doing  string // what was tried
	Status int
	Detail string    // what Sentry says of it, shortened
	Until  time.Time // before which it is of no use to try again; zero if that is not known
}

func (e *Error) Error() string {
	text := fmt.Sprintf("sentry: %s: the answer is %d", e.Doing, e.Status)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	switch e.Status {
	case http.StatusUnauthorized:
		text += ". The token is not valid any more"
	case http.StatusForbidden:
		text += ". The token lacks a permission; docs/credentials.md has those that it needs"
	case http.StatusTooManyRequests:
		text += ". Sentry has had enough calls until " + e.Until.UTC().Format(time.RFC3339)
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		text += ". It has another name or address by now"
	}
	return text
}

// Is tells errors by their status.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound || target == ErrConflict && e.Status == http.StatusConflict
}

// Final tells that trying again is of no use before somebody has done something.
func Final(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Status != http.StatusRequestTimeout
}

// A request is one call.
type request struct {
	doing  string
	method string
	path   string // after /api/0
	query  url.Values
	in     any
}

// path joins segments, each escaped.
func path(segments ...string) string {
	var b strings.Builder
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String() + "/"
}

// do makes a call, out being filled in unless it is nil. It returns the header of the
// answer.
func (c *Client) do(ctx context.Context, r request, out any) (http.Header, error) {
	var body []byte
	if r.in != nil {
		var err error
		if body, err = json.Marshal(r.in); err != nil {
			return nil, fmt.Errorf("sentry: %s: %w", r.doing, err)
		}
	}
	for try := 1; ; try++ {
		if c.pace != nil {
			if err := c.pace.Turn(ctx); err != nil {
				return nil, fmt.Errorf("sentry: %s: %w", r.doing, err)
			}
		}
		header, err := c.once(ctx, r, body, out)
		if err == nil || ctx.Err() != nil {
			return header, err
		}
		wait := firstWait << (try - 1)
		wait += rand.N(wait)
		e, answered := errors.AsType[*Error](err)
		switch {
		case answered && e.Status == http.StatusTooManyRequests: // it was not carried out
			wait = max(time.Until(e.Until), 0)
			if c.pace != nil {
				if err := c.pace.Hold(ctx, e.Until); err != nil {
					return nil, err
				}
			}
		case answered && e.Status < 500, r.method == http.MethodPost:
			return nil, err
		case answered && !e.Until.IsZero():
			wait = max(wait, time.Until(e.Until))
		}
		if try == tries || wait > maxWait {
			return nil, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// once tries a call once.
func (c *Client) once(ctx context.Context, r request, body []byte, out any) (http.Header, error) {
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	in, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("sentry: %s: %w", r.doing, err)
	}
	in.Header.Set("Authorization", "Bearer "+*c.token.Load())
	in.Header.Set("Accept", "application/json")
	in.Header.Set("User-Agent", "taskfleet")
	if r.in != nil {
		in.Header.Set("Content-Type", "application/json")
	}
	answer, err := c.http.Do(in)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("sentry: %s: %w", r.doing, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if answer.StatusCode/100 != 2 {
		return nil, &Error{r.doing, answer.StatusCode, c.detail(text), until(answer)}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("sentry: %s: reading the answer: %w", r.doing, err)
	case len(text) > maxAnswer:
		return nil, fmt.Errorf("sentry: %s: the answer has more than %d bytes", r.doing, maxAnswer)
	case out == nil:
		return answer.Header, nil
	}
	if err := json.Unmarshal(text, out); err != nil { // err may show some of a key
		return nil, fmt.Errorf("sentry: %s: the answer is not the JSON that was expected", r.doing)
	}
	return answer.Header, nil
}

const maxDetail = 300

// detail is what an answer says of what is wrong, in a line.
func (c *Client) detail(text []byte) string {
	var said struct {
		Detail any `json:"detail"`
	}
	var members map[string]json.RawMessage
	s := ""
	if json.Unmarshal(text, &said) == nil && said.Detail != nil {
		if d, ok := said.Detail.(string); ok {
			s = d
		} else if d, ok := said.Detail.(map[string]any); ok {
			s, _ = d["message"].(string)
		}
	} else if json.Unmarshal(text, &members) == nil { // what is wrong, by member
		b, _ := json.Marshal(members)
		s = string(b)
	}
	s = strings.ReplaceAll(s, *c.token.Load(), "(hidden)")
	return strings.TrimSuffix(plain.Words(s, maxDetail), ".")
}

// until is when Sentry says that it can be asked again, by our clock.
func until(answer *http.Response) time.Time {
	if answer.StatusCode != http.StatusTooManyRequests && answer.StatusCode != http.StatusServiceUnavailable {
		return time.Time{}
	}
	now := time.Now()
	theirs := now
	if at, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		theirs = at
	}
	wait := time.Second
	after := answer.Header.Get("Retry-After")
	if n, err := strconv.ParseFloat(after, 64); err == nil && n >= 0 && n <= MaxHold.Seconds() {
		wait = time.Duration(n * float64(time.Second))
	} else if err == nil && n > 0 {
		wait = MaxHold
	} else if at, err := http.ParseTime(after); err == nil {
		wait = at.Sub(theirs)
	} else if n, err := strconv.ParseFloat(answer.Header.Get("X-Sentry-Rate-Limit-Reset"), 64); err == nil {
		wait = time.UnixMilli(int64(n * 1000)).Sub(theirs)
	}
	return now.Add(min(max(wait, 100*time.Millisecond), MaxHold))
}

// list reads all pages of a list.
func list[T any](ctx context.Context, c *Client, doing, path string, query url.Values) ([]T, error) {
	all, seen := []T{}, map[string]bool{}
	if query == nil {
		query = url.Values{}
	}
	query.Set("per_page", "100") // the most; Sentry has 10 keys on a page otherwise
	for range maxPages {
		var page []T
		header, err := c.do(ctx, request{doing: doing, method: http.MethodGet, path: path, query: query}, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		cursor, more := next(header)
		if !more {
			return all, nil
		}
		if cursor == "" || seen[cursor] {
			return nil, fmt.Errorf("sentry: %s: the pages of the list go in a circle", doing)
		}
		seen[cursor] = true
		query.Set("cursor", cursor)
	}
	return nil, fmt.Errorf("sentry: %s: the list has more than %d pages", doing, maxPages)
}

var parameter = regexp.MustCompile(`;\s*([a-z]+)="([^"]*)"`)

// next is the cursor of the next page. The address in the header is not followed: it
// may be another server's.
func next(h http.Header) (cursor string, more bool) {
	for _, header := range h.Values("Link") {
		for _, link := range strings.Split(header, ",") {
			is := map[string]string{}
			for _, m := range parameter.FindAllStringSubmatch(link, -1) {
				is[m[1]] = m[2]
			}
			if is["rel"] == "next" && is["results"] == "true" {
				return is["cursor"], true
			}
		}
	}
	return "", false
}
