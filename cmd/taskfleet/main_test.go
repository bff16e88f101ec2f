package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// The local provider starts the running program as its workers, and that is the
// test's binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// A test may itself run as a task.
	for _, name := range []string{"TASKCLUSTER_ROOT_URL", "TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN", "TASKCLUSTER_CERTIFICATE", "TASKFLEET_DATA"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

// soon is how long tests wait for what has to come. Processes may stand still for long on a machine that is busy.
const soon = 5 * time.Minute

// command runs a command line and returns what it printed, and its exit code.
func command(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &o, &e)
	return o.String(), e.String(), code
}

// fakePlatform sets the environment up for a server that answers with h.
func fakePlatform(t *testing.T, h http.HandlerFunc) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	t.Setenv("TASKCLUSTER_ROOT_URL", s.URL)
	t.Setenv("TASKCLUSTER_CLIENT_ID", "tester")
	t.Setenv("TASKCLUSTER_ACCESS_TOKEN", "the-token-that-nobody-may-see-on-the-terminal")
}

const aTask = "fN1SbArXTPSVFNUvaOlinQ"

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server was asked: %s", r.URL) })
	for line, want := range map[string]string{
		"nonsense":                                   `unknown command "nonsense"`,
		"task nonsense":                              `unknown command "nonsense" for "taskfleet task"`,
		"task status":                                "accepts 1 arg(s), received 0",
		"task status abc":                            `"abc" is no task id`,
		"task status --nonsense " + aTask:            "unknown flag: --nonsense",
		"task log --run x " + aTask:                  "invalid argument",
		"task download " + aTask:                     "accepts 2 arg(s)",
		"task create --queue local/build":            "a task needs a command: write it after --",
		"task create -- true":                        "taskfleet pool list shows the pools",
		"task create -q a/b -e X -- true":            `--env is "X"; it must be NAME=VALUE`,
		"task create -q a/b -a X -- true":            `--artifact is "X"; it must be NAME=PATH`,
		"task create -q a/b --deadline soon -- true": "--deadline: \"soon\" is no duration",
		"task create -q a/b --id x -- true":          "it must be a slug",
		"task create -f x -- true":                   "so a command makes no sense",
		"graph submit":                               "accepts 1 arg(s)",
		"graph submit x --param y":                   `--param is "y"; it must be NAME=VALUE`,
		"graph submit x --watch --dry-run":           "[dry-run watch]",
		"pool apply":                                 `required flag(s) "file" not set`,
		"creds new a --expires tomorrow":             `"tomorrow" is no duration`,
		"creds show --json --export":                 "[export json]",
		"bench queue --clients 0":                    "give numbers from 1 to 10000",
		"bench queue --duration -1s":                 "must be more than nothing",
		"worker":                                     "at least one of the flags in the group [config aws]",
		"worker --config x --aws":                    "[aws config]",
		"up unexpected":                              `unknown command "unexpected" for "taskfleet up"`,
		"up --param x":                               "it must be NAME=VALUE",
		"version 1":                                  `unknown command "1"`,
	} {
		out, errOut, code := command(t, strings.Split(line, " ")...)
		if code != exitUsage || !strings.Contains(errOut, want) || !strings.Contains(errOut, "--help") || out != "" {
			t.Errorf("%q ended with %d, %q and\n%s\nwant %q", line, code, out, errOut, want)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s has the short text %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.RunE == nil && !cmd.HasSubCommands() {
			t.Errorf("%s does nothing", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			check(c)
		}
	}
	check(newRootCommand())
	for _, line := range []string{"", "task", "help graph submit", "completion bash"} {
		out, errOut, code := command(t, strings.Fields(line)...)
		if code != exitOK || out == "" || errOut != "" {
			t.Errorf("%q ended with %d, %d bytes and %q", line, code, len(out), errOut)
		}
	}
}

func TestErrorsSayWhatToDoNext(t *testing.T) {
	refuse := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(map[string]string{"code": code, "message": "because"})
		}
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		line   string
		want   []string
	}{
		"not known":      {refuse(401, "AuthenticationFailed"), "task status " + aTask, []string{"because", "The credentials are the TASKCLUSTER_* environment variables", "taskfleet creds show"}},
		"not allowed":    {refuse(403, "InsufficientScopes"), "task cancel " + aTask, []string{"the credentials of tester, from the TASKCLUSTER_* environment variables", "ask an administrator"}},
		"not there":      {refuse(404, "ResourceNotFound"), "task rerun " + aTask, []string{"there is no task " + aTask + " here, or it has expired"}},
		"no pool":        {refuse(404, "ResourceNotFound"), "pool show local/nil", []string{"there is no worker pool local/nil; taskfleet pool list shows"}},
		"no artifact":    {refuse(404, "ResourceNotFound"), "task download " + aTask + " public/x", []string{"taskfleet task artifacts " + aTask + " lists"}},
		"another server": {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "loops", []string{"the root URL of a deployment?", "TASKCLUSTER_* environment variables"}},
	} {
		t.Run(name, func(t *testing.T) {
			fakePlatform(t, test.answer)
			out, errOut, code := command(t, strings.Fields(test.line)...)
			if code != exitFailed || out != "" {
				t.Errorf("ended with %d and %q", code, out)
			}
			for _, part := range test.want {
				if !strings.Contains(errOut, part) {
					t.Errorf("the error is\n%s\nwithout %q", errOut, part)
				}
			}
			if strings.Contains(errOut, "nobody-may-see") {
				t.Errorf("the error has the token: %s", errOut)
			}
		})
	}
}

func TestCredentialsAreLookedForInTheirOrder(t *testing.T) {
	t.Chdir(t.TempDir())
	_, errOut, code := command(t, "creds", "show")
	if code != exitFailed || !strings.Contains(errOut, "TASKCLUSTER_ROOT_URL is not set, and there is no "+filepath.Join(".taskfleet", "credentials.json")) ||
		!strings.Contains(errOut, "taskfleet up") {
		t.Errorf("without any: %d, %s", code, errOut)
	}
	write := func(dir, text string) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "credentials.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	export := func() string {
		out, errOut, code := command(t, "creds", "show", "--export")
		if code != exitOK {
			t.Errorf("ended with %d: %s", code, errOut)
		}
		return out
	}
	write(".taskfleet", `{"rootUrl": "http://here.test", "clientId": "here", "accessToken": "secret of here"}`)
	if out := export(); !strings.Contains(out, "export TASKCLUSTER_CLIENT_ID='here'\nexport TASKCLUSTER_ACCESS_TOKEN='secret of here'\nunset TASKCLUSTER_CERTIFICATE\n") {
		t.Errorf("of this directory: %s", out)
	}
	write("elsewhere", `{"rootUrl": "http://else.test", "clientId": "else", "accessToken": "it's secret"}`)
	t.Setenv("TASKFLEET_DATA", "elsewhere")
	if out := export(); !strings.Contains(out, `export TASKCLUSTER_ACCESS_TOKEN='it'\''s secret'`) {
		t.Errorf("of TASKFLEET_DATA: %s", out)
	}
	t.Setenv("TASKCLUSTER_ROOT_URL", "https://env.test")
	t.Setenv("TASKCLUSTER_CLIENT_ID", "env")
	t.Setenv("TASKCLUSTER_ACCESS_TOKEN", "of env")
	if out := export(); !strings.Contains(out, "ROOT_URL='https://env.test'\nexport TASKCLUSTER_CLIENT_ID='env'") {
		t.Errorf("of the environment: %s", out)
	}
	write("elsewhere", `{`)
	t.Setenv("TASKCLUSTER_ROOT_URL", "")
	if _, errOut, code := command(t, "pool", "list"); code != exitFailed || !strings.Contains(errOut, "is damaged") {
		t.Errorf("damaged: %d, %s", code, errOut)
	}
}

func TestTemporaryCredentialsAreMadeWithoutAServer(t *testing.T) {
	fakePlatform(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the server was asked: %s", r.URL) })
	out, errOut, code := command(t, "creds", "new", "ci/nightly", "--scope", "a:b", "--expires", "2 hours", "--json")
	var made struct{ ClientID, AccessToken, Certificate string }
	if err := json.Unmarshal([]byte(out), &made); code != exitOK || err != nil {
		t.Fatalf("ended with %d, %v: %s%s", code, err, out, errOut)
	}
	if made.ClientID != "ci/nightly" || !strings.Contains(made.Certificate, `"issuer":"tester"`) || !strings.Contains(made.Certificate, `"a:b"`) {
		t.Errorf("made %+v", made)
	}
	if _, errOut, code := command(t, "creds", "new", "ci/nightly", "--expires", "40 days"); code != exitUsage || !strings.Contains(errOut, "31 days at most. --permanent") {
		t.Errorf("for 40 days: %d, %s", code, errOut)
	}
}

func TestGraphsCanBeLookedAtWithoutAPlatform(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	for _, dir := range []string{"examples/hello", "examples/fan", "examples/trouble", "examples/self"} {
		out, errOut, code := command(t, "graph", "submit", dir, "--dry-run")
		if code != exitOK || !strings.HasSuffix(out, "nothing was created\n") {
			t.Errorf("%s: %d, %s%s", dir, code, out, errOut)
		}
		for line := range strings.Lines(out) {
			if len([]rune(line)) > 81 && !strings.HasPrefix(line, "parameter") {
				t.Errorf("%s: a line has more than 80 columns: %s", dir, line)
			}
		}
	}
	out, _, _ := command(t, "graph", "submit", "examples/self", "--dry-run", "--json", "--param", "platforms=plan9-arm")
	var g submittedGraph
	if err := json.Unmarshal([]byte(out), &g); err != nil || len(g.Tasks) < 15 || g.Tasks[0].Definition == nil {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(out, `"binary-plan9-arm"`) {
		t.Error("the parameter has no effect")
	}
	if _, errOut, code := command(t, "graph", "submit", "examples/self", "--dry-run", "--param", "plattforms=x"); code != exitFailed || !strings.Contains(errOut, "did you mean platforms?") {
		t.Errorf("%d, %s", code, errOut)
	}
}
