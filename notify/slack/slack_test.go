package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/notify"
)

const token = "xoxb-0123-very-secret"

// A workspace is Slack's Web API as far as chat.postMessage goes, with
// behaviour: tokens, channels that the bot is in or not, and trouble.
type workspace struct {
	*httptest.Server
	mu       sync.Mutex
	channels map[string]bool // whether the bot is in it
	posts    []map[string]any
	trouble  func(http.ResponseWriter) bool // answers in place of Slack
}

func open(t *testing.T) *workspace {
	t.Helper()
	w := &workspace{channels: map[string]bool{"C1": true, "CPRIVATE": false}}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *workspace) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trouble != nil && w.trouble(rw) {
		return
	}
	say := func(v map[string]any) {
		rw.Header().Set("Content-Type", "application/json")
		json.NewEncoder(rw).Encode(v) // a client that is gone is not interested
	}
	var post map[string]any
	in, known := false, false
	switch err := json.NewDecoder(r.Body).Decode(&post); {
	case r.Method != "POST" || r.URL.Path != "/api/chat.postMessage":
		rw.WriteHeader(404)
		return
	case r.Header.Get("Authorization") == "":
		say(map[string]any{"ok": false, "error": "not_authed"})
		return
	case r.Header.Get("Authorization") != "Bearer "+token:
		say(map[string]any{"ok": false, "error": "invalid_auth"})
		return
	case err != nil:
		say(map[string]any{"ok": false, "error": "invalid_json"})
		return
	}
	if in, known = w.channels[post["channel"].(string)]; !known || !in {
		code := "channel_not_found"
		if known {
			code = "not_in_channel"
		}
		say(map[string]any{"ok": false, "error": code})
		return
	}
	if blocks, ok := post["blocks"].([]any); ok {
		for i, b := range blocks {
			if o, ok := b.(map[string]any); !ok || o["type"] == nil {
				say(map[string]any{"ok": false, "error": "invalid_blocks", "response_metadata": map[string]any{"messages": []string{fmt.Sprintf("[ERROR] missing required field: type [json-pointer:/blocks/%d]", i)}}})
				return
			}
		}
	}
	w.posts = append(w.posts, post)
	say(map[string]any{"ok": true, "channel": post["channel"], "ts": "1503435956.000247"})
}

func (w *workspace) sender(t *testing.T, token notify.Secret) *Sender {
	t.Helper()
	s, err := New(Config{Token: token, URL: w.URL + "/api/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func about(err error) string {
	if _, ok := errors.AsType[*notify.Refusal](err); ok {
		return "message"
	}
	if _, ok := errors.AsType[*notify.Delay](err); ok {
		return "address"
	}
	return "service"
}

func TestAMessageIsPosted(t *testing.T) {
	w := open(t)
	err := w.sender(t, token).Send(t.Context(), notify.ChannelMessage{
		ChannelID: "C1", Text: "done & <dusted>", Blocks: json.RawMessage(`[{"type":"divider"}]`), Attachments: json.RawMessage(`[{"color":"#f00"}]`), UnfurlLinks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.sender(t, token).Send(t.Context(), notify.ChannelMessage{ChannelID: "C1", Text: "plain"}); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(w.posts)
	want := `[{"attachments":[{"color":"#f00"}],"blocks":[{"type":"divider"}],"channel":"C1","text":"done \u0026 \u003cdusted\u003e","unfurl_links":true,"unfurl_media":false},` +
		`{"channel":"C1","text":"plain","unfurl_links":false,"unfurl_media":false}]`
	if string(got) != want {
		t.Errorf("posted %s, want %s", got, want)
	}
}

func TestWhatSlackAnswersDecides(t *testing.T) {
	answer := func(status int, header, body string) func(http.ResponseWriter) bool {
		return func(rw http.ResponseWriter) bool {
			if name, value, ok := strings.Cut(header, ": "); ok {
				rw.Header().Set(name, value)
			}
			rw.WriteHeader(status)
			rw.Write([]byte(body))
			return true
		}
	}
	for _, c := range []struct {
		name    string
		token   notify.Secret
		channel string
		blocks  string
		trouble func(http.ResponseWriter) bool
		about   string
		text    string
	}{
		{name: "bad token", token: "xoxb-bad", about: "service", text: "invalid_auth"},
		{name: "unknown channel", channel: "C2", about: "message", text: "channel_not_found (there is no such channel"},
		{name: "not in the channel", channel: "CPRIVATE", about: "message", text: "add the app to the channel"},
		{name: "bad blocks", blocks: `[{}]`, about: "message", text: "json-pointer:/blocks/0"},
		{name: "rate limit", trouble: answer(429, "Retry-After: 30", `{"ok":false,"error":"ratelimited"}`), about: "address"},
		{name: "rate limit said with 200", trouble: answer(200, "", `{"ok":false,"error":"ratelimited"}`), about: "address"},
		{name: "server error", trouble: answer(500, "", ``), about: "service", text: "500"},
		{name: "no gateway", trouble: answer(503, "", `<html>`), about: "service", text: "503"},
		{name: "internal error", trouble: answer(200, "", `{"ok":false,"error":"internal_error"}`), about: "service", text: "internal_error"},
		{name: "revoked", trouble: answer(200, "", `{"ok":false,"error":"token_revoked"}`), about: "service", text: "token_revoked"},
		{name: "no JSON", trouble: answer(200, "", `hello`), about: "service"},
		{name: "too large", trouble: answer(413, "", ``), about: "message", text: "413"},
		{name: "proxy wants authentication", trouble: answer(407, "", `<html>`), about: "service", text: "407"},
		{name: "redirect", trouble: answer(302, "Location: http://127.0.0.1:1/", ``), about: "service", text: "302"},
		{name: "strange error", trouble: answer(200, "", `{"ok":false,"error":"<b>\n"}`), about: "message", text: "refuses the message"},
		{name: "the token comes back", trouble: answer(200, "", `{"ok":false,"error":"invalid_arguments","response_metadata":{"messages":["you sent `+token+`"]}}`), about: "message", text: "you sent (hidden)"},
	} {
		w := open(t)
		w.trouble = c.trouble
		if c.token == "" {
			c.token = token
		}
		if c.channel == "" {
			c.channel = "C1"
		}
		err := w.sender(t, c.token).Send(t.Context(), notify.ChannelMessage{ChannelID: c.channel, Text: "x", Blocks: json.RawMessage(c.blocks)})
		if err == nil || about(err) != c.about || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v is about the %s, want %s and %q", c.name, err, about(err), c.about, c.text)
			continue
		}
		if strings.Contains(err.Error(), string(c.token)) {
			t.Errorf("%s: the token is in the error: %v", c.name, err)
		}
		if d, ok := errors.AsType[*notify.Delay](err); ok && c.name == "rate limit" && d.After != 30*time.Second {
			t.Errorf("wait %v", d.After)
		}
	}
}

func TestSlackOutOfReachIsAnErrorOfTheService(t *testing.T) {
	w := open(t)
	s := w.sender(t, token)
	hang := make(chan struct{})
	defer close(hang)
	w.trouble = func(http.ResponseWriter) bool { <-hang; return true }
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := s.Send(ctx, notify.ChannelMessage{ChannelID: "C1"}); err == nil || about(err) != "service" {
		t.Errorf("hanging: %v", err)
	}
	s.config.URL = "http://127.0.0.1:1/api"
	if err := s.Send(t.Context(), notify.ChannelMessage{ChannelID: "C1"}); err == nil || about(err) != "service" || strings.Contains(err.Error(), token) {
		t.Errorf("refused: %v", err)
	}
}

func TestMistakesOfTheConfigurationAreExplained(t *testing.T) {
	for want, c := range map[string]Config{"token must": {}, "blanks": {Token: "x y"}, "url is": {Token: "x", URL: "slack.com"}} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := Config{Token: token}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, token) {
		t.Errorf("printed: %s", text)
	}
}
