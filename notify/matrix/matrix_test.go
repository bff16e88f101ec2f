package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/notify"
)

const (
	token   = "syt_very_secret"
	open    = "!public:example.org"  // anybody may join
	invited = "!invited:example.org" // the user is
	shut    = "!private:example.org" // it is not
)

// A homeserver is Matrix's client-server API as far as sending goes, with
// behaviour: tokens, rooms, membership, transaction ids, and trouble.
type homeserver struct {
	*httptest.Server
	mu      sync.Mutex
	member  map[string]bool
	done    map[string]bool // transactions
	events  []string
	joins   int
	trouble func(http.ResponseWriter) bool // answers in place of the homeserver
}

func start(t *testing.T) *homeserver {
	t.Helper()
	h := &homeserver{member: map[string]bool{}, done: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /_matrix/client/v3/rooms/{room}/send/{type}/{txn}", h.send)
	mux.HandleFunc("POST /_matrix/client/v3/rooms/{room}/join", h.join)
	h.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case h.trouble != nil && h.trouble(rw):
		case r.Header.Get("Authorization") != "Bearer "+token:
			say(rw, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`)
		default:
			mux.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func say(rw http.ResponseWriter, status int, body string) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	rw.Write([]byte(body))
}

func (h *homeserver) send(rw http.ResponseWriter, r *http.Request) {
	room := r.PathValue("room")
	if !h.member[room] {
		say(rw, 403, `{"errcode":"M_FORBIDDEN","error":"User not in room"}`)
		return
	}
	var content map[string]any
	if err := json.NewDecoder(r.Body).Decode(&content); err != nil || r.PathValue("type") != "m.room.message" {
		say(rw, 400, `{"errcode":"M_BAD_JSON","error":"bad"}`)
		return
	}
	if txn := r.PathValue("txn"); !h.done[txn] {
		h.done[txn] = true
		b, _ := json.Marshal(content)
		h.events = append(h.events, room+" "+string(b))
	}
	say(rw, 200, `{"event_id":"$x"}`)
}

func (h *homeserver) join(rw http.ResponseWriter, r *http.Request) {
	h.joins++
	switch room := r.PathValue("room"); room {
	case open, invited:
		h.member[room] = true
		say(rw, 200, `{"room_id":"`+room+`"}`)
	case shut:
		say(rw, 403, `{"errcode":"M_FORBIDDEN","error":"You are not invited to this room."}`)
	default:
		say(rw, 404, `{"errcode":"M_NOT_FOUND","error":"No known servers"}`)
	}
}

func (h *homeserver) sender(t *testing.T, token notify.Secret) *Sender {
	t.Helper()
	s, err := New(Config{URL: h.URL + "/", AccessToken: token}, nil)
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

func TestARoomIsJoinedWithTheFirstMessage(t *testing.T) {
	h := start(t)
	s := h.sender(t, token)
	for i, room := range []string{invited, invited, open} {
		if err := s.Send(t.Context(), notify.RoomMessage{ID: fmt.Sprint(i), RoomID: room, Body: "done", MsgType: "m.notice", Format: "org.matrix.custom.html", FormattedBody: "<b>done</b>"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Send(t.Context(), notify.RoomMessage{ID: "3", RoomID: invited, Body: "plain", MsgType: "m.text"}); err != nil {
		t.Fatal(err)
	}
	const rich = ` {"body":"done","format":"org.matrix.custom.html","formatted_body":"\u003cb\u003edone\u003c/b\u003e","msgtype":"m.notice"}`
	if want := []string{invited + rich, invited + rich, open + rich, invited + ` {"body":"plain","msgtype":"m.text"}`}; !slices.Equal(h.events, want) || h.joins != 2 {
		t.Errorf("%d joins, events %q, want %q", h.joins, h.events, want)
	}
}

func TestARepetitionIsKnownByItsTransaction(t *testing.T) {
	h := start(t)
	s := h.sender(t, token)
	for range 3 {
		if err := s.Send(t.Context(), notify.RoomMessage{ID: "same/id", RoomID: invited, Body: "done", MsgType: "m.notice"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.events) != 1 {
		t.Errorf("events: %q", h.events)
	}
}

func TestWhatTheHomeserverAnswersDecides(t *testing.T) {
	answer := func(status int, header, body string) func(http.ResponseWriter) bool {
		return func(rw http.ResponseWriter) bool {
			if name, value, ok := strings.Cut(header, ": "); ok {
				rw.Header().Set(name, value)
			}
			say(rw, status, body)
			return true
		}
	}
	for _, c := range []struct {
		name    string
		token   notify.Secret
		room    string
		trouble func(http.ResponseWriter) bool
		about   string
		text    string
		after   time.Duration
	}{
		{name: "not invited", room: shut, about: "message", text: "invite it first"},
		{name: "unknown room", room: "!nowhere:example.org", about: "message", text: "M_NOT_FOUND"},
		{name: "a room like a path", room: "!../../admin?x=#", about: "message", text: "M_NOT_FOUND"},
		{name: "bad token", token: "bad", about: "service", text: "M_UNKNOWN_TOKEN"},
		{name: "rate limit", trouble: answer(429, "", `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many","retry_after_ms":2500}`), about: "address", after: 2500 * time.Millisecond},
		{name: "rate limit by header", trouble: answer(429, "Retry-After: 7", `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many","retry_after_ms":1}`), about: "address", after: 7 * time.Second},
		{name: "rate limit of a proxy", trouble: answer(429, "", `<html>`), about: "address"},
		{name: "too large", trouble: answer(413, "", `{"errcode":"M_TOO_LARGE","error":"event too large"}`), about: "message", text: "M_TOO_LARGE"},
		{name: "deactivated", trouble: answer(403, "", `{"errcode":"M_USER_DEACTIVATED","error":"gone"}`), about: "service", text: "M_USER_DEACTIVATED"},
		{name: "server error", trouble: answer(500, "", `{"errcode":"M_UNKNOWN","error":"Internal server error"}`), about: "service", text: "500"},
		{name: "no gateway", trouble: answer(502, "", `<html>`), about: "service", text: "502"},
		{name: "forbidden by a proxy", trouble: answer(403, "", `<html>`), about: "service", text: "403"},
		{name: "not a homeserver", trouble: answer(404, "", `nothing here`), about: "service", text: "404"},
		{name: "redirect", trouble: answer(302, "Location: http://127.0.0.1:1/", ``), about: "service", text: "302"},
		{name: "the token comes back", trouble: answer(400, "", `{"errcode":"M_BAD_JSON","error":"you are `+token+`"}`), about: "message", text: "you are (hidden)"},
	} {
		h := start(t)
		h.trouble = c.trouble
		if c.token == "" {
			c.token = token
		}
		if c.room == "" {
			c.room = invited
		}
		err := h.sender(t, c.token).Send(t.Context(), notify.RoomMessage{ID: "1", RoomID: c.room, Body: "x", MsgType: "m.text"})
		if err == nil || about(err) != c.about || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v is about the %s, want %s and %q", c.name, err, about(err), c.about, c.text)
			continue
		}
		if strings.Contains(err.Error(), token) {
			t.Errorf("%s: the token is in the error: %v", c.name, err)
		}
		if d, ok := errors.AsType[*notify.Delay](err); ok && d.After != c.after {
			t.Errorf("%s: wait %v, want %v", c.name, d.After, c.after)
		}
	}
}

func TestAHomeserverOutOfReachIsAnErrorOfTheService(t *testing.T) {
	s, err := New(Config{URL: "http://127.0.0.1:1", AccessToken: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(t.Context(), notify.RoomMessage{ID: "1", RoomID: invited}); err == nil || about(err) != "service" || strings.Contains(err.Error(), token) {
		t.Errorf("%v", err)
	}
}

func TestMistakesOfTheConfigurationAreExplained(t *testing.T) {
	good := Config{URL: "https://matrix.example.com", AccessToken: token}
	for want, c := range map[string]Config{"url must": {AccessToken: "x"}, "accessToken must": {URL: good.URL}, "blanks": {URL: good.URL, AccessToken: "a b"}} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", good, good, good); strings.Contains(text, token) {
		t.Errorf("printed: %s", text)
	}
}
