package signalfx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/credentials/signalfx/signalfxfake"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	session  = "session-of-an-administrator"
	settings = `{"realm":"eu0","token":"` + session + `","name":"builds","description":"for builds","limits":{"dpmQuota":1000},
		"notifications":[{"type":"Email","email":"somebody@example.com"}]}`
)

// works sends a datapoint as a consumer would.
func works(f *signalfxfake.Fake) func(ctx context.Context, text json.RawMessage) error {
	return func(ctx context.Context, text json.RawMessage) error {
		var is secret
		if err := json.Unmarshal(text, &is); err != nil {
			return err
		}
		return (&Kind{&http.Client{Transport: f}}).send(ctx, Settings{Ingest: is.IngestURL}, is.Token, "app")
	}
}

func TestTokensRotate(t *testing.T) {
	rotatortest.Run(t, func(*testing.T, *store.DB) rotatortest.Subject {
		f := signalfxfake.New(session)
		return rotatortest.Subject{Kind: New(f), Settings: settings, Works: works(f), Slow: true}
	})
}

const (
	first  = "fN1SbArXTPSVFNUvaOlinQ"
	second = "s2-SbArXTPSVFNUva-linQ"
)

func order(id string, known ...credentials.Version) credentials.Order {
	return credentials.Order{Credential: "builds-metrics", Settings: json.RawMessage(settings), ID: id, Known: known}
}

// until calls something again for as long as it fails in a way that may pass.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = f(); err == nil {
			return
		}
		if text := err.Error(); strings.Contains(text, session) || strings.Contains(text, "secret-of") {
			t.Fatalf("%s: an error with a secret: %s", what, text)
		}
	}
	t.Fatalf("%s: still fails: %v", what, err)
}

func mint(t *testing.T, k *Kind, o credentials.Order) (v credentials.Version) {
	t.Helper()
	until(t, "mint", func() error {
		m, err := k.Mint(t.Context(), o)
		v = credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings, Public: m.Public, Secret: m.Secret, Created: timestamp.Now()}
		return err
	})
	return v
}

// sometimes is a fault, by a dice that falls for a number as it did before.
func sometimes(n int, fault signalfxfake.Fault, statuses ...int) signalfxfake.Fault {
	dice := rand.New(rand.NewPCG(2, uint64(n)))
	if dice.IntN(4) > 0 {
		return signalfxfake.Fault{}
	}
	fault.Status = statuses[dice.IntN(len(statuses))]
	return fault
}

func TestFaultsOfSignalFxChangeNothing(t *testing.T) {
	for name, fault := range map[string]func(n int, r *http.Request) signalfxfake.Fault{
		"none": func(int, *http.Request) signalfxfake.Fault { return signalfxfake.Fault{} },
		"done, but says no": func(n int, _ *http.Request) signalfxfake.Fault {
			return sometimes(n, signalfxfake.Fault{After: true}, 500, 502)
		},
		"not done": func(n int, _ *http.Request) signalfxfake.Fault { return sometimes(n, signalfxfake.Fault{}, 500, 504) },
		"too many requests": func(n int, _ *http.Request) signalfxfake.Fault {
			return sometimes(n, signalfxfake.Fault{RetryAfter: "3"}, 429, 503)
		},
		"too many requests until a date": func(n int, _ *http.Request) signalfxfake.Fault {
			return sometimes(n, signalfxfake.Fault{RetryAfter: "date"}, 429)
		},
		"too many requests, no more": func(n int, _ *http.Request) signalfxfake.Fault { return sometimes(n, signalfxfake.Fault{}, 429) },
	} {
		for _, skew := range []time.Duration{0, -5 * time.Hour, 5 * time.Hour} {
			t.Run(fmt.Sprintf("%s, clock %v", name, skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := signalfxfake.New(session)
					f.Fault, f.Skew, f.Slow = fault, skew, 4*time.Second
					k := New(f)
					v1 := mint(t, k, order(first))
					v2 := mint(t, k, order(second, v1))
					if again := mint(t, k, order(second, v1)); string(again.Secret) != string(v2.Secret) || string(again.Public) != string(v2.Public) {
						t.Error("the same version was minted as another one")
					}
					if list := f.Tokens(); len(list) != 2 {
						t.Errorf("there are %d tokens", len(list))
					} else if got := list[0]; got.Name != "builds-"+first || got.Description != "for builds (taskfleet credential builds-metrics version "+first+")" ||
						!reflect.DeepEqual(got.AuthScopes, []string{"INGEST"}) || !strings.Contains(string(got.Limits), `"dpmQuota":1000`) || !strings.Contains(string(got.Notifications), "somebody@example.com") {
						t.Errorf("the token is %+v", got)
					}
					for _, v := range []credentials.Version{v1, v2} {
						until(t, "prove", func() error { return k.Prove(t.Context(), v) })
						if f.Sent("builds-"+v.ID) == 0 {
							t.Error("it was proved without being used")
						}
					}
					before := f.Tokens()[0]
					for range 2 {
						until(t, "disable", func() error { return k.Disable(t.Context(), v1) })
					}
					after := f.Tokens()[0]
					if before.Disabled = true; !reflect.DeepEqual(before, after) {
						t.Errorf("disabled it is %+v; before it was %+v", after, before)
					}
					for range 2 {
						until(t, "retire", func() error { return k.Retire(t.Context(), v1) })
					}
					until(t, "disable", func() error { return k.Disable(t.Context(), v1) }) // comes late
					until(t, "prove", func() error {
						if err := k.Prove(t.Context(), v1); !errors.Is(err, credentials.ErrNoVersion) {
							return fmt.Errorf("what is retired: %w", err)
						}
						return nil
					})
					until(t, "list", func() error {
						found, err := k.List(t.Context(), order(""))
						if err == nil && (len(found) != 1 || found[0].ID != second || found[0].Adopt) {
							t.Errorf("there are %+v", found)
						}
						return err
					})
					requests := f.Requests()
					for i := 2; i < len(requests); i++ {
						if d := requests[i].At.Sub(requests[i-2].At); d < time.Second {
							t.Errorf("three requests within %v", d)
						}
					}
				})
			})
		}
	}
}

// Tokens are proved by what they are for.
func TestAProofIsWhatTheTokenIsFor(t *testing.T) {
	for scopes, path := range map[string]string{`["INGEST"]`: "/v2/datapoint", `["API"]`: "/v2/metric", `["RUM"]`: "/v2/token/builds-" + first} {
		synctest.Test(t, func(t *testing.T) {
			f := signalfxfake.New(session)
			k := New(f)
			o := order(first)
			o.Settings = json.RawMessage(strings.Replace(settings, `"name"`, `"authScopes":`+scopes+`,"name"`, 1))
			v := mint(t, k, o)
			if err := k.Prove(t.Context(), v); err != nil {
				t.Errorf("%s: %v", scopes, err)
			}
			if list := f.Requests(); list[len(list)-1].Path != path {
				t.Errorf("%s: it was proved by %+v", scopes, list[len(list)-1])
			}
			for what, change := range map[string]func(*signalfxfake.Token){
				"disabled": func(t *signalfxfake.Token) { t.Disabled = true },
				"rotated":  func(t *signalfxfake.Token) { t.Disabled, t.Secret = false, "secret-of-somebody" },
			} {
				f.Change("builds-"+first, change)
				if err := k.Prove(t.Context(), v); err == nil || errors.Is(err, credentials.ErrNoVersion) || strings.Contains(err.Error(), "secret-of") {
					t.Errorf("%s: %s by hand: %v", scopes, what, err)
				}
			}
		})
	}
}

// Where an organisation does not tell secrets, what an attempt before has made is of no
// use to anybody.
func TestATokenThatDoesNotTellItsSecretIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := signalfxfake.New(session)
		f.Discreet = true
		k := New(f)
		mint(t, k, order(first))
		v := mint(t, k, order(first))
		if list := f.Tokens(); len(list) != 1 {
			t.Errorf("there are %+v", list)
		}
		if err := k.Prove(t.Context(), v); err != nil {
			t.Error(err)
		}
	})
}

func TestTokensOfTheCredentialAreFoundAmongManyOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := signalfxfake.New(session)
		f.Page = 50
		for i := range 130 {
			f.Add(signalfxfake.Token{Name: fmt.Sprintf("builds-%d", i), Description: "taskfleet credential builds version " + second})
		}
		f.Add(signalfxfake.Token{Name: "Default", AuthScopes: []string{"INGEST"}})
		k := New(f)
		v := mint(t, k, order(first))
		f.Add(signalfxfake.Token{Name: "builds-" + second, Description: "taskfleet credential builds-metrics version " + second})
		o := order("", v)
		o.Settings = json.RawMessage(strings.Replace(settings, `"name"`, `"present":"Default","name"`, 1))
		found, err := k.List(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, f := range found {
			got[f.ID] = f.Adopt
		}
		if want := map[string]bool{first: false, second: false, "Default": true}; !reflect.DeepEqual(got, want) {
			t.Errorf("found %v; want %v", got, want)
		}
		adopted := credentials.Version{ID: "builds-metrics/Default", Credential: "builds-metrics", Settings: o.Settings, Public: json.RawMessage(`{"name":"Default"}`)}
		for _, end := range []func(context.Context, credentials.Version) error{k.Disable, k.Retire} {
			if err := end(t.Context(), adopted); err != nil {
				t.Fatal(err)
			}
		}
		if found, err = k.List(t.Context(), o); err != nil || len(found) != 2 {
			t.Errorf("in the end there are %+v, %v", found, err)
		}
	})
}

// Tokens end by themselves, and are replaced well before.
func TestATokenIsDueBeforeItEnds(t *testing.T) {
	day := 24 * time.Hour
	for lifetime, due := range map[time.Duration]time.Duration{30 * day: 20 * day, 365 * day: 335 * day} {
		synctest.Test(t, func(t *testing.T) {
			f := signalfxfake.New(session)
			f.Lifetime = lifetime
			k := New(f)
			v := mint(t, k, order(first))
			if got := k.Due(v).Sub(v.Created.Time()); got.Round(time.Hour) != due {
				t.Errorf("of %v it is due after %v", lifetime, got)
			}
			v.Public = json.RawMessage(`{"name":"builds"}`)
			if got := k.Due(v); !got.IsZero() {
				t.Errorf("one that does not end is due at %v", got)
			}
		})
	}
}

func TestWhoMayNotMakeTokensIsToldWhatToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := signalfxfake.New(session)
		f.Add(signalfxfake.Token{Name: "other", AuthScopes: []string{"API"}, Secret: "secret-of-other"})
		file := filepath.Join(t.TempDir(), "token")
		o := order(first)
		o.Settings = json.RawMessage(strings.Replace(settings, `"token":"`+session+`"`, fmt.Sprintf(`"tokenFile":%q`, file), 1))
		for _, c := range []struct{ token, says string }{{"", "tokenFile"}, {"ended-session", "has the session"}, {"secret-of-other", "administrator"}} {
			if c.token != "" {
				if err := os.WriteFile(file, []byte(c.token+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := New(f).Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.says) || c.token != "" && strings.Contains(err.Error(), c.token) {
				t.Errorf("%q: %v", c.token, err)
			}
		}
		if err := os.WriteFile(file, []byte(session+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		mint(t, New(f), o)
	})
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	k := New(nil)
	if place, err := k.Check(json.RawMessage(settings)); err != nil || place != "SignalFx at https://api.eu0.signalfx.com, tokens builds-…" {
		t.Errorf("%q, %v", place, err)
	}
	for change, says := range map[[2]string]string{
		{`"realm":"eu0",`, ``}:                           "realm",
		{`"eu0"`, `"EU 0"`}:                              "realm",
		{`"name":"builds",`, ``}:                         "name",
		{`"name"`, `"x":1,"name"`}:                       "unknown field",
		{`"token":"` + session + `",`, ``}:               "token is missing",
		{`"name"`, `"tokenFile":"/a","name"`}:            "one of them",
		{`"name"`, `"present":"of the whole","name"`}:    "present",
		{`"name"`, `"authScopes":["ADMIN"],"name"`}:      "authScopes[0]",
		{`"name"`, `"ingest":"x","name"`}:                "ingest must be",
		{`"Email"`, `"Pigeon"`}:                          "",
		{`for builds`, `taskfleet credential x version`}: "description",
	} {
		if _, err := k.Check(json.RawMessage(strings.Replace(settings, change[0], change[1], 1))); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), session) {
			t.Errorf("%s: %v", change[1], err)
		}
	}
}
