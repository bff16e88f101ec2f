package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
)

// byHand is a version that somebody has made before, and that is adopted.
const byHand = "key-4711"

// registrar is a program whose provider is a folder with a file for each version. It starts
// no other one but to remove a file, as it is run some hundred times.
const registrar = `dir=%s
IFS= read -r in
case $in in
'{"version":1,'*'"settings":{"realm":"test"}'*) ;;
*) echo "this is not the contract: $in" >&2; exit 65 ;;
esac
member() {
	case $in in
	*"\"$1\":\""*) value=${in#*"\"$1\":\""}; value=${value%%%%\"*} ;;
	*) value= ;;
	esac
}
member id; id=$value; file=$dir/$id
member action
case $value in
mint)
	member seed
	printf 'p-%%s' "$value" >"$file" || exit 1
	echo '{"public":{"file":"'$id'"},"secret":{"file":"'$id'","password":"p-'$value'"}}' ;;
prove)
	[ -e "$file" ] || exit 4
	IFS= read -r has <"$file"
	member password
	[ "$has" = "$value" ] || { echo "refused: $in" >&2; exit 1; } ;; # which it should not say
disable)
	[ ! -e "$file" ] || : >"$file" || exit 1 ;;
retire)
	[ ! -e "$file" ] || rm "$file" || exit 1 ;;
list)
	for f in "$dir"/*; do
		[ ! -e "$f" ] || all="$all${all:+,}{\"id\":\"${f##*/}\"}"
	done
	echo '{"versions":['"$all"'],"adopt":["` + byHand + `"]}' ;;
used) ;;
*) exit 3 ;;
esac
`

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

func TestHooksRotate(t *testing.T) {
	rotatortest.Run(t, func(t *testing.T, _ *store.DB) rotatortest.Subject {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, byHand), []byte("by-hand"), 0o600); err != nil {
			t.Fatal(err)
		}
		settings := strings.TrimSuffix(string(script(t, fmt.Sprintf(registrar, dir))), "}") + `,"settings":{"realm":"test"}}`
		return rotatortest.Subject{Kind: Kind{}, Settings: settings, Works: works(dir), Slow: true}
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
	s, err := json.Marshal(Settings{Command: []string{name}, Timeout: "100s"})
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
	s = json.RawMessage(strings.Replace(string(s), "100s", "1ms", 1))
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
