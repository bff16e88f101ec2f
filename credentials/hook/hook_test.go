package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
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

// byHand is a version that somebody has made before, and that is adopted.
const byHand = "key-4711"

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
		list, adopt := []credentials.Found{}, []string{}
		for _, n := range names {
			id := filepath.Base(n)
			if filepath.Ext(n) == "" {
				list = append(list, credentials.Found{ID: id})
			}
			if id == byHand {
				adopt = append(adopt, id)
			}
		}
		reply["versions"], reply["adopt"] = list, adopt
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
		if err := os.WriteFile(filepath.Join(dir, byHand), []byte("by-hand"), 0o600); err != nil {
			t.Fatal(err)
		}
		return rotatortest.Subject{Kind: Kind{}, Settings: settings(t, dir), Works: works(dir), Slow: true}
	})
}

// The engine has an id of its own for what was adopted, which the program never sees.
func TestAProgramKnowsWhatWasAdoptedByItsOwnName(t *testing.T) {
	adopted := credentials.Version{ID: "db/" + byHand, Credential: "db"}
	for action, f := range map[string]func(json.RawMessage) error{
		"mint": func(s json.RawMessage) error {
			_, err := Kind{}.Mint(t.Context(), credentials.Order{Credential: "db", Settings: s, ID: "v1", Known: []credentials.Version{adopted}})
			return err
		},
		"list": func(s json.RawMessage) error {
			found, err := Kind{}.List(t.Context(), credentials.Order{Credential: "db", Settings: s, Known: []credentials.Version{adopted}})
			if err == nil && (len(found) != 2 || found[0].ID != adopted.ID || !found[0].Adopt || found[1].ID != "other" || found[1].Adopt) {
				t.Errorf("the program has listed %+v", found)
			}
			return err
		},
		"used": func(s json.RawMessage) error {
			v := adopted
			v.Settings = s
			_, err := Kind{}.Used(t.Context(), v)
			return err
		},
		"disable": func(s json.RawMessage) error { v := adopted; v.Settings = s; return Kind{}.Disable(t.Context(), v) },
		"retire":  func(s json.RawMessage) error { v := adopted; v.Settings = s; return Kind{}.Retire(t.Context(), v) },
	} {
		seen := filepath.Join(t.TempDir(), "seen")
		if err := f(script(t, `cat >`+seen+`; echo '{"secret":{"a":"b"},"versions":[{"id":"`+byHand+`"},{"id":"other"}],"adopt":["`+byHand+`"]}'`)); err != nil {
			t.Errorf("%s: %v", action, err)
		}
		if text, err := os.ReadFile(seen); err != nil || !strings.Contains(string(text), `"id":"`+byHand+`"`) {
			t.Errorf("%s: the program gets %s, %v", action, text, err)
		}
	}
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

// It is ended when the child is known to be there, as a limit could end it before that.
func TestAProgramThatHangsIsEndedWithAllThatItHasStarted(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "child")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reason := errors.New("the test has seen the child")
	ctx, cancel := context.WithCancelCause(t.Context())
	told := make(chan int, 1)
	go func() {
		defer cancel(reason)
		text, err := os.ReadFile(fifo) // until the program has written it
		pid, bad := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || bad != nil {
			t.Errorf("the program has told %q, %v", text, err)
		} else if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("the child is not there: %v", err)
		}
		told <- pid
	}()
	err := Kind{}.Disable(ctx, credentials.Version{ID: "v1", Settings: script(t, `sleep 600 & echo $! >`+fifo+`; sleep 600`)})
	if !errors.Is(err, reason) {
		t.Fatalf("a program that hangs: %v", err)
	}
	pid := <-told
	if pid <= 0 {
		t.FailNow()
	}
	for deadline := time.Now().Add(time.Minute); running(pid); runtime.Gosched() {
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("what the program has started goes on")
		}
	}
}

// running tells that there is such a process, and not only what is left of it for a
// parent to collect.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(status), ") Z ")
}

func TestAProgramThatTakesTooLongIsEnded(t *testing.T) {
	s := script(t, `sleep 600`)
	s = json.RawMessage(strings.Replace(string(s), "20s", "1ms", 1))
	err := Kind{}.Disable(t.Context(), credentials.Version{ID: "v1", Settings: s})
	if err == nil || !strings.Contains(err.Error(), "longer than 1ms") {
		t.Errorf("a program that hangs: %v", err)
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
