package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

const (
	aRole     = "arn:aws:iam::" + account + ":role/builds"
	revocable = `{"role": "` + aRole + `", "duration": "12h", "revoke": true, "policy": {"Version": "2012-10-17", "Statement": []}}`
)

func TestSessionsRotate(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		f := newFake(t, "aws-session-revoke.json")
		f.roles["builds"] = map[string]string{}
		return rotatortest.Subject{
			Kind: Sessions{f.cloud()}, Settings: revocable, Slow: true,
			Works: func(_ context.Context, text json.RawMessage) error { return f.works(text) },
			Forget: func(_ context.Context, v credentials.Version) error {
				var is session
				if err := json.Unmarshal(v.Public, &is); err != nil {
					return err
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				f.sessions[is.AccessKeyID].expires = time.Now()
				return nil
			},
		}
	})
}

// minted mints a session and proves it.
func minted(t *testing.T, f *fake, settings, id string) credentials.Version {
	t.Helper()
	k := Sessions{f.cloud()}
	m, err := k.Mint(t.Context(), credentials.Order{Credential: "builds", Settings: json.RawMessage(settings), ID: id})
	if err != nil {
		t.Fatal(err)
	}
	v := credentials.Version{ID: id, Credential: "builds", Settings: json.RawMessage(settings), Public: m.Public, Secret: m.Secret}
	if err := k.Prove(t.Context(), v); err != nil {
		t.Error(err)
	}
	if err := f.works(v.Secret); err != nil {
		t.Error(err)
	}
	return v
}

// What is revoked is one session: others of the role, and what was denied before, stay as
// they are until they expire.
func TestOneSessionIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "aws-session-revoke.json")
		f.roles["builds"] = map[string]string{}
		k := Sessions{f.cloud()}
		a, b := minted(t, f, revocable, first), minted(t, f, revocable, second)
		for range 2 {
			if err := k.Disable(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		if f.works(a.Secret) == nil || f.works(b.Secret) != nil {
			t.Error("not that session was revoked, or not it alone")
		}
		if err := k.Disable(t.Context(), b); err != nil || f.works(a.Secret) == nil || f.works(b.Secret) == nil {
			t.Errorf("of two sessions that were revoked one works: %v", err)
		}
		time.Sleep(13 * time.Hour)
		c := minted(t, f, revocable, third)
		if err := k.Retire(t.Context(), c); err != nil || f.works(c.Secret) == nil {
			t.Errorf("revoking: %v", err)
		}
		if n := strings.Count(f.roles["builds"]["taskfleet-revoked-builds"], `"Deny"`); n != 1 {
			t.Errorf("the policy denies %d sessions, of which one is left", n)
		}
		if f.calls["iam:PutRolePolicy"] != 3 {
			t.Errorf("the policy was written %d times", f.calls["iam:PutRolePolicy"])
		}
		if err := k.Retire(t.Context(), a); err != nil || f.calls["iam:PutRolePolicy"] != 3 {
			t.Errorf("one that has expired was revoked: %v", err)
		}
		if err := k.Prove(t.Context(), a); err != credentials.ErrNoVersion {
			t.Errorf("one that has expired: %v", err)
		}
		f.used()
	})
}

func TestSessionsOfRolesAndOfFederatedUsers(t *testing.T) {
	for policy, settings := range map[string]string{
		"aws-session-role.json":      `{"role": "` + aRole + `", "externalId": "x", "tag": true, "policyArns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"], "region": "eu-central-1"}`,
		"aws-session-federated.json": `{"tag": true, "duration": "36h", "policy": {"Version": "2012-10-17", "Statement": []}}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t, policy)
			f.roles["builds"] = map[string]string{}
			k := Sessions{f.cloud()}
			v := minted(t, f, settings, first)
			if !strings.Contains(string(v.Public), "."+first) || strings.Contains(string(v.Public), "hunter") {
				t.Errorf("%s", v.Public)
			}
			var s secret
			if err := json.Unmarshal(v.Secret, &s); err != nil || s.SessionToken == "" || s.Expiration == nil || !strings.Contains(s.CredentialsFile, "aws_session_token = "+s.SessionToken) {
				t.Errorf("%v", err)
			}
			for _, end := range []func(context.Context, credentials.Version) error{k.Disable, k.Retire} {
				if err := end(t.Context(), v); err != nil || f.works(v.Secret) != nil {
					t.Errorf("without revoke it ends by itself: %v", err)
				}
			}
			if lasts := k.Lasts(v.Settings); time.Until(s.Expiration.Add(0)) != lasts {
				t.Errorf("it expires at %v, and should last %v", s.Expiration, lasts)
			}
			f.sessions[s.AccessKeyID].secret = "hunter2-changed"
			if err := k.Prove(t.Context(), v); err == nil || strings.Contains(err.Error(), "hunter") {
				t.Errorf("a wrong secret, or it is told: %v", err)
			}
			f.used()
		})
	}
}

func TestSessionsTellWhatIsWrong(t *testing.T) {
	role := func(more string) string { return fmt.Sprintf(`{"role": %q%s}`, aRole, more) }
	for text, says := range map[string]string{
		`{}`: "may do nothing without", `{"role": "builds"}`: "ARN of a role", role(`, "x": 1`): "unknown field", role(`, "duration": "1m"`): "from 15m0s to 12h0m0s",
		role(`, "duration": "2h", "as": {"role": "` + aRole + `"}`): "that a role has assumed", role(`, "duration": "13h"`): "of a role", role(`, "policy": []`): "Statement",
		`{"policy": {"Statement": []}, "duration": "37h"}`: "federated", `{"policy": {"Statement": []}, "revoke": true}`: "revoke is of no use",
		`{"policy": {"Statement": []}, "externalId": "x"}`: "externalId", `{"policy": {"Statement": []}, "as": {"role": "` + aRole + `"}}`: "cannot make federated users",
	} {
		if _, err := (Sessions{}).Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, "aws-session-role.json")
		_, err := Sessions{f.cloud()}.Mint(t.Context(), credentials.Order{Credential: "builds", Settings: json.RawMessage(role("")), ID: first})
		if err == nil || !strings.Contains(err.Error(), "AccessDenied: not authorized to perform: sts:AssumeRole") {
			t.Errorf("a role that does not trust the rotator: %v", err)
		}
	})
}

// A session that would end before all have the next one is refused, with what to change.
func TestASessionIsReplacedBeforeItEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		log := slog.New(slog.DiscardHandler)
		bus, err := event.New(t.Context(), db, log)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := seal.NewKeys(seal.NewKey())
		if err != nil {
			t.Fatal(err)
		}
		plans := map[string]credentials.Plan{"late": {MaxAge: 10 * time.Hour}, "never": {Cron: "0 4 * * 1"}, "good": {MaxAge: 9 * time.Hour}}
		c := credentials.Config{DB: db, Events: bus, Keys: keys, Log: log, Replica: "one", Kinds: map[string]credentials.Kind{"aws-session": Sessions{&Cloud{}}}}
		for name, plan := range plans {
			c.Definitions = append(c.Definitions, credentials.Definition{Name: name, Kind: "aws-session", Settings: json.RawMessage(revocable), Plan: plan, Overlap: 2 * time.Hour})
		}
		engine, err := credentials.New(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for name := range plans {
			err := engine.Rotate(t.Context(), name, "tester")
			if refused := err != nil && strings.Contains(err.Error(), "ends by itself after 12h0m0s"); refused != (name != "good") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
