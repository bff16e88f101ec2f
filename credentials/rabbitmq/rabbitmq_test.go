package rabbitmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/store"
)

const settings = `{"url":"https://rotator:` + rotatorPassword + `@mq.test","address":"amqps://mq.test","prefix":"builds",
	"permissions":{"/":{"write":"^builds$","read":"^builds"},"builds":{"configure":".*","write":".*","read":".*"}},
	"topicPermissions":[{"exchange":"amq.topic","write":"^a","read":".*"}],"tags":["monitoring"],"limits":{"maxConnections":20}}`

func (b *broker) kind() Kind { return Kind{Transport: b, LogIn: b.logIn} }

// works is a consumer.
func (b *broker) works(ctx context.Context, text json.RawMessage) error {
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	return b.logIn(ctx, s.URL)
}

// A broker that now and then asks for patience.
func TestUsersRotate(t *testing.T) {
	rotatortest.Run(t, func(*testing.T, *store.DB) rotatortest.Subject {
		b := newBroker("builds")
		b.fault = func(n int, _ *http.Request) (int, bool) {
			if n%7 == 0 {
				return []int{429, 503}[n/7%2], false
			}
			return 0, false
		}
		return rotatortest.Subject{Kind: b.kind(), Settings: settings, Works: b.works, Slow: true}
	})
}

func order(id string, known ...credentials.Version) credentials.Order {
	return credentials.Order{Credential: "builds-mq", Settings: json.RawMessage(settings), ID: id, Seed: []byte("seed of " + id), Known: known}
}

const (
	first  = "fN1SbArXTPSVFNUvaOlinQ"
	second = "s2-SbArXTPSVFNUva-linQ"
)

// until calls something again for as long as it fails in a way that may pass.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = f(); err == nil {
			return
		}
		if text := err.Error(); strings.Contains(text, rotatorPassword) || strings.Contains(text, "password_hash") || strings.Contains(text, "Basic ") {
			t.Fatalf("%s: an error with a secret: %s", what, text)
		}
	}
	t.Fatalf("%s: still fails: %v", what, err)
}

func mint(t *testing.T, k Kind, o credentials.Order) (v credentials.Version) {
	t.Helper()
	until(t, "mint", func() error {
		m, err := k.Mint(t.Context(), o)
		v = credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings, Public: m.Public, Secret: m.Secret}
		return err
	})
	return v
}

// sometimes is a fault, by a dice that falls for a number as it did before.
func sometimes(n int, faults ...int) int {
	dice := rand.New(rand.NewPCG(1, uint64(n)))
	if dice.IntN(6) > 0 {
		return 0
	}
	return faults[dice.IntN(len(faults))]
}

// Whatever the broker answers, whether it has done what it was asked or not, in the end
// there is what should be there.
func TestFaultsOfABrokerChangeNothing(t *testing.T) {
	for name, fault := range map[string]func(n int, r *http.Request) (int, bool){
		"none":              func(int, *http.Request) (int, bool) { return 0, false },
		"done, but says no": func(n int, _ *http.Request) (int, bool) { return sometimes(n, 500, 502), true },
		"not done":          func(n int, _ *http.Request) (int, bool) { return sometimes(n, 500, 504), false },
		"too many requests": func(n int, _ *http.Request) (int, bool) { return sometimes(n, 429, 503), false },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBroker("builds")
				b.fault = fault
				b.slow = 3 * time.Second
				k := b.kind()
				v1 := mint(t, k, order(first))
				v2 := mint(t, k, order(second, v1))
				if again := mint(t, k, order(second, v1)); string(again.Secret) != string(v2.Secret) || string(again.Public) != string(v2.Public) {
					t.Error("the same version was minted as another one")
				}
				want := &account{
					permissions: map[string]Permission{"/": {"", "^builds$", "^builds"}, "builds": {".*", ".*", ".*"}},
					topics:      map[string]map[string]Permission{"/": {"amq.topic": {"", "^a", ".*"}}},
					limits:      map[string]int{"max-connections": 20}, tags: []string{"monitoring", "taskfleet-credential-builds-mq"},
				}
				for _, v := range []credentials.Version{v1, v2} {
					until(t, "prove", func() error { return k.Prove(t.Context(), v) })
					got := *b.users["builds-"+v.ID]
					got.hash = ""
					if !reflect.DeepEqual(&got, want) {
						t.Errorf("the user is %+v; want %+v", got, want)
					}
				}

				b.connections = []string{"builds-" + first, "builds-" + second, "builds-" + first}
				var used time.Time
				until(t, "used", func() (err error) { used, err = k.Used(t.Context(), v1); return err })
				if time.Since(used) > time.Minute {
					t.Errorf("a user who is connected was seen at %v", used)
				}
				for range 2 {
					until(t, "disable", func() error { return k.Disable(t.Context(), v1) })
				}
				if !slices.Equal(b.connections, []string{"builds-" + second}) {
					t.Errorf("the connections are those of %q", b.connections)
				}
				if a := b.users["builds-"+first]; a == nil || a.hash != "" || len(a.permissions)+len(a.topics) > 0 || !slices.Equal(a.tags, []string{"taskfleet-credential-builds-mq"}) {
					t.Errorf("a user that is disabled is %+v", a)
				}
				until(t, "used", func() error {
					if _, err := k.Used(t.Context(), v1); !errors.Is(err, credentials.ErrNotTold) {
						return fmt.Errorf("nobody is connected: %w", err)
					}
					return nil
				})
				for range 2 {
					until(t, "retire", func() error { return k.Retire(t.Context(), v1) })
				}
				until(t, "disable", func() error { return k.Disable(t.Context(), v1) }) // comes late
				until(t, "used", func() error {
					if _, err := k.Used(t.Context(), v1); !errors.Is(err, credentials.ErrNoVersion) {
						return fmt.Errorf("nobody is there: %w", err)
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
			})
		})
	}
}

func TestAProofIsALogIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("builds")
		k := b.kind()
		v := mint(t, k, order(first))
		wrong := v
		wrong.Secret = json.RawMessage(strings.Replace(string(v.Secret), `"url":"amqps://builds-`+first+`:`, `"url":"amqps://builds-`+first+`:hunter2`, 1))
		if err := k.Prove(t.Context(), wrong); err == nil || errors.Is(err, credentials.ErrNoVersion) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("another password: %v", err)
		}
		b.users["builds-"+first].tags = nil
		if err := k.Prove(t.Context(), v); err == nil || !strings.Contains(err.Error(), "management API") {
			t.Errorf("a user without the tag it should have: %v", err)
		}
		delete(b.users, "builds-"+first)
		if err := k.Prove(t.Context(), v); !errors.Is(err, credentials.ErrNoVersion) {
			t.Errorf("a user that somebody has deleted: %v", err)
		}
	})
}

// Whoever else uses the broker, and however many, only those of the credential are found:
// what another prefix made before, and the user that was there first.
func TestUsersOfTheCredentialAreFoundAmongManyOthers(t *testing.T) {
	for _, oldest := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBroker("builds")
			b.oldest = oldest
			for i := range 3*pageSize + 1 {
				b.users[fmt.Sprintf("builds-other-%d", i)] = &account{tags: []string{"management", "taskfleet-credential-builds"}}
			}
			b.users["by-hand"] = &account{tags: []string{}}
			b.users["zz-former-"+second] = &account{tags: []string{"taskfleet-credential-builds-mq"}}
			b.users["zz-odd"] = &account{tags: []string{"taskfleet-credential-builds-mq"}}
			k := b.kind()
			v := mint(t, k, order(first))
			o := order("", v)
			o.Settings = json.RawMessage(strings.Replace(settings, `"prefix"`, `"present":"by-hand","prefix"`, 1))
			found, err := k.List(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, f := range found {
				got[f.ID] = f.Adopt
			}
			if want := map[string]bool{first: false, second: false, "zz-odd": false, "by-hand": true}; !reflect.DeepEqual(got, want) {
				t.Errorf("found %v; want %v", got, want)
			}

			adopted := credentials.Version{ID: "builds-mq/by-hand", Credential: "builds-mq", Settings: o.Settings, Public: json.RawMessage(`{"user":"by-hand"}`)}
			if err := k.Disable(t.Context(), adopted); err != nil {
				t.Fatal(err)
			}
			o.Known = append(o.Known, adopted)
			if found, err = k.List(t.Context(), o); err != nil || !slices.ContainsFunc(found, func(f credentials.Found) bool { return f.ID == adopted.ID }) {
				t.Errorf("after it was disabled: %+v, %v", found, err)
			}
			if err := k.Retire(t.Context(), adopted); err != nil || b.users["by-hand"] != nil {
				t.Errorf("the user that was there first is still there: %v", err)
			}
		})
	}
}

// What was allowed once and is not any more is taken away when a version is minted again.
func TestRightsAreThoseOfTheSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker("builds")
		k := b.kind()
		mint(t, k, order(first))
		o := order(first)
		o.Settings = json.RawMessage(`{"url":"https://rotator:` + rotatorPassword + `@mq.test","address":"amqps://mq.test","prefix":"builds","permissions":{"/":{"read":"x"}}}`)
		mint(t, k, o)
		if a := b.users["builds-"+first]; !reflect.DeepEqual(a.permissions, map[string]Permission{"/": {"", "", "x"}}) || len(a.topics) > 0 || slices.Contains(a.tags, "monitoring") {
			t.Errorf("the user is %+v", a)
		}
		o.Settings = json.RawMessage(strings.Replace(settings, `"builds":{`, `"elsewhere":{`, 1))
		if _, err := k.Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), `no virtual host "elsewhere"`) {
			t.Errorf("a virtual host that is not there: %v", err)
		}
	})
}

func TestThePasswordOfTheRotatorMayBeInAFile(t *testing.T) {
	b := newBroker("builds")
	file := filepath.Join(t.TempDir(), "password")
	o := order(first)
	o.Settings = json.RawMessage(strings.Replace(settings, `rotator:`+rotatorPassword+`@mq.test",`, fmt.Sprintf(`rotator@mq.test","passwordFile":%q,`, file), 1))
	if _, err := b.kind().Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "passwordFile") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte("wrong-password"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.kind().Mint(t.Context(), o); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("a wrong password: %v", err)
	}
	if err := os.WriteFile(file, []byte(rotatorPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mint(t, b.kind(), o)
}

// A lister has a list of users without an end.
type lister struct{ asked int }

func (l *lister) RoundTrip(*http.Request) (*http.Response, error) {
	l.asked++
	body := `{"page_count": 2000000000, "items": [{"name": "x", "tags": []}]}`
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func TestAListWithoutAnEndHasOne(t *testing.T) {
	l := &lister{}
	if _, err := (Kind{Transport: l}).List(t.Context(), order("fN1SbArXTPSVFNUvaOlinQ")); err == nil || !strings.Contains(err.Error(), "has no end") || l.asked != mostPages {
		t.Errorf("after %d pages: %v", l.asked, err)
	}
}

func TestSettingsSayWhatIsWrongWithThem(t *testing.T) {
	k := Kind{}
	if place, err := k.Check(json.RawMessage(settings)); err != nil || place != "RabbitMQ at mq.test, users builds-…" {
		t.Errorf("%q, %v", place, err)
	}
	for change, says := range map[[2]string]string{
		{`"prefix":"builds",`, ``}:                           "prefix",
		{`"prefix"`, `"x":1,"prefix"`}:                       "unknown field",
		{`https://`, `ftp://`}:                               "url must be",
		{`:` + rotatorPassword, ``}:                          "url has no password",
		{`"prefix"`, `"passwordFile":"/a","prefix"`}:         "give one of them",
		{`"prefix"`, `"caFile":"a","prefix"`}:                "absolute",
		{`"prefix"`, `"present":"rotator","prefix"`}:         "rotator",
		{`amqps://mq.test`, `amqps://u:hunter2@mq.test`}:     "address must be",
		{`amqps://mq.test`, `amqps://mq.test:99999`}:         "99999",
		{`"prefix"`, `"virtualHost":"other","prefix"`}:       "permissions has nothing",
		{`"exchange":"amq.topic"`, `"exchange":""`}:          "topicPermissions[0]",
		{`"exchange"`, `"virtualHost":"other","exchange"`}:   "no permissions for the virtual host",
		{`["monitoring"]`, `["a,administrator"]`}:            "tags[0]",
		{`"maxConnections":20`, `"maxConnections":0`}:        "maxConnections",
		{`rotator:` + rotatorPassword, `rotator:hunter2%zz`}: "not shown",
	} {
		if _, err := k.Check(json.RawMessage(strings.Replace(settings, change[0], change[1], 1))); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", change[1], err)
		}
	}
}
