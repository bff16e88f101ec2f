package stored

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/credentials"
)

// A Slack is how a token of Slack is tried: by auth.test.
type Slack struct {
	URL    string `json:"url"`    // https://slack.com/api where it is empty
	Revoke bool   `json:"revoke"` // the old token is ended by auth.revoke
}

// An HTTP is how a token is tried that is sent as a bearer token.
type HTTP struct {
	URL    string `json:"url"`
	Member string `json:"member"` // of the secret that is the token; token where it is empty
	Status int    `json:"status"` // that is expected; 200 where it is 0
}

const maxReply = 64 << 10 // bytes

// checkURL keeps tokens from being sent in the clear.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return errors.New("url must be an https URL without credentials")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// send makes a request with a token. Errors do not have it: it is in a header.
func send(ctx context.Context, transport http.RoundTripper, verb, url, token string) (status int, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, verb, url, nil)
	if err != nil {
		return 0, nil, credentials.Refused("the url cannot be used")
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept", "application/json")
	c := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	return resp.StatusCode, body, err
}

func (h *HTTP) check() ([]string, error) {
	h.Member, h.Status = cmp.Or(h.Member, "token"), cmp.Or(h.Status, http.StatusOK)
	if h.Status < 200 || h.Status > 599 {
		return nil, fmt.Errorf("status is %d; it must be from 200 to 599", h.Status)
	}
	return []string{h.Member}, checkURL(h.URL)
}

func (h *HTTP) prove(ctx context.Context, transport http.RoundTripper, secret map[string]string) error {
	status, _, err := send(ctx, transport, http.MethodGet, h.URL, secret[h.Member])
	switch {
	case err != nil:
		return err
	case status == h.Status:
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return credentials.Refused("%s says %d %s", h.URL, status, http.StatusText(status))
	}
	return fmt.Errorf("%s says %d %s, not %d", h.URL, status, http.StatusText(status), h.Status)
}

func (*HTTP) retire(context.Context, http.RoundTripper, map[string]string) error { return nil }

func (s *Slack) check() ([]string, error) {
	s.URL = strings.TrimSuffix(cmp.Or(s.URL, "https://slack.com/api"), "/")
	return []string{"token"}, checkURL(s.URL)
}

// dead is what Slack says of a token that is none, or none any more.
var dead = []string{"invalid_auth", "account_inactive", "token_revoked", "token_expired", "not_authed"}

// call calls a method. What Slack says against it is a word of its own.
func (s *Slack) call(ctx context.Context, transport http.RoundTripper, method, token string) (word string, err error) {
	status, body, err := send(ctx, transport, http.MethodPost, s.URL+"/"+method, token)
	if err != nil {
		return "", err
	}
	var reply struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	switch {
	case status != http.StatusOK:
		return "", fmt.Errorf("%s of Slack says %d %s", method, status, http.StatusText(status))
	case json.Unmarshal(body, &reply) != nil:
		return "", fmt.Errorf("%s of Slack has not answered in JSON", method)
	case reply.OK:
		return "", nil
	case reply.Error == "" || strings.ContainsFunc(reply.Error, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }):
		return "", fmt.Errorf("%s of Slack has failed without a reason", method)
	}
	return reply.Error, nil
}

func (s *Slack) prove(ctx context.Context, transport http.RoundTripper, secret map[string]string) error {
	word, err := s.call(ctx, transport, "auth.test", secret["token"])
	switch {
	case err != nil || word == "":
		return err
	case slices.Contains(dead, word):
		return credentials.Refused("auth.test of Slack says %s", word)
	}
	return fmt.Errorf("auth.test of Slack says %s", word)
}

func (s *Slack) retire(ctx context.Context, transport http.RoundTripper, secret map[string]string) error {
	if !s.Revoke || secret["token"] == "" {
		return nil
	}
	word, err := s.call(ctx, transport, "auth.revoke", secret["token"])
	if err != nil || word == "" || slices.Contains(dead, word) {
		return err
	}
	return fmt.Errorf("auth.revoke of Slack says %s", word)
}
