// Package client calls the HTTP API of Taskfleet, and of any service that
// speaks the same protocol.
//
// The packages below it (queue, auth, workermanager) hold the types and methods
// of one service each. They are generated from the references that the
// services publish, so they cannot disagree with the servers; all they do is to
// build a Request and hand it to Client.Do. This package is the part that is
// the same for every method: signing, retries, errors.
//
// Retries. A call is repeated when it failed in a way that another attempt may
// mend — no connection, a lost one, 429 or 5xx — but only if repeating does no
// harm: either the request cannot have been acted upon (no connection was made,
// or the server said that it is too busy), or it is one that may be sent twice.
// GET, PUT and DELETE may; a POST only if the generator knows it to be safe. So
// ClaimWork, whose lost answer may have held a task, fails at once after a
// broken connection, and its caller decides. Waits are random below a bound
// that doubles ("full jitter"), so that many workers do not return in step; a
// longer Retry-After is obeyed. Every attempt is signed anew, because a server
// accepts a signature once.
//
// Secrets do not reach errors or logs: those show method, status and message,
// never credentials, and members of an echoed payload that look like secrets
// are blanked.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/cred"
)

//go:generate go run ./generate -references ../references -out .

// A Client sends requests to one deployment with one set of credentials. It is
// safe for concurrent use.
type Client struct {
	opts   Options
	root   string
	signer atomic.Pointer[signer]
}

// A signer is credentials with what is the same in all signatures with them.
type signer struct {
	creds cred.Credentials
	sign  func() (*cred.Signer, error)
}

// Options say where to send requests and how.
type Options struct {
	// RootURL of the deployment, such as https://taskfleet.example.com.
	RootURL string

	// Credentials sign the requests; without a ClientID they go unsigned.
	Credentials cred.Credentials

	// AuthorizedScopes, unless nil, limit what the requests may do to these of
	// the scopes that the credentials have.
	AuthorizedScopes []string

	// Transport sends the requests; nil means one that suits the API. It must
	// not repeat a request with the same signature on its own.
	Transport http.RoundTripper

	// AttemptTimeout bounds one attempt, 90 s by default. It must leave room
	// for long polls, which the server ends after 20 s.
	AttemptTimeout time.Duration

	// Retry says how long to keep trying.
	Retry Retry

	// Log gets a line for each failed attempt that is going to be repeated;
	// nil means slog.Default().
	Log *slog.Logger
}

// New returns a Client.
func New(opts Options) (*Client, error) {
	u, err := url.Parse(opts.RootURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("client: the root URL must look like https://taskfleet.example.com, not %q", redactURL(opts.RootURL))
	}
	if opts.AttemptTimeout == 0 {
		opts.AttemptTimeout = 90 * time.Second
	}
	if opts.Transport == nil {
		opts.Transport = defaultTransport
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	opts.AuthorizedScopes = slices.Clone(opts.AuthorizedScopes) // the caller may change its own
	opts.Retry = opts.Retry.withDefaults()
	c := &Client{opts: opts, root: strings.TrimSuffix(opts.RootURL, "/")}
	c.SetCredentials(opts.Credentials)
	return c, nil
}

// FromEnv returns Options with the root URL and the credentials that the
// environment names, in the variables that all tools of the field read:
// TASKCLUSTER_ROOT_URL, TASKCLUSTER_CLIENT_ID, TASKCLUSTER_ACCESS_TOKEN and
// TASKCLUSTER_CERTIFICATE. Without a client id, requests go unsigned.
func FromEnv() (Options, error) {
	opts := Options{
		RootURL: os.Getenv("TASKCLUSTER_ROOT_URL"),
		Credentials: cred.Credentials{
			ClientID:    os.Getenv("TASKCLUSTER_CLIENT_ID"),
			AccessToken: os.Getenv("TASKCLUSTER_ACCESS_TOKEN"),
			Certificate: os.Getenv("TASKCLUSTER_CERTIFICATE"),
		},
	}
	c := opts.Credentials
	switch {
	case opts.RootURL == "":
		return Options{}, errors.New("client: TASKCLUSTER_ROOT_URL is not set; set it to the URL of the deployment, such as http://127.0.0.1:8080")
	case c.ClientID == "" && (c.AccessToken != "" || c.Certificate != ""):
		return Options{}, errors.New("client: TASKCLUSTER_CLIENT_ID is not set although other credentials are; set it, or unset them")
	case c.ClientID != "" && c.AccessToken == "":
		return Options{}, errors.New("client: TASKCLUSTER_CLIENT_ID is set but TASKCLUSTER_ACCESS_TOKEN is not")
	}
	return opts, nil
}

// defaultTransport is shared, so that clients with different credentials (a
// worker has one for each task) share connections.
var defaultTransport http.RoundTripper = &http.Transport{
	Proxy:               http.ProxyFromEnvironment,
	DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout: 10 * time.Second,
	MaxIdleConnsPerHost: 32,
	IdleConnTimeout:     90 * time.Second,
	ForceAttemptHTTP2:   true,
}

// RootURL returns the URL of the deployment, without a trailing slash.
func (c *Client) RootURL() string { return c.root }

// Credentials returns the credentials in use.
func (c *Client) Credentials() cred.Credentials { return c.signer.Load().creds }

// SetCredentials replaces the credentials. Attempts that begin later use them,
// among them further attempts of calls that are under way.
func (c *Client) SetCredentials(creds cred.Credentials) {
	c.signer.Store(&signer{creds, sync.OnceValues(func() (*cred.Signer, error) {
		return cred.NewSigner(creds, c.opts.AuthorizedScopes)
	})})
}

// WithCredentials returns a Client of its own credentials, limited to
// authorizedScopes unless that is nil, and otherwise like c.
func (c *Client) WithCredentials(creds cred.Credentials, authorizedScopes []string) *Client {
	d := &Client{opts: c.opts, root: c.root}
	d.opts.AuthorizedScopes = slices.Clone(authorizedScopes)
	d.SetCredentials(creds)
	return d
}

// A Request is one call of an API method. Generated code makes them.
type Request struct {
	Name       string     // for messages: queue.claimWork
	Verb       string     // POST
	Route      string     // from the root: /api/queue/v1/claim-work/<taskQueueId>
	Args       []string   // values for the parameters of the route, in their order
	Query      url.Values // without empty values
	In         any        // the body, encoded as JSON; nil for none
	Repeatable bool       // whether sending it twice does no harm
}

// Do sends r until it succeeds, fails for good, or ctx or the retry budget is
// spent, and decodes the answer into out unless that is nil. A refusal by the
// server is returned as an *Error.
func (c *Client) Do(ctx context.Context, r Request, out any) error {
	path, err := r.path()
	if err != nil {
		return fmt.Errorf("client: %s: %w", r.Name, err)
	}
	var body []byte
	if r.In != nil {
		if body, err = encode(r.In); err != nil {
			return fmt.Errorf("client: %s: encoding the request: %w", r.Name, err)
		}
	}
	return c.opts.Retry.run(ctx, c.opts.Log, r.Name, func() (verdict, error) {
		return c.attempt(ctx, r, path, body, out)
	})
}

// attempt sends r once.
func (c *Client) attempt(ctx context.Context, r Request, path string, body []byte, out any) (verdict, error) {
	attemptCtx, cancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
	defer cancel()
	var conn connection
	if !r.Repeatable { // or else it does not matter how far it comes
		attemptCtx = httptrace.WithClientTrace(attemptCtx, conn.trace())
	}
	sign := c.signer.Load()
	req, err := c.newRequest(attemptCtx, r.Verb, path, body, sign)
	if err != nil {
		return verdict{}, fmt.Errorf("client: %s: %w", r.Name, err)
	}
	// Not by an http.Client, which would follow redirects: the 303 of an
	// artifact is an answer with a body, and any other is a mistake that
	// following would hide behind a bad signature.
	resp, err := c.opts.Transport.RoundTrip(req)
	if err != nil {
		return verdict{retry: r.Repeatable || !conn.made()}, c.broken(ctx, r, err)
	}
	defer drain(resp.Body)
	if resp.StatusCode/100 == 2 || resp.StatusCode == http.StatusSeeOther {
		if err := decode(resp, out); err != nil {
			if _, whole := errors.AsType[*decodeError](err); whole {
				return verdict{}, fmt.Errorf("client: %s: %s answered %s with something else than expected: %w", r.Name, c.root, resp.Status, err)
			}
			return verdict{retry: r.Repeatable}, c.broken(ctx, r, err)
		}
		return verdict{}, nil
	}
	return judge(resp, r.Repeatable), newError(resp, r.Name, sign.creds)
}

// path fills in the route and adds the query.
func (r Request) path() (string, error) {
	var b strings.Builder
	rest, args := r.Route, r.Args
	for {
		literal, after, found := strings.Cut(rest, "<")
		b.WriteString(literal)
		if !found {
			break
		}
		name, tail, _ := strings.Cut(after, ">")
		if len(args) == 0 || args[0] == "" {
			return "", fmt.Errorf("%s is empty", name) // the path would be another method's
		}
		b.WriteString(url.PathEscape(args[0]))
		rest, args = tail, args[1:]
	}
	if len(r.Query) > 0 {
		b.WriteString("?" + r.Query.Encode())
	}
	return b.String(), nil
}

func (c *Client) newRequest(ctx context.Context, verb, path string, body []byte, s *signer) (*http.Request, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	} else if verb == http.MethodGet {
		// http.Transport repeats a GET by itself when a kept connection breaks,
		// and with it the signature. A body that it cannot rewind keeps it from
		// that; being empty, it is not sent.
		reader = struct{ io.Reader }{strings.NewReader("")}
	}
	req, err := http.NewRequestWithContext(ctx, verb, c.root+path, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "taskfleet")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	sign, err := s.sign()
	if err == nil {
		err = sign.Sign(req)
	}
	if err != nil {
		return nil, fmt.Errorf("signing the request: %w", err)
	}
	return req, nil
}

// broken words the failure of an exchange that did not yield an answer.
func (c *Client) broken(ctx context.Context, r Request, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("client: %s: %w", r.Name, context.Cause(ctx))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", c.opts.AttemptTimeout)
	}
	return fmt.Errorf("client: %s: %s %s: %w", r.Name, r.Verb, c.root, err)
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// maxAnswer bounds an answer: far above any page that a server sends.
const maxAnswer = 256 << 20

// A decodeError is an answer that arrived whole but is not what it should be.
type decodeError struct{ error }

func decode(resp *http.Response, out any) error {
	if out == nil {
		return nil
	}
	var buf bytes.Buffer
	if n := resp.ContentLength; n > 0 && n < 1<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return err
	}
	b := buf.Bytes()
	if len(b) > maxAnswer {
		return &decodeError{fmt.Errorf("more than %d bytes", maxAnswer)}
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &decodeError{err}
	}
	return nil
}

// drain reads what is left of a body, if that is little, so that the connection
// can be used again.
func drain(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 256<<10)
	body.Close()
}
