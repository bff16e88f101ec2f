package program

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// nasty are passwords with what is escaped somewhere.
var nasty = []string{
	`a<b&c"hunter2hunter2`,
	`back\slash\new\\u0041hunter2`,
	`50%25 off+more/hunter2?=&`,
	"two\nlines of hunter2\thunter2",
	`grüße>😀hunter2`,
	`hunter2hunter2\`,
}

func TestASecretIsTakenOutHoweverItIsPrinted(t *testing.T) {
	for _, password := range nasty {
		secret, err := json.Marshal(map[string]any{"password": password, "pin": json.Number("123456789012")})
		if err != nil {
			t.Fatal(err)
		}
		twice, err := json.Marshal(string(secret))
		if err != nil {
			t.Fatal(err)
		}
		for how, message := range map[string]string{
			"as it is":             password,
			"JSON":                 string(secret),
			"JSON without HTML":    quoted(password, false),
			"JSON in JSON":         string(twice),
			"ASCII":                strconv.QuoteToASCII(password),
			"query":                url.QueryEscape(password),
			"query, lower case":    strings.NewReplacer("%2F", "%2f", "%5C", "%5c", "%3C", "%3c").Replace(url.QueryEscape(password)),
			"path":                 url.PathEscape(password),
			"path twice":           url.PathEscape(url.PathEscape(password)),
			"user of a URL":        url.UserPassword("app", password).String(),
			"Base64":               base64.StdEncoding.EncodeToString([]byte(password)),
			"Base64 for URLs":      base64.RawURLEncoding.EncodeToString([]byte(password)),
			"Base64 with a user":   base64.StdEncoding.EncodeToString([]byte("app:" + password + "@")),
			"Base64 of everything": base64.StdEncoding.EncodeToString(secret),
		} {
			got := Scrub("it says "+message+" and ends", secret)
			left := got
			for i := range len(got) { // what is left may be in Base64
				for _, text := range []string{got[i:], strings.TrimSpace(got[i:])} {
					if plain, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.Fields(text + " x")[0], "=")); err == nil {
						left += string(plain)
					}
				}
			}
			if !strings.Contains(got, "(secret)") || strings.Contains(left, "hunter2") || !strings.HasPrefix(got, "it says ") || !strings.HasSuffix(got, " and ends") {
				t.Errorf("%s of %q: %q", how, password, got)
			}
		}
	}
}

func TestNumbersAreSecretsToo(t *testing.T) {
	for _, message := range []string{"123456789012", "1.23456789012e+11"} {
		if got := Scrub("pin "+message, []byte(`{"pin":123456789012,"port":5432}`)); got != "pin (secret)" {
			t.Errorf("%s: %q", message, got)
		}
	}
	if got := Scrub("port 5432", []byte(`{"port":5432}`)); got != "port 5432" {
		t.Errorf("a short one: %q", got)
	}
}

func script(t *testing.T, text string) []string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{name}
}

func TestAProgramThatPrintsItsInputTellsNoSecret(t *testing.T) {
	for _, password := range nasty {
		in, err := json.Marshal(map[string]string{"password": password})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Run(t.Context(), script(t, "cat >&2; exit 1"), time.Minute, in, in)
		if exit, ok := errors.AsType[*Exit](err); !ok || exit.Words != `{"password":"(secret)"}` {
			t.Errorf("%q: %v", password, err)
		}
	}
}

// A secret where what is shown begins must not be found in part.
func TestASecretThatIsCutThroughIsTakenOut(t *testing.T) {
	password := strings.Repeat(`<hunter2>`, 40)
	in, err := json.Marshal(map[string]string{"password": password})
	if err != nil {
		t.Fatal(err)
	}
	for _, after := range []int{maxError - 1, maxError - 100, maxError - 1000, 10} {
		// Much of what follows is secret, too, and gets short.
		for name, text := range map[string]string{
			"once": fmt.Sprintf("cat >&2; head -c %d /dev/zero | tr '\\0' x >&2; exit 1", after),
			"more": fmt.Sprintf("tee /dev/null >$0.in; for i in 1 2 3 4 5 6 7 8 9 10; do cat $0.in >&2; done; head -c %d /dev/zero | tr '\\0' x >&2; exit 1", after),
		} {
			_, err = Run(t.Context(), script(t, text), time.Minute, in, in)
			exit, ok := errors.AsType[*Exit](err)
			if !ok || strings.Contains(exit.Words, "unter") || len(exit.Words) > maxError+len("…")+len("(secret)") || !strings.HasSuffix(exit.Words, "xxx") {
				t.Errorf("%s, with %d bytes after it: %v", name, after, err)
			}
		}
	}
}

func TestOfMuchTheLastIsKept(t *testing.T) {
	w := &tail{limit: 100}
	for i := range 1000 {
		fmt.Fprintf(w, "%d\n", i)
	}
	if got := w.end(8, nil); got != "…998\n999" && got != "…\n998\n999" {
		t.Errorf("the last of it is %q", got)
	}
	if len(w.kept) > 200 {
		t.Errorf("%d bytes are kept", len(w.kept))
	}
}
