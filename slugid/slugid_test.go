package slugid

import (
	"strings"
	"testing"
)

func TestNewIsValidAndNeverLooksLikeAFlag(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := New()
		if !Valid(id) || strings.HasPrefix(id, "-") || seen[id] {
			t.Fatalf("bad or repeated slugid %q", id)
		}
		seen[id] = true
	}
	if n := len(Token()); n != 44 {
		t.Errorf("token has %d characters, want 44", n)
	}
}

func TestValid(t *testing.T) {
	for s, want := range map[string]bool{
		"VMxKlcVxTDyPoOYBxIhZ5A":   true,
		"-MxKlcVxTDyPoOYBxIhZ5A":   true,
		"VMxKlcVxADyPoOYBxIhZ5A":   false, // not version 4
		"VMxKlcVxTDyPoOYBxIhZ5B":   false, // stray bits
		"VMxKlcVxTDyPoOYBxIhZ5A\n": false,
		"":                         false, "../../../../../../etc/p": false,
	} {
		if Valid(s) != want {
			t.Errorf("Valid(%q) = %v, want %v", s, !want, want)
		}
	}
}
