package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const place = "worker/local/w-1/secret"

func mustKeys(t *testing.T, keys ...Key) *Keys {
	t.Helper()
	ks, err := NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func TestOpensWhatItSealed(t *testing.T) {
	ks := mustKeys(t, NewKey())
	for _, secret := range []string{"", "hunter2", strings.Repeat("\x00\xff", 5000)} {
		sealed := ks.Seal([]byte(secret), place)
		if len(secret) > 0 && strings.Contains(sealed, secret) {
			t.Error("the secret shows")
		}
		if sealed == ks.Seal([]byte(secret), place) {
			t.Error("sealing twice gives the same")
		}
		got, err := ks.Open(sealed, place)
		if err != nil || string(got) != secret {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestOpensNothingElse(t *testing.T) {
	old := NewKey()
	ks := mustKeys(t, old, NewKey())
	sealed := ks.Seal([]byte("hunter2"), place)
	if _, err := ks.Open(sealed, "worker/local/w-2/secret"); !errors.Is(err, ErrBroken) {
		t.Errorf("in another place: %v", err)
	}
	if _, err := mustKeys(t, NewKey()).Open(sealed, place); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("with another key: %v", err)
	}
	otherID := strings.Replace(sealed, ks.Newest(), old.id, 1)
	for _, s := range []string{"", "hunter2", "s1..", "s2" + sealed[2:], sealed + ".", sealed[:len(sealed)-4], "s1." + ks.Newest() + ".", "s1." + ks.Newest() + ".!", otherID} {
		if _, err := ks.Open(s, place); !errors.Is(err, ErrBroken) {
			t.Errorf("Open(%q): %v", s, err)
		}
	}
	for i := len("s1.") + len(ks.Newest()) + 1; i < len(sealed)-1; i++ { // every character but the last, which has spare bits
		changed := []byte(sealed)
		if changed[i]++; changed[i] == sealed[i] {
			continue
		}
		if secret, err := ks.Open(string(changed), place); err == nil {
			t.Errorf("opened %q although character %d was changed", secret, i)
		}
	}
}

func TestNewestKeySealsAllOpen(t *testing.T) {
	old, newer := NewKey(), NewKey()
	before := mustKeys(t, old).Seal([]byte("hunter2"), place)
	ks := mustKeys(t, old, newer)
	if got, err := ks.Open(before, place); err != nil || string(got) != "hunter2" {
		t.Errorf("what the old key sealed: %q, %v", got, err)
	}
	after := ks.Seal([]byte("hunter2"), place)
	if ks.Current(before) || !ks.Current(after) || ks.Current("") {
		t.Error("Current is wrong about which is sealed with the newest key")
	}
	if _, err := mustKeys(t, newer).Open(after, place); err != nil {
		t.Errorf("without the old key: %v", err)
	}
}

func TestKeysAreKeptInAFile(t *testing.T) {
	a, b := NewKey(), NewKey()
	file := "# keys of the test\n" + a.Text() + "\n\n  " + b.Text() + "\n"
	ks, err := ParseKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	if ks.Newest() != b.ID() {
		t.Error("the last one is not the newest")
	}
	if _, err := ks.Open(mustKeys(t, a).Seal(nil, place), place); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "# none", a.Text()[:50], "hunter2", a.Text() + "A"} {
		_, err := ParseKeys(bad)
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), a.Text()[len(keyPrefix):50]) {
			t.Errorf("ParseKeys(%q): %v", bad, err)
		}
	}
	if _, err := NewKeys(Key{}); err == nil {
		t.Error("an empty key is no key")
	}
}

func TestKeyDoesNotShow(t *testing.T) {
	k := NewKey()
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "keys", mustKeys(t, k))
	_, err := json.Marshal(k)
	if err == nil {
		t.Error("a key went into JSON")
	}
	inside := struct{ key Key }{k}
	shown := fmt.Sprintf("%v %+v %#v %s %x %d %q %+v %#v %x", k, k, k, k, k, k, []Key{k}, inside, inside, inside) + log.String() + err.Error()
	for _, form := range []string{k.Text()[len(keyPrefix):], fmt.Sprintf("%x", k.secret), fmt.Sprint(k.secret)[1:20], string(k.secret)} {
		if strings.Contains(shown, form) {
			t.Errorf("the key shows in %s", shown)
		}
	}
	if !strings.Contains(shown, k.ID()) {
		t.Error("the id does not show")
	}
}
