package blob_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/blob"
)

func TestKeysAreSpelledReadably(t *testing.T) {
	for key, want := range map[string]string{
		"a":                              "a",
		"task/0/public/logs/live.log":    "task~/0~/public~/logs~/live.log",
		"public/übersicht 1+2.txt":       "public~/übersicht 1+2.txt",
		"/a//b":                          "~/a~/~/b",
		"a/":                             "a~/~empty",
		"/":                              "~/~empty",
		".":                              "~2e",
		"..":                             "~2e.",
		"...":                            "...",
		"../../etc/passwd":               "..~/..~/etc~/passwd",
		"a/./..":                         "a~/.~/~2e.",
		"a~b":                            "a~7eb",
		"a~/b~":                          "a~7e~/b~7e",
		"~empty":                         "~7eempty",
		"a\nb\x00\x7f":                   "a~0ab~00~7f",
		"\xff\uffff":                     "~ff~ef~bf~bf",
		".sgwtmp/.sgwtmp":                "~2esgwtmp~/~2esgwtmp",
		"100%/%2e%2e?#&":                 "100%~/%2e%2e?#&",
		strings.Repeat("x", 201):         strings.Repeat("x", 200) + "~-/x",
		strings.Repeat("x", 200) + "..":  strings.Repeat("x", 200) + "~-/~2e.",
		strings.Repeat("x", 199) + "~/é": strings.Repeat("x", 199) + "~-/~7e~/é",
		strings.Repeat("x", 199) + "é":   strings.Repeat("x", 199) + "~-/é",
	} {
		got, err := blob.Spell(key)
		if err != nil || got != want {
			t.Errorf("Spell(%q) = %q, %v, want %q", key, got, err, want)
		}
		back, ok := blob.Unspell(got)
		if !ok || back != key {
			t.Errorf("Unspell(%q) = %q, %v, want %q", got, back, ok, key)
		}
	}
}

func TestForeignNamesHaveNoKey(t *testing.T) {
	for _, name := range []string{
		"", "a/b", "a~/", "/a", "a~b", "a~7", "a~7E", "a~61", "..", "~empty", "a~-/b", ".live.log.sgwtmp.17",
		strings.Repeat("x", 201), strings.Repeat("x", 200) + "~-/~empty", "a~//b",
	} {
		if key, ok := blob.Unspell(name); ok {
			t.Errorf("Unspell(%q) = %q, want none", name, key)
		}
	}
}

func TestImpossibleKeysAreRefused(t *testing.T) {
	if _, err := blob.Spell(""); !errors.Is(err, blob.ErrKey) {
		t.Errorf("the empty key: %v", err)
	}
	if s, err := blob.Spell(strings.Repeat("abc/", 204) + "abcd"); err != nil || len(s) != 1024 {
		t.Errorf("a key that takes 1024 bytes: %d, %v", len(s), err)
	}
	_, err := blob.Spell(strings.Repeat("abc/", 204) + "abcde")
	if !errors.Is(err, blob.ErrKeyTooLong) || !errors.Is(err, blob.ErrKey) {
		t.Errorf("a key that takes 1025 bytes: %v", err)
	}
}

func FuzzKeys(f *testing.F) {
	for _, key := range []string{"a/b", "../x", "//", "a~-/b~", "~7e", "\xff~", ".sgwtmp", strings.Repeat("~é.", 120)} {
		f.Add(key, "a~/b")
	}
	f.Fuzz(func(t *testing.T, key, name string) {
		if back, ok := blob.Unspell(name); ok {
			if again, err := blob.Spell(back); len(name) <= 1024 && (err != nil || again != name) {
				t.Fatalf("%q is the spelling of %q, which is spelled %q, %v", name, back, again, err)
			}
		}
		s, err := blob.Spell(key)
		if err != nil {
			return
		}
		if back, ok := blob.Unspell(s); !ok || back != key {
			t.Fatalf("%q is spelled %q, which is the spelling of %q", key, s, back)
		}
		if !utf8.ValidString(s) {
			t.Fatalf("the spelling %q of %q is not UTF-8", s, key)
		}
		segments := strings.Split(s, "/")
		for i, segment := range segments {
			switch {
			case segment == "", segment == ".", segment == "..", segment == ".sgwtmp":
				t.Fatalf("the spelling %q of %q has the segment %q", s, key, segment)
			case len(segment) > 220:
				t.Fatalf("the spelling %q of %q has a segment of %d bytes", s, key, len(segment))
			case (i < len(segments)-1) != (strings.HasSuffix(segment, "~") || strings.HasSuffix(segment, "~-")):
				t.Fatalf("in the spelling %q of %q a directory looks like an object, or an object like a directory", s, key)
			}
		}
	})
}
