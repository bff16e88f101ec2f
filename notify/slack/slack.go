// Package slack posts messages to channels of a Slack workspace, by the method
// chat.postMessage of its Web API.
//
// One method needs no library: what matters here is what Slack's answers mean
// for a message, and that is in verdict.
package slack

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

// Config is how to reach the workspace.
type Config struct {
	Token notify.Secret `yaml:"token"` // of a bot with the scope chat:write, better also chat:write.public
	URL   string        `yaml:"url"`   // "": https://slack.com/api
}

const defaultURL = "https://slack.com/api"

// Check finds what cannot work. Each mistake begins with the name of the entry.
func (c Config) Check() error {
	var wrong []error
	if c.Token == "" || strings.ContainsAny(string(c.Token), " \r\n\t") {
		wrong = append(wrong, errors.New("token must be the OAuth token of a Slack app's bot, which begins with xoxb-; it is empty or has blanks"))
	}
	if c.URL != "" {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
			wrong = append(wrong, fmt.Errorf("url is %q; it must be the http or https URL of Slack's Web API, or be left out", c.URL))
		}
	}
	return errors.Join(wrong...)
}

// A Sender posts to one workspace.
type Sender struct {
	config Config
	http   *http.Client
}

// New returns a sender, without asking Slack anything. transport may be nil.
func New(c Config, transport http.RoundTripper) (*Sender, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("notify/slack: %w", err)
	}
	if c.URL == "" {
		c.URL = defaultURL
	}
	c.URL = strings.TrimSuffix(c.URL, "/")
	return &Sender{c, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the API has none
	}}, nil
}

type post struct {
	Channel     string          `json:"channel"`
	Text        string          `json:"text"`
	Blocks      json.RawMessage `json:"blocks,omitempty"`
	Attachments json.RawMessage `json:"attachments,omitempty"`
	UnfurlLinks bool            `json:"unfurl_links"`
	UnfurlMedia bool            `json:"unfurl_media"`
}

type answer struct {
	OK       bool   `json:"ok"`
	Error    string `json:"error"`
	Metadata struct {
		Messages []string `json:"messages"`
	} `json:"response_metadata"`
}

// Send posts a message.
func (s *Sender) Send(ctx context.Context, m notify.ChannelMessage) error {
	body, err := json.Marshal(post{m.ChannelID, m.Text, m.Blocks, m.Attachments, m.UnfurlLinks, m.UnfurlMedia})
	if err != nil {
		return &notify.Refusal{Reason: "the message cannot be written as JSON"}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.config.URL+"/chat.postMessage", bytes.NewReader(body))
	if err != nil {
		return s.fault(err.Error())
	}
	r.Header.Set("Authorization", "Bearer "+string(s.config.Token))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := s.http.Do(r)
	if err != nil {
		return s.fault(err.Error())
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 256<<10))
	if err != nil {
		return s.fault("reading the answer: " + err.Error())
	}
	return s.verdict(resp, text)
}

// ours are errors that concern every message: the token's or Slack's own.
// Operators or time can put them right, so messages wait.
var ours = map[string]bool{
	"not_authed": true, "invalid_auth": true, "account_inactive": true, "token_expired": true, "token_revoked": true,
	"no_permission": true, "missing_scope": true, "not_allowed_token_type": true, "org_login_required": true,
	"ekm_access_denied": true, "access_denied": true, "accesslimited": true, "team_access_not_granted": true,
	"team_added_to_org": true, "two_factor_setup_required": true, "enterprise_is_restricted": true,
	"internal_error": true, "fatal_error": true, "service_unavailable": true, "request_timeout": true,
	"method_deprecated": true, "deprecated_endpoint": true,
}

// verdict tells what Slack's answer means for the message.
func (s *Sender) verdict(resp *http.Response, body []byte) error {
	status := resp.StatusCode
	var a answer
	parsed := json.Unmarshal(body, &a) == nil && (a.OK || a.Error != "")
	problem := s.reason(a)
	switch {
	case status == http.StatusTooManyRequests, parsed && (a.Error == "ratelimited" || a.Error == "rate_limited"):
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &notify.Delay{After: time.Duration(seconds) * time.Second, Reason: "Slack limits the rate of messages"}
	case status == http.StatusOK && parsed && a.OK:
		return nil
	case status/100 == 5, parsed && ours[a.Error], !parsed && status == http.StatusOK:
		return s.fault(fmt.Sprintf("Slack answers %d%s", status, problem))
	case parsed && (status == http.StatusOK || status/100 == 4):
		return &notify.Refusal{Reason: "Slack refuses the message" + problem}
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge:
		return &notify.Refusal{Reason: fmt.Sprintf("Slack refuses the message with status %d", status)}
	}
	return s.fault(fmt.Sprintf("Slack answers %d%s", status, problem)) // something between us and Slack
}

var code = regexp.MustCompile(`^[a-z0-9_]{1,80}$`)

// hints say more about errors that callers often meet.
var hints = map[string]string{
	"channel_not_found": "there is no such channel, or it is private and the app is not in it",
	"not_in_channel":    "add the app to the channel first",
	"is_archived":       "the channel is archived",
}

// reason is Slack's error, as far as it is one.
func (s *Sender) reason(a answer) string {
	if !code.MatchString(a.Error) {
		return ""
	}
	text := ": " + a.Error
	if h := hints[a.Error]; h != "" {
		text += " (" + h + ")"
	}
	for i, m := range a.Metadata.Messages {
		if i == 3 {
			break
		}
		text += "; " + m[:min(len(m), 300)]
	}
	return s.config.Token.Scrub(strings.ToValidUTF8(text, "?"))
}

func (s *Sender) fault(text string) error {
	return errors.New("notify/slack: posting to " + s.config.URL + ": " + s.config.Token.Scrub(text))
}
