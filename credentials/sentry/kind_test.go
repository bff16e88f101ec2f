package sentry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/store"
)

func kindOf(t *testing.T, fake *sentryfake.Server) Kind {
	t.Helper()
	c, err := sentryapi.New(sentryapi.Config{URL: fake.URL(), Organization: fake.Organization(), Token: fake.Token(), Transport: fake})
	if err != nil {
		t.Fatal(err)
	}
	return Kind{Client: c}
}

func TestSentryKeysRotate(t *testing.T) {
	var projects atomic.Int64
	fake := sentryfake.New(sentryfake.Options{PageSize: 1, Skew: 40 * time.Minute})
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		project := fmt.Sprintf("queue-%d", projects.Add(1))
		fake.AddProject("builds", project)
		k := kindOf(t, fake)
		return rotatortest.Subject{Kind: k, Settings: fmt.Sprintf(`{"project":%q}`, project), Slow: true,
			Works: func(ctx context.Context, text json.RawMessage) error {
				var s kindSecret
				if err := json.Unmarshal(text, &s); err != nil {
					return err
				}
				return k.Client.Try(ctx, s.DSN)
			}}
	})
}

const anID, settings = "Zk1Vd3vFQ5C4q0eF0bzVYw", `{"project":"queue","lifetime":"30d","rateLimit":{"count":100,"window":60}}`

func TestAKeyIsMintedProvedAndEnded(t *testing.T) {
	fake := sentryfake.New(sentryfake.Options{PageSize: 2})
	fake.AddProject("builds", "queue")
	k, ctx := kindOf(t, fake), t.Context()
	o := credentials.Order{Credential: "dsn", Settings: json.RawMessage(settings), ID: anID}

	fake.Fail(sentryfake.Fault{Method: "POST", Path: "/keys/", Status: 500, After: true, Times: 1})
	if _, err := k.Mint(ctx, o); err == nil {
		t.Fatal("the answer was an error")
	}
	m, err := k.Mint(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	keys := fake.Keys("queue")
	if len(keys) != 2 || keys[1].Count != 100 || keys[1].Window != 60 || !strings.HasPrefix(keys[1].Name, "taskfleet managed (expires-at:20") || !strings.HasSuffix(keys[1].Name, ") "+anID) {
		t.Errorf("there are %d keys, the last of which is %+v", len(keys), keys[len(keys)-1].Name)
	}
	v := credentials.Version{ID: anID, Credential: "dsn", Settings: o.Settings, Public: m.Public, Secret: m.Secret}
	if err := k.Prove(ctx, v); err != nil {
		t.Error(err)
	}
	if at, err := k.Used(ctx, v); err != nil || !at.IsZero() {
		t.Errorf("the proof was a use: %v, %v", at, err)
	}
	send(t, fake, keys[1].DSN)
	if at, err := k.Used(ctx, v); err != nil || time.Since(at) > time.Hour || time.Since(at) < 0 {
		t.Errorf("it was used at %v: %v", at, err)
	}
	fake.Fail(sentryfake.Fault{Path: "/stats/", Status: 404, Times: 1}) // a server that does not tell
	if _, err := k.Used(ctx, v); !errors.Is(err, credentials.ErrNotTold) {
		t.Errorf("of a server that does not tell: %v", err)
	}
	if err := k.Disable(ctx, v); err != nil {
		t.Error(err)
	}
	if err := k.Prove(ctx, v); err == nil || strings.Contains(err.Error(), keys[1].ID) {
		t.Errorf("a key that is disabled: %v", err)
	}
	fake.AddKey("queue", keys[1].Name) // a request that has arrived late
	for range 2 {
		if err := k.Retire(ctx, v); err != nil {
			t.Error(err)
		}
	}
	if n := len(fake.Keys("queue")); n != 1 {
		t.Errorf("%d keys are left", n)
	}
	if err := k.Prove(ctx, v); !errors.Is(err, credentials.ErrNoVersion) {
		t.Errorf("a key that is not there: %v", err)
	}
	if _, err := k.Used(ctx, v); !errors.Is(err, credentials.ErrNoVersion) {
		t.Errorf("a key that is not there: %v", err)
	}
	if err := k.Retire(ctx, credentials.Version{ID: anID, Settings: json.RawMessage(`{"project":"nothing"}`)}); err != nil {
		t.Errorf("what was never minted: %v", err)
	}
}

// send sends an event.
func send(t *testing.T, fake *sentryfake.Server, dsn string) {
	t.Helper()
	project, key := dsn[strings.LastIndexByte(dsn, '/')+1:], dsn[strings.Index(dsn, "//")+2:strings.IndexByte(dsn, '@')]
	r := newRequest(t, fake.URL()+"/api/"+project+"/envelope/?sentry_key="+key, "{\"event_id\":\"0123456789abcdef0123456789abcdef\"}\n{\"type\":\"event\",\"length\":2}\n{}\n")
	answer, err := fake.RoundTrip(r)
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("sending an event: %v, %v", answer, err)
	}
}

func TestKeysOfOthersAreLeftAlone(t *testing.T) {
	fake := sentryfake.New(sentryfake.Options{PageSize: 1})
	fake.AddProject("builds", "queue")
	id := fake.AddKey("queue", "made by hand")
	fake.AddKey("queue", lentLabel("taskfleet", anID, time.Now()))
	fake.AddKey("queue", versionLabel("other", anID, time.Now()))
	fake.AddKey("queue", versionLabel("taskfleet", anID, time.Now()))
	k := kindOf(t, fake)
	for text, want := range map[string]string{
		`{"project":"queue"}`:                           "[" + anID + " false]",
		`{"project":"queue","prefix":"other"}`:          "[" + anID + " false]",
		`{"project":"queue","replaces":["` + id + `"]}`: "[" + anID + " false " + id + " true]",
	} {
		found, err := k.List(t.Context(), credentials.Order{Settings: json.RawMessage(text)})
		var got []any
		for _, f := range found {
			got = append(got, f.ID, f.Adopt)
		}
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
}

func TestWhatIsWrongOfAKey(t *testing.T) {
	fake := sentryfake.New(sentryfake.Options{})
	k := kindOf(t, fake)
	for text, says := range map[string]string{
		`{}`: "project is", `{"project":"queue","x":1}`: "unknown field", `{"project":"queue","lifetime":"0d"}`: "lifetime is", `{"project":"queue","prefix":"Too Long For It"}`: "prefix is",
		`{"project":"queue","rateLimit":{"count":3}}`: "rate limit",
	} {
		if _, err := k.Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if place, err := k.Check(json.RawMessage(settings)); err != nil || place != "keys of the project queue at Sentry sentry.test acme" {
		t.Errorf("%q, %v", place, err)
	}
	if _, err := (Kind{}).Check(json.RawMessage(settings)); err == nil {
		t.Error("a deployment without Sentry has the kind")
	}
	fake.AddProject("builds", "queue")
	o := credentials.Order{Settings: json.RawMessage(settings), ID: anID}
	m, err := k.Mint(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	v := credentials.Version{ID: anID, Settings: o.Settings, Public: m.Public, Secret: m.Secret}
	elsewhere := kindOf(t, sentryfake.New(sentryfake.Options{Organization: "other"}))
	for _, k := range []Kind{{}, elsewhere} { // the configuration has changed
		_, used := k.Used(t.Context(), v)
		for _, err := range []error{used, k.Prove(t.Context(), v), k.Disable(t.Context(), v), k.Retire(t.Context(), v)} {
			if err == nil || !strings.Contains(err.Error(), "configuration") {
				t.Errorf("of a key of another Sentry: %v", err)
			}
		}
	}
	o.Settings = json.RawMessage(`{"project":"nothing"}`)
	if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "bootstrap") {
		t.Errorf("without the project: %v", err)
	}
}
