package stored

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

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// A slack is one in memory, as its two methods are described.
type slack struct {
	mu     sync.Mutex
	tokens map[string]bool
	status int // answered instead
}

func (s *slack) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := httptest.NewRecorder()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case s.status != 0:
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(s.status)
	case r.URL.Host != "slack.com" || r.Method != http.MethodPost:
		w.WriteHeader(http.StatusNotFound)
	case !s.tokens[token]:
		fmt.Fprint(w, `{"ok":false,"error":"invalid_auth"}`)
	case r.URL.Path == "/api/auth.test":
		fmt.Fprint(w, `{"ok":true,"team":"T"}`)
	case r.URL.Path == "/api/auth.revoke":
		delete(s.tokens, token)
		fmt.Fprint(w, `{"ok":true,"revoked":true}`)
	}
	return w.Result(), nil
}

// mint is what a person does on Slack's pages.
func (s *slack) mint() json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := "xoxb-" + slugid.New()
	s.tokens[token] = true
	return json.RawMessage(`{"token":"` + token + `"}`)
}

func (s *slack) works(_ context.Context, secret json.RawMessage) error {
	has, err := texts(secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !s.tokens[has["token"]] {
		err = errors.New("invalid_auth")
	}
	return err
}

func TestWhatIsSuppliedRotates(t *testing.T) {
	rotatortest.Run(t, func(*testing.T, *store.DB) rotatortest.Subject {
		s := &slack{tokens: map[string]bool{}}
		return rotatortest.Subject{
			Kind: Kind{s}, Settings: `{"place":"Slack","prove":"slack","slack":{"revoke":true}}`, Works: s.works, Supply: s.mint, Slow: true,
			Forget: func(context.Context, credentials.Version) error { clear(s.tokens); return nil },
		}
	})
}

func version(settings, secret string) credentials.Version {
	return credentials.Version{ID: "v1", Credential: "c", Settings: json.RawMessage(settings), Secret: json.RawMessage(secret)}
}

func TestSlackSaysNo(t *testing.T) {
	s := &slack{tokens: map[string]bool{}}
	good := version(`{"place":"Slack","prove":"slack"}`, string(s.mint()))
	k := Kind{s}
	if err := k.Prove(t.Context(), good); err != nil {
		t.Error(err)
	}
	if err := k.Prove(t.Context(), version(`{"place":"Slack","prove":"slack"}`, `{"token":"xoxb-hunter2"}`)); err == nil || !strings.Contains(err.Error(), "invalid_auth") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a wrong token: %v", err)
	}
	if err := k.Retire(t.Context(), good); err != nil || len(s.tokens) != 1 {
		t.Errorf("without revoke it was ended: %v", err)
	}
	s.status = http.StatusTooManyRequests
	if err := k.Prove(t.Context(), good); err == nil || !strings.Contains(err.Error(), "429") {
		t.Errorf("too many requests: %v", err)
	}
}

func TestATokenIsTriedByHTTP(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer right":
			w.WriteHeader(http.StatusNoContent)
		case "Bearer moved":
			http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	settings := `{"place":"a shop","prove":"http","http":{"url":"` + server.URL + `/me","member":"key","status":204}}`
	for key, says := range map[string]string{"right": "", "hunter2": "401", "moved": "302"} {
		err := Kind{}.Prove(t.Context(), version(settings, `{"key":"`+key+`"}`))
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestWhatIsSuppliedIsLookedAt(t *testing.T) {
	settings := json.RawMessage(`{"place":"a mail service","prove":"smtp","smtp":{"host":"mail.example.com"},"members":["account"]}`)
	for secret, says := range map[string]string{
		`{"username":"u","password":"p","account":"1"}`:         "",
		`{"username":"u","password":"p"}`:                       `"account"`,
		`{"username":"u","password":"hunter2\n","account":"1"}`: "the end of a line",
		`{"username":"u","password":7,"account":"1"}`:           `"password" that is a text`,
		`"hunter2"`: "JSON object",
	} {
		_, err := Kind{}.Mint(t.Context(), credentials.Order{Settings: settings, Seed: []byte(secret)})
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", secret, err)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:                            "place must say",
		`{"place":"x"}`:                 `prove is ""`,
		`{"place":"x","prove":"magic"}`: `prove is "magic"`,
		`{"place":"x","prove":"smtp"}`:  "smtp must say",
		`{"place":"x","prove":"none","http":{"url":"https://a"}}`:            "of no use",
		`{"place":"x","prove":"http","http":{"url":"http://example.com/"}}`:  "https URL",
		`{"place":"x","prove":"smtp","smtp":{"host":"a:25"}}`:                "without a port",
		`{"place":"x","prove":"smtp","smtp":{"host":"a","security":"none"}}`: "starttls or tls",
		`{"place":"x","prove":"none","expires":"soon"}`:                      "2027-01-31",
		`{"place":"x","prove":"none","password":"hunter2"}`:                  "unknown field",
	} {
		if _, err := (Kind{}).Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	at := Kind{}.Supplied(json.RawMessage(`{"place":"x","prove":"none","expires":"2027-01-31"}`))
	if at != time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC) {
		t.Errorf("it expires at %s", at)
	}
}
