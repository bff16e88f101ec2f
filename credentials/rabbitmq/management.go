package rabbitmq

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/pace"
	"github.com/taskfleet/taskfleet/plain"
)

// A management is the management API of a broker.
type management struct {
	at       *url.URL
	name     string
	password string
	tls      *tls.Config
	client   http.Client
	close    func()
}

const (
	requestLimit = time.Minute // of one request, with what it has to wait
	loginLimit   = 20 * time.Second
	pageSize     = 200
	mostPages    = 1000
)

// errNotThere is that a user is none.
var errNotThere = errors.New("there is no such user")

// open reads the settings, and what they name.
func (k Kind) open(settings json.RawMessage) (s Settings, m *management, err error) {
	if s, err = parse(settings); err != nil {
		return s, nil, credentials.Refused("%w", err)
	}
	m = &management{at: s.management, name: s.rotator.Username(), close: func() {}}
	m.password, _ = s.rotator.Password()
	if s.PasswordFile != "" {
		text, err := os.ReadFile(s.PasswordFile)
		if err != nil {
			return s, nil, fmt.Errorf("passwordFile: %w", err)
		}
		m.password = strings.TrimRight(string(text), "\r\n")
	}
	base := k.Transport
	if s.CAFile != "" {
		text, err := os.ReadFile(s.CAFile)
		if err != nil {
			return s, nil, fmt.Errorf("caFile: %w", err)
		}
		m.tls = &tls.Config{RootCAs: x509.NewCertPool()}
		if !m.tls.RootCAs.AppendCertsFromPEM(text) {
			return s, nil, credentials.Refused("caFile: %s has no certificate in PEM", s.CAFile)
		}
		if base == nil {
			own := http.DefaultTransport.(*http.Transport).Clone()
			own.TLSClientConfig = m.tls.Clone()
			base, m.close = own, own.CloseIdleConnections
		}
	}
	m.client = http.Client{
		Transport:     &pace.Transport{Base: base},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, m, nil
}

// A failure is an answer that is none of the wanted.
type failure struct {
	status int
	reason string
}

func (f *failure) Error() string {
	text := fmt.Sprintf("the management API answers %d %s", f.status, http.StatusText(f.status))
	if f.reason != "" {
		text += ": " + f.reason
	}
	switch f.status {
	case http.StatusUnauthorized:
		text += "; are the user and the password of url right, and has the user the tag administrator?"
	case http.StatusForbidden:
		text += "; has the user of url the tag administrator?"
	}
	return text
}

// do makes a request. What a broker says of one that holds a secret is not repeated.
func (m *management) do(ctx context.Context, verb, path string, query url.Values, in, out any, secret bool) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, stop := context.WithTimeout(ctx, requestLimit)
	defer stop()
	u, err := url.Parse(m.at.String() + "/api" + path)
	if err != nil {
		return err
	}
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, verb, u.String(), body)
	if err != nil {
		return err
	}
	r.SetBasicAuth(m.name, m.password)
	r.Header.Set("Accept", "*/*") // to set a limit has no answer, and one in JSON is refused
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if verb == http.MethodDelete {
		r.Header.Set("X-Reason", "the credential was rotated")
	}
	answer, err := m.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch status := answer.StatusCode; {
	case status/100 == 2:
	case status == http.StatusNotFound:
		return errNotThere
	default:
		f := &failure{status: status}
		var says struct{ Reason json.RawMessage }
		var reason string
		if !secret && json.Unmarshal(text, &says) == nil && json.Unmarshal(says.Reason, &reason) == nil {
			f.reason = m.plain(reason)
		}
		if status/100 == 4 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests {
			return credentials.Refused("%w", f)
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return errors.New("what the management API answers cannot be read; is url that of the management API?")
	}
	return nil
}

// plain is a line of what somebody else has written; nothing, if he repeats what only
// we should know.
func (m *management) plain(text string) string {
	if strings.Contains(text, m.password) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(m.name+":"+m.password))) {
		return ""
	}
	return plain.Words(text, 200)
}

func path(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

// pages asks for all of a list. A server that knows no pages of it gives all at once.
func pages[T any](ctx context.Context, m *management, at string, query url.Values) (all []T, err error) {
	query.Set("page_size", strconv.Itoa(pageSize))
	query.Set("pagination", "true")
	for page := 1; ; page++ {
		query.Set("page", strconv.Itoa(page))
		var text json.RawMessage
		err := m.do(ctx, http.MethodGet, at, query, nil, &text, false)
		if f, ok := errors.AsType[*failure](err); ok && f.status == http.StatusBadRequest && page > 1 {
			return all, nil // the list has become shorter meanwhile
		} else if err != nil {
			return nil, err
		}
		var list []T
		if json.Unmarshal(text, &list) == nil {
			return list, nil
		}
		var part struct {
			Items     *[]T `json:"items"`
			PageCount int  `json:"page_count"`
		}
		if json.Unmarshal(text, &part) != nil || part.Items == nil {
			return nil, errors.New("a list that the management API answers cannot be read")
		}
		all = append(all, *part.Items...)
		switch {
		case page >= part.PageCount:
			return all, nil
		case page == mostPages:
			return nil, fmt.Errorf("a list that the management API answers has no end: %d pages", page)
		}
	}
}

// A user is one as the API shows it.
type user struct {
	Name string `json:"name"`
	Tags tags   `json:"tags"`
}

// tags are a list, and in older brokers a text with commas.
type tags []string

func (t *tags) UnmarshalJSON(text []byte) error {
	var list []string
	if json.Unmarshal(text, &list) == nil {
		*t = list
		return nil
	}
	var one string
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*t = strings.FieldsFunc(one, func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}

func (m *management) user(ctx context.Context, name string) (u user, err error) {
	err = m.do(ctx, http.MethodGet, path("users", name), nil, nil, &u, false)
	return u, err
}

func (m *management) users(ctx context.Context) ([]user, error) {
	return pages[user](ctx, m, "/users", url.Values{"columns": {"name,tags"}, "sort": {"name"}})
}

// putUser makes a user, or changes it. Without a hash it cannot log in.
func (m *management) putUser(ctx context.Context, name, hash string, list []string) error {
	slices.Sort(list)
	in := map[string]string{"password_hash": hash, "hashing_algorithm": hashing, "tags": strings.Join(slices.Compact(list), ",")}
	return m.do(ctx, http.MethodPut, path("users", name), nil, in, nil, true)
}

func (m *management) deleteUser(ctx context.Context, name string) error {
	return m.do(ctx, http.MethodDelete, path("users", name), nil, nil, nil, false)
}

// allow gives a user what the settings say, and takes away what they do not.
func (m *management) allow(ctx context.Context, name string, s Settings) error {
	for _, host := range s.hosts() {
		if err := m.do(ctx, http.MethodPut, path("permissions", host, name), nil, s.Permissions[host], nil, false); err != nil {
			return there(err, host)
		}
	}
	if err := m.forbid(ctx, name, s.hosts()); err != nil {
		return err
	}
	for _, host := range s.hosts() {
		for _, t := range s.topics(host) {
			in := map[string]string{"exchange": t.Exchange, "write": t.Write, "read": t.Read}
			if err := m.do(ctx, http.MethodPut, path("topic-permissions", host, name), nil, in, nil, false); err != nil {
				return there(err, host)
			}
		}
	}
	for limit, n := range map[string]*int{"max-connections": s.Limits.MaxConnections, "max-channels": s.Limits.MaxChannels} {
		if n == nil {
			continue
		}
		if err := m.do(ctx, http.MethodPut, path("user-limits", name, limit), nil, map[string]int{"value": *n}, nil, false); err != nil {
			return fmt.Errorf("the limit %s: %w", limit, err)
		}
	}
	return nil
}

// there says of an error that it is the virtual host which is not there: the user is.
func there(err error, host string) error {
	if errors.Is(err, errNotThere) {
		return credentials.Refused("there is no virtual host %q", host)
	}
	return fmt.Errorf("in the virtual host %q: %w", host, err)
}

// forbid takes a user's permissions in virtual hosts other than some, and all that he has
// for topics.
func (m *management) forbid(ctx context.Context, name string, but []string) error {
	for _, what := range []string{"permissions", "topic-permissions"} {
		var list []struct {
			VHost string `json:"vhost"`
		}
		if err := m.do(ctx, http.MethodGet, path("users", name, what), nil, nil, &list, false); err != nil {
			return err
		}
		done := map[string]bool{}
		for _, p := range list {
			if done[p.VHost] || what == "permissions" && slices.Contains(but, p.VHost) {
				continue
			}
			done[p.VHost] = true
			if err := m.do(ctx, http.MethodDelete, path(what, p.VHost, name), nil, nil, nil, false); err != nil && !errors.Is(err, errNotThere) {
				return fmt.Errorf("in the virtual host %q: %w", p.VHost, err)
			}
		}
	}
	return nil
}

// connected tells whether a user has a connection.
func (m *management) connected(ctx context.Context, name string) (bool, error) {
	list, err := pages[struct {
		User string `json:"user"`
	}](ctx, m, path("connections", "username", name), url.Values{"columns": {"user"}})
	if errors.Is(err, errNotThere) {
		return false, nil
	}
	return len(list) > 0, err
}

// disconnect closes all connections of a user.
func (m *management) disconnect(ctx context.Context, name string) error {
	err := m.do(ctx, http.MethodDelete, path("connections", "username", name), nil, nil, nil, false)
	if errors.Is(err, errNotThere) {
		return nil
	}
	return err
}

// whoAmI is whom the API takes somebody for.
func (m *management) whoAmI(ctx context.Context, name, password string) (string, error) {
	as := *m
	as.name, as.password = name, password
	var out struct{ Name string }
	err := as.do(ctx, http.MethodGet, "/whoami", nil, nil, &out, false)
	return out.Name, err
}

// connect opens a connection and a channel, as a consumer would.
func connect(ctx context.Context, at string, trust *tls.Config) error {
	ctx, stop := context.WithTimeout(ctx, loginLimit)
	defer stop()
	var closing func() bool
	conn, err := amqp.DialConfig(at, amqp.Config{
		TLSClientConfig: trust,
		Properties:      amqp.Table{"connection_name": "taskfleet, which tries a new credential"},
		Dial: func(network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				closing = context.AfterFunc(ctx, func() { conn.Close() })
			}
			return conn, err
		},
	})
	if closing != nil {
		defer closing()
	}
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	return channel.Close()
}
