package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	first  = "fN1SbArXTPSVFNUvaOlinQ"
	second = "SECONDbArXTPSVFNUvaOlA"
	third  = "THIRD-bArXTPSVFNUvaOlA"
)

func TestKeysRotate(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		f := newFake(t, "aws-access-key.json")
		f.user("ci")
		f.settle = 8 * time.Second
		return rotatortest.Subject{
			Kind: Keys{f.cloud()}, Settings: `{"user": "ci", "region": "eu-central-1"}`, Slow: true,
			Works: func(_ context.Context, text json.RawMessage) error { return f.works(text) },
		}
	})
}

// A keyring is the credential of one user, without an engine.
type keyring struct {
	*testing.T
	*fake
	kind  Keys
	known []credentials.Version
}

// with runs a test in a bubble.
func with(t *testing.T, f func(k *keyring)) {
	synctest.Test(t, func(t *testing.T) {
		x := newFake(t, "aws-access-key.json")
		x.user("ci")
		f(&keyring{T: t, fake: x, kind: Keys{x.cloud()}})
	})
}

func (k *keyring) order(id string) credentials.Order {
	return credentials.Order{Credential: "builds", Settings: json.RawMessage(`{"user": "ci"}`), ID: id, Known: k.known}
}

func (k *keyring) version(id string, m credentials.Minted) credentials.Version {
	return credentials.Version{ID: id, Credential: "builds", Settings: json.RawMessage(`{"user": "ci"}`), Public: m.Public, Secret: m.Secret, Created: timestamp.Now()}
}

// mint mints a version and keeps it as known.
func (k *keyring) minted(id string) credentials.Version {
	k.Helper()
	m, err := k.kind.Mint(k.Context(), k.order(id))
	if err != nil {
		k.Fatalf("minting: %v", err)
	}
	v := k.version(id, m)
	k.known = append(k.known, v)
	return v
}

// refused has minting fail, for a reason.
func (k *keyring) refused(id, reason string) {
	k.Helper()
	if _, err := k.kind.Mint(k.Context(), k.order(id)); err == nil || !strings.Contains(err.Error(), reason) {
		k.Errorf("minting should fail as %s: %v", reason, err)
	}
}

// adopt does what the first step of a rotation does.
func (k *keyring) adopt() {
	k.Helper()
	for _, x := range k.list() {
		if x.Adopt && !slices.ContainsFunc(k.known, func(v credentials.Version) bool { return v.ID == "builds/"+x.ID }) {
			k.known = append([]credentials.Version{{ID: "builds/" + x.ID, Credential: "builds", Settings: k.order("").Settings, Public: x.Public}}, k.known...)
		}
	}
}

func (k *keyring) list() []credentials.Found {
	k.Helper()
	list, err := k.kind.List(k.Context(), k.order(""))
	if err != nil {
		k.Fatal(err)
	}
	return list
}

// has checks which keys there are.
func (k *keyring) has(ids ...string) {
	k.Helper()
	var got []string
	for _, x := range k.user("ci").keys {
		got = append(got, x.id)
	}
	slices.Sort(got)
	slices.Sort(ids)
	if !slices.Equal(got, ids) {
		k.Errorf("the keys are %q; they should be %q", got, ids)
	}
}

// once has an action fail once, before or after its work.
func (f *fake) once(action string, after bool, wrong fault) {
	done := false
	f.fail = func(a string, b bool) *fault {
		if done || a != action || b != after {
			return nil
		}
		done = true
		return &wrong
	}
}

var cutOff, unavailable = fault{}, fault{503, "ServiceUnavailable", "Service is unavailable"}

// The answer to the making of a key is lost: nobody has its secret, and the next attempt
// removes it, and nothing else.
func TestAKeyWhoseSecretWasLostIsRemoved(t *testing.T) {
	for _, wrong := range []fault{cutOff, unavailable} {
		with(t, func(k *keyring) {
			old := k.minted(first)
			k.once("iam:CreateAccessKey", true, wrong)
			if _, err := k.kind.Mint(k.Context(), k.order(second)); err == nil {
				t.Fatal("the answer was lost, and the key was minted")
			}
			if len(k.user("ci").keys) != 2 || k.calls["iam:CreateAccessKey"] != 2 {
				t.Errorf("%d keys after %d calls: the SDK must not repeat what may have been done", len(k.user("ci").keys), k.calls["iam:CreateAccessKey"])
			}
			next := k.minted(second)
			k.has(keyOf(old).AccessKeyID, keyOf(next).AccessKeyID)
			if err := k.works(old.Secret); err != nil {
				t.Error(err)
			}
		})
	}
}

// So is one of an attempt that comes long after the first, as after an outage.
func TestAKeyOfALateAttemptIsRemoved(t *testing.T) {
	with(t, func(k *keyring) {
		old := k.minted(first)
		k.once("iam:CreateAccessKey", false, unavailable)
		k.refused(second, "making a key")
		time.Sleep(6 * time.Hour)
		k.once("iam:CreateAccessKey", true, cutOff)
		k.refused(second, "making a key")
		time.Sleep(time.Minute)
		next := k.minted(second)
		k.has(keyOf(old).AccessKeyID, keyOf(next).AccessKeyID)
	})
}

// It is removed as well when the version is withdrawn instead.
func TestAKeyOfAVersionThatIsWithdrawnIsRemoved(t *testing.T) {
	with(t, func(k *keyring) {
		old := k.minted(first)
		k.once("iam:CreateAccessKey", true, cutOff)
		if _, err := k.kind.Mint(k.Context(), k.order(second)); err == nil {
			t.Fatal("the answer was lost, and the key was minted")
		}
		if err := k.kind.Retire(k.Context(), k.version(third, credentials.Minted{})); err != nil {
			t.Fatal(err)
		}
		if len(k.user("ci").keys) != 2 {
			t.Error("a version that was never minted has taken the key of another one along")
		}
		if err := k.kind.Retire(k.Context(), k.version(second, credentials.Minted{})); err != nil {
			t.Fatal(err)
		}
		k.has(keyOf(old).AccessKeyID)
	})
}

// A request arrives after its version was minted by another attempt, or withdrawn.
func TestAKeyThatComesLateIsFound(t *testing.T) {
	with(t, func(k *keyring) {
		v := k.minted(first)
		late := k.key("ci")
		list := k.list()
		if len(list) != 2 || list[0].ID != first || list[0].Adopt || list[1].ID != late.id || !list[1].Adopt {
			t.Errorf("the list is %+v", list)
		}
		time.Sleep(20 * 24 * time.Hour)
		k.adopt()
		next := k.minted(second)
		k.has(keyOf(v).AccessKeyID, keyOf(next).AccessKeyID)

		k.known = k.known[1:] // the late one is gone, and so is the first version
		k.user("ci").keys = k.user("ci").keys[1:]
		if _, err := k.kind.Mint(k.Context(), k.order(third)); err != nil {
			t.Fatal(err)
		}
		list = k.list() // as if its journal had not been written
		if len(list) != 2 || list[1].ID != third || list[1].Adopt {
			t.Errorf("the list is %+v", list)
		}
		if err := k.kind.Retire(k.Context(), credentials.Version{ID: list[1].ID, Credential: "builds", Settings: k.order("").Settings, Public: list[1].Public}); err != nil {
			t.Fatal(err)
		}
		k.has(keyOf(next).AccessKeyID)
	})
}

// A key that looks like one that came late is somebody's if it is used.
func TestAKeyThatIsUsedIsNotTakenForALateOne(t *testing.T) {
	with(t, func(k *keyring) {
		v := k.minted(first)
		foreign := k.key("ci")
		time.Sleep(10 * 24 * time.Hour)
		foreign.used, foreign.service = time.Now(), "s3"
		k.adopt()
		k.refused(second, foreign.id+" was not made by a rotation and is last used at")
		k.has(keyOf(v).AccessKeyID, foreign.id)
	})
}

// A new key is known here and there, and not everywhere.
func TestANewKeyHasToBeKnownSeveralTimes(t *testing.T) {
	with(t, func(k *keyring) {
		v := k.minted(first)
		asked, unknown := 0, 3
		k.fail = func(action string, after bool) *fault {
			if action == "sts:GetCallerIdentity" && !after {
				if asked++; asked == unknown {
					return &fault{403, "InvalidClientTokenId", "The security token included in the request is invalid."}
				}
			}
			return nil
		}
		if err := k.kind.Prove(k.Context(), v); err == nil || !strings.Contains(err.Error(), "after some seconds") {
			t.Errorf("a key that is not known everywhere: %v", err)
		}
		if err := k.kind.Prove(k.Context(), v); err != nil || asked != 6 {
			t.Errorf("after %d questions: %v", asked, err)
		}
		time.Sleep(time.Hour)
		if err := k.kind.Prove(k.Context(), v); err != nil || asked != 7 {
			t.Errorf("one that is not new, after %d questions: %v", asked, err)
		}
	})
}

// Two keys that others have made: one that is in use stays, one that is not is first
// deactivated, and can be activated again.
func TestAForeignKeyMakesRoomInTwoSteps(t *testing.T) {
	with(t, func(k *keyring) {
		busy, idle := k.key("ci"), k.key("ci")
		k.adopt()
		k.refused(first, "never used; find who uses it")
		time.Sleep(31 * 24 * time.Hour)
		idle.used, idle.service = time.Now().Add(-20*24*time.Hour), "s3"
		busy.used, busy.service = time.Now(), "sqs"
		k.refused(first, "last used at")
		if !idle.active || !busy.active {
			t.Error("a key in use was deactivated")
		}
		time.Sleep(11 * 24 * time.Hour)
		busy.used = time.Now()
		k.refused(first, "is deactivated now")
		if idle.active || !busy.active {
			t.Error("the wrong key was deactivated, or none")
		}
		k.refused(second, "unless somebody activates it again")
		idle.active = true
		time.Sleep(2 * time.Hour)
		k.refused(second, "somebody has activated it again")
		idle.active = false
		k.has(busy.id, idle.id)
		v := k.minted(second)
		k.has(busy.id, keyOf(v).AccessKeyID)
		if err := k.kind.Prove(k.Context(), v); err != nil {
			t.Error(err)
		}
		// The other one is replaced as any version is.
		old := k.known[slices.IndexFunc(k.known, func(v credentials.Version) bool { return v.ID == "builds/"+busy.id })]
		if at, err := k.kind.Used(k.Context(), old); err != nil || time.Since(at) > 3*time.Hour {
			t.Errorf("used at %v, %v", at, err)
		}
		if err := k.kind.Disable(k.Context(), old); err != nil || busy.active {
			t.Errorf("disabling: %v", err)
		}
		for range 2 {
			if err := k.kind.Retire(k.Context(), old); err != nil {
				t.Error(err)
			}
		}
		if _, err := k.kind.Used(k.Context(), old); err != credentials.ErrNoVersion {
			t.Errorf("used of what is gone: %v", err)
		}
		k.has(keyOf(v).AccessKeyID)
		k.fake.used()
	})
}

// What a person has deactivated is not deleted at once, either.
func TestAnInactiveKeyIsNotDeletedAtOnce(t *testing.T) {
	with(t, func(k *keyring) {
		k.minted(first)
		time.Sleep(time.Hour)
		foreign := k.key("ci")
		foreign.active = false
		k.adopt()
		k.refused(second, "is deactivated now")
		time.Sleep(59 * time.Minute)
		k.refused(second, "unless somebody activates it again")
		time.Sleep(2 * time.Minute)
		k.minted(second)
	})
}

// IAM lists what was made a moment ago a moment later.
func TestIAMIsConsistentInTheEnd(t *testing.T) {
	with(t, func(k *keyring) {
		old := k.minted(first)
		time.Sleep(time.Minute)
		k.fake.lag, k.fake.settle = 10*time.Second, 15*time.Second
		k.once("iam:CreateAccessKey", true, cutOff)
		k.refused(second, "making a key")
		k.refused(second, "a moment later")
		time.Sleep(10 * time.Second)
		v := k.minted(second)
		if err := k.kind.Prove(k.Context(), v); err != credentials.ErrNoVersion {
			t.Errorf("a key that is not listed yet: %v", err)
		}
		time.Sleep(12 * time.Second)
		if err := k.kind.Prove(k.Context(), v); err == nil || !strings.Contains(err.Error(), "after some seconds") {
			t.Errorf("a key that is not known yet: %v", err)
		}
		time.Sleep(5 * time.Second)
		if err := k.kind.Prove(k.Context(), v); err != nil {
			t.Error(err)
		}
		k.has(keyOf(old).AccessKeyID, keyOf(v).AccessKeyID)
	})
}

// A page holds one thing, the first answers are that there are too many requests, and the
// clock of AWS is hours away from ours.
func TestKeysSurviveTheirProvider(t *testing.T) {
	for _, skew := range []time.Duration{0, -3 * time.Hour, 3 * time.Hour} {
		with(t, func(k *keyring) {
			k.page, k.skew = 1, skew
			k.user("ci").tags["team"], k.user("ci").tags["a"] = "ci", "b"
			throttled := map[string]int{}
			k.fail = func(action string, after bool) *fault {
				if after || action == "iam:CreateAccessKey" || throttled[action] > 0 {
					return nil
				}
				throttled[action]++
				return &fault{400, "Throttling", "Rate exceeded"}
			}
			old := k.minted(first)
			k.once("iam:CreateAccessKey", true, cutOff)
			k.refused(second, "making a key")
			v := k.minted(second)
			if err := k.kind.Prove(k.Context(), v); err != nil {
				t.Errorf("skewed by %v: %v", skew, err)
			}
			if err := k.kind.Disable(k.Context(), old); err != nil {
				t.Errorf("skewed by %v: %v", skew, err)
			}
			if err := k.kind.Retire(k.Context(), old); err != nil {
				t.Errorf("skewed by %v: %v", skew, err)
			}
			k.has(keyOf(v).AccessKeyID)
		})
	}
}

func TestKeysTellWhatIsWrong(t *testing.T) {
	with(t, func(k *keyring) {
		v := k.minted(first)
		found := k.user("ci").keys[0]
		found.active = false
		if err := k.kind.Prove(k.Context(), v); err == nil || !strings.Contains(err.Error(), "is inactive; activate it") {
			t.Errorf("an inactive key: %v", err)
		}
		found.active, found.secret = true, "hunter2-changed"
		if err := k.kind.Prove(k.Context(), v); err == nil || strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
			t.Errorf("a wrong secret: %v", err)
		}
		o := k.order(second)
		o.Credential = "other"
		if _, err := k.kind.Mint(k.Context(), o); err == nil || !strings.Contains(err.Error(), "is that of the credential builds") {
			t.Errorf("a user of another credential: %v", err)
		}
		o.Settings = json.RawMessage(`{"user": "nobody"}`)
		if _, err := k.kind.Mint(k.Context(), o); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("a user that the policy does not name: %v", err)
		}
		delete(k.users, "ci")
		if _, err := k.kind.Mint(k.Context(), k.order(second)); err == nil || !strings.Contains(err.Error(), "no IAM user ci") {
			t.Errorf("a user that is not there: %v", err)
		}
		if _, err := k.kind.Used(k.Context(), v); err != credentials.ErrNoVersion {
			t.Errorf("when a key of it was used: %v", err)
		}
		if err := k.kind.Prove(k.Context(), v); err != credentials.ErrNoVersion {
			t.Errorf("the proof of its key: %v", err)
		}
		for _, v := range []credentials.Version{v, k.version(second, credentials.Minted{})} {
			if err := k.kind.Retire(k.Context(), v); err != nil {
				t.Errorf("the end of its key: %v", err)
			}
		}
	})
	for text, says := range map[string]string{
		`{}`: "user is", `{"user": "a/b"}`: "without its path", `{"user": "ci", "x": 1}`: "unknown field", `{"user": "ci", "idle": "1h"}`: "a day or more",
		`{"user": "ci", "region": "Frankfurt"}`: "region is", `{"user": "ci", "as": {"role": "rotator"}}`: "as.role", `{"user": "ci", "as": {"externalId": "x"}}`: "without as.role",
	} {
		if _, err := (Keys{}).Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	place, err := Keys{}.Check(json.RawMessage(`{"user": "ci", "as": {"role": "arn:aws:iam::123456789012:role/rotator"}}`))
	if err != nil || place != "IAM user ci, as arn:aws:iam::123456789012:role/rotator" {
		t.Errorf("%q, %v", place, err)
	}
}

// What is noted at a user has to be a value of a tag, however long the names are.
func TestTheNoteOfAMintFits(t *testing.T) {
	m := mint{strings.Repeat("c", 64), first, time.Now().Truncate(time.Second).UTC(), []string{fmt.Sprintf("AKIA%016d", 1), fmt.Sprintf("AKIA%016d", 2)}}
	if text := m.String(); len(text) > 256 {
		t.Errorf("%d characters: %s", len(text), text)
	}
	if got := parseMint(m.String()); got.String() != m.String() {
		t.Errorf("%+v is read as %+v", m, got)
	}
}
