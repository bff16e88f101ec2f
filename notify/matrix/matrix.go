// Package matrix sends messages to rooms of Matrix, by the client-server API
// of the homeserver that the platform has a user on.
//
// The message's id is the transaction id of the request, by which the server
// knows a repetition. A room that the user is not in yet is joined when the
// first message for it is refused: that works where the user was invited or
// anybody may join, and needs no watching for invitations.
package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/notify"
)

// Config is how to reach the homeserver.
type Config struct {
	URL         string        `yaml:"url"` // of the homeserver: https://matrix.example.com
	AccessToken notify.Secret `yaml:"accessToken"`
}

// Check finds what cannot work. Each mistake begins with the name of the entry.
func (c Config) Check() error {
	var wrong []error
	if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		wrong = append(wrong, errors.New("url must be the http or https URL of a homeserver, as in https://matrix.example.com"))
	}
	if c.AccessToken == "" || strings.ContainsAny(string(c.AccessToken), " \r\n\t") {
		wrong = append(wrong, errors.New("accessToken must be an access token of the user that sends; it is empty or has blanks"))
	}
	return errors.Join(wrong...)
}

// A Sender sends as one user.
type Sender struct {
	config Config
	http   *http.Client
}

// New returns a sender, without asking the homeserver anything. transport may
// be nil.
func New(c Config, transport http.RoundTripper) (*Sender, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("notify/matrix: %w", err)
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	return &Sender{c, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the API has none
	}}, nil
}

type content struct {
	MsgType       string `json:"msgtype"`
	Body          string `json:"body"`
	Format        string `json:"format,omitempty"`
	FormattedBody string `json:"formatted_body,omitempty"`
}

// Send sends a message.
func (s *Sender) Send(ctx context.Context, m notify.RoomMessage) error {
	room := "/_matrix/client/v3/rooms/" + url.PathEscape(m.RoomID)
	path := room + "/send/m.room.message/" + url.PathEscape(m.ID)
	body := content{m.MsgType, m.Body, m.Format, m.FormattedBody}
	err := s.do(ctx, http.MethodPut, path, body)
	if f, ok := errors.AsType[*failure](err); !ok || f.Code != "M_FORBIDDEN" {
		return s.verdict(err)
	}
	if err := s.do(ctx, http.MethodPost, room+"/join", struct{}{}); err != nil {
		if f, ok := errors.AsType[*failure](err); ok && f.Code == "M_FORBIDDEN" {
			return &notify.Refusal{Reason: "the platform's user of Matrix is not in the room; invite it first"}
		}
		return s.verdict(err)
	}
	return s.verdict(s.do(ctx, http.MethodPut, path, body))
}

// A failure is an answer that is not success.
type failure struct {
	status int
	after  time.Duration

	Code    string  `json:"errcode"`
	Message string  `json:"error"`
	AfterMS float64 `json:"retry_after_ms"`
}

func (f *failure) Error() string {
	text := fmt.Sprintf("the homeserver answers %d", f.status)
	if f.Code != "" {
		text += ": " + f.Code
	}
	if f.Message != "" {
		text += " (" + f.Message + ")"
	}
	return text
}

func (s *Sender) do(ctx context.Context, method, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, s.config.URL+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+string(s.config.AccessToken))
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 256<<10))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	f := &failure{status: resp.StatusCode}
	if json.Unmarshal(answer, f) != nil || !code.MatchString(f.Code) {
		f.Code, f.Message, f.AfterMS = "", "", 0 // not the homeserver's: of something before it
	}
	f.Message = strings.ToValidUTF8(f.Message[:min(len(f.Message), 300)], "?")
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		f.after = time.Duration(seconds) * time.Second
	} else if f.AfterMS > 0 && f.AfterMS < 1e9 {
		f.after = time.Duration(f.AfterMS) * time.Millisecond
	}
	return f
}

var code = regexp.MustCompile(`^[A-Za-z0-9_.]{1,100}$`)

// ours are errors that concern every message: the token's, or the user's.
// Operators can put them right, so messages wait.
var ours = map[string]bool{
	"M_UNKNOWN_TOKEN": true, "M_MISSING_TOKEN": true, "M_USER_DEACTIVATED": true, "M_USER_LOCKED": true, "M_USER_SUSPENDED": true,
	"M_UNRECOGNIZED": true, "M_RESOURCE_LIMIT_EXCEEDED": true, "M_CONSENT_NOT_GIVEN": true,
}

// verdict tells what the answer means for the message.
func (s *Sender) verdict(err error) error {
	f, ok := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return nil
	case ok && (f.status == http.StatusTooManyRequests || f.Code == "M_LIMIT_EXCEEDED"):
		return &notify.Delay{After: f.after, Reason: "the homeserver limits the rate of messages"}
	case ok && f.status/100 == 4 && f.Code != "" && !ours[f.Code]:
		return &notify.Refusal{Reason: s.config.AccessToken.Scrub(f.Error())}
	}
	return fmt.Errorf("notify/matrix: sending by %s: %s", s.config.URL, s.config.AccessToken.Scrub(err.Error()))
}
