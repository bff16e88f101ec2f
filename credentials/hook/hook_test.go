package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// asHook has the test binary be the program of a hook.
const asHook = "act-as-the-program-of-a-hook"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == asHook {
		os.Exit(act(os.Args[2]))
	}
	os.Exit(m.Run())
}

// act is a program whose provider is a directory with a file for each version.
func act(dir string) int {
	in, err := io.ReadAll(os.Stdin)
	var r request
	if err != nil || json.Unmarshal(in, &r) != nil || r.Version != 1 {
		fmt.Fprintln(os.Stderr, "this is not the contract")
		return exitRefused
	}
	if s := string(r.Settings); s != `{"realm":"test"}` {
		fmt.Fprintln(os.Stderr, "the settings are", s)
		return exitRefused
	}
	file := filepath.Join(dir, r.ID)
	state, _ := os.ReadFile(file)
	reply := map[string]any{}
	switch r.Action {
	case "mint":
		password := "p-" + r.Seed[:24]
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			return 1
		}
		reply["public"], reply["secret"] = map[string]string{"file": r.ID}, map[string]string{"file": r.ID, "password": password}
	case "prove":
		switch {
		case state == nil:
			return exitNoVersion
		case works(dir)(context.Background(), r.Secret) != nil:
			fmt.Fprintln(os.Stderr, "refused:", string(r.Secret)) // which it should not say
			return 1
		}
	case "used":
		info, err := os.Stat(file + ".used")
		if err == nil {
			reply["used"] = timestamp.Of(info.ModTime())
		}
	case "disable":
		if state != nil {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return 1
			}
		}
	case "retire":
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return 1
		}
	case "list":
		names, _ := filepath.Glob(filepath.Join(dir, "*"))
		list := []credentials.Found{}
		for _, n := range names {
			if filepath.Ext(n) == "" {
				list = append(list, credentials.Found{ID: filepath.Base(n)})
			}
		}
		reply["versions"] = list
	default:
		return exitNotTold
	}
	if err := json.NewEncoder(os.Stdout).Encode(reply); err != nil {
		return 1
	}
	return 0
}

func works(dir string) func(context.Context, json.RawMessage) error {
	return func(_ context.Context, secret json.RawMessage) error {
		var s struct{ File, Password string }
		if err := json.Unmarshal(secret, &s); err != nil {
			return err
		}
		if text, err := os.ReadFile(filepath.Join(dir, s.File)); err != nil || string(text) != s.Password {
			return fmt.Errorf("the password of %s is refused", s.File)
		}
		return nil
	}
}

func settings(t *testing.T, dir string) string {
	t.Helper()
	s, err := json.Marshal(Settings{Command: []string{executable(t), asHook, dir}, Settings: json.RawMessage(`{"realm":"test"}`)})
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}

func executable(t *testing.T) string {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestHooksRotate(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		dir := t.TempDir()
		return rotatortest.Subject{Kind: Kind{}, Settings: settings(t, dir), Works: works(dir), Slow: true}
	})
}

// script is a program that is a shell script.
func script(t *testing.T, text string) json.RawMessage {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := json.Marshal(Settings{Command: []string{name}, Timeout: "20s"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatProgramsEndWith(t *testing.T) {
	v := credentials.Version{ID: "v1", Credential: "c", Secret: json.RawMessage(`{"password":"hunter2-planted"}`)}
	for _, c := range []struct {
		name, script string
		is           error
		says         string
	}{
		{"success", `cat >/dev/null; echo '{}'`, nil, ""},
		{"success without a word", `exit 0`, nil, ""},
		{"no such version", `exit 4`, credentials.ErrNoVersion, ""},
		{"temporary", `echo "the server is away" >&2; exit 75`, nil, "the server is away"},
		{"refused", `echo "no such user" >&2; exit 65`, nil, "no such user"},
		{"a secret on stderr", `cat >&2; exit 1`, nil, "(secret)"},
		{"no JSON", `echo hunter2-planted`, nil, "not the JSON"},
		{"not told", `exit 3`, nil, "it has to"},
		{"killed", `kill -9 $$`, nil, "by a signal"},
		{"too much", `head -c 2000000 /dev/zero | tr '\0' x`, nil, "more than 1048576 bytes"},
	} {
		v.Settings = script(t, c.script)
		err := Kind{}.Prove(t.Context(), v)
		switch {
		case c.is == nil && c.says == "":
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		case err == nil:
			t.Errorf("%s: no error", c.name)
		case c.is != nil && !errors.Is(err, c.is), !strings.Contains(err.Error(), c.says), strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAProgramThatHangsIsEndedWithAllThatItHasStarted(t *testing.T) {
	dir := t.TempDir()
	s := script(t, `sleep 600 & echo $! > `+dir+`/child; sleep 600`)
	s = json.RawMessage(strings.Replace(string(s), "20s", "300ms", 1))
	err := Kind{}.Disable(t.Context(), credentials.Version{ID: "v1", Settings: s})
	if err == nil || !strings.Contains(err.Error(), "longer than 300ms") {
		t.Errorf("a program that hangs: %v", err)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	ended := func() bool {
		status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(status), ") Z ")
	}
	for deadline := time.Now().Add(10 * time.Second); !ended(); {
		if time.Now().After(deadline) {
			t.Fatal("what the program has started goes on")
		}
	}
}

func TestNothingSecretIsInTheEnvironment(t *testing.T) {
	t.Setenv("TASKFLEET_S3_SECRET_ACCESS_KEY", "hunter2-planted")
	file := filepath.Join(t.TempDir(), "seen")
	v := credentials.Version{ID: "v1", Secret: json.RawMessage(`{"password":"hunter3-planted"}`), Settings: script(t, `(env; echo "$0 $*") > `+file)}
	if err := (Kind{}).Prove(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(file)
	if err != nil || len(seen) == 0 || strings.Contains(string(seen), "planted") {
		t.Errorf("a program sees %q, %v", seen, err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for text, says := range map[string]string{
		`{}`:                                     "command must be",
		`{"command":["rotate"]}`:                 "absolute path",
		`{"command":["/nowhere/rotate"]}`:        "cannot be found",
		`{"command":["/"]}`:                      "no program",
		`{"command":["/bin/sh"],"timeout":"1h"}`: "up to 1m50s",
		`{"comand":["/bin/sh"]}`:                 "unknown field",
	} {
		if _, err := (Kind{}).Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if place, err := (Kind{}).Check(json.RawMessage(`{"command":["/bin/sh"],"place":"the registrar"}`)); err != nil || place != "the registrar" {
		t.Errorf("place %q, %v", place, err)
	}
}
