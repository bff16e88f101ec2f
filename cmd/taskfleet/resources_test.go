//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const someResources = `
managed: ["Role=project:a:.*", "Role=hook-id:project-a/.*", "Client=project/a/.*", "Secret=project/a/.*", "WorkerPool=proj-a/.*", "Hook=project-a/.*", "DenylistAddress=email/.*"]
roles:
  project:a:builds: {description: "What\nbuilds may do.\n", scopes: ["queue:create-task:low:proj-a/build"]}
  hook-id:project-a/nightly: {scopes: ["assume:project:a:builds"]}
clients:
  project/a/ci: {description: CI, scopes: ["assume:project:a:builds"]}
  project/a/off: {disabled: true, expires: 2040-01-01}
workerPools:
  proj-a/build: {providerId: local, owner: a@example.com, config: {maxCapacity: 2.0, workerConfig: {idleTimeoutSecs: 5}}}
hooks:
  project-a/nightly:
    name: Nightly
    owner: a@example.com
    schedule: ["0 0 3 * * *"]
    task: {metadata: {name: 1.50}}
secrets:
  project/a/key: {valueFrom: {env: THE_KEY}}
  project/a/later: {}
denylist:
  email/Nobody@example.com:
`

// Made, made again, changed, exported, and taken away, on both databases.
func TestAPlatformIsMadeAsFilesSay(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		p := startReal(t, func(c *Config) { c.Database = url })
		core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("THE_KEY", `{"key": "hunter2"}`)
		file := writeFile(t, "conf.yml", someResources)
		diff := func(code int, want string, files ...string) string {
			t.Helper()
			return expect(t, code, want, append([]string{"resources", "diff"}, files...)...)
		}
		out := diff(exitDifferent, `(?s)^\+ Role=hook-id:project-a/nightly\n.*\+ Secret=project/a/key\n    value: \(hidden\)\n.*9 to create, 0 to change, 0 to delete, 0 as they should be\ntaskfleet: there are differences`, file)
		if strings.Contains(out, "hunter2") {
			t.Errorf("the value of a secret is shown:\n%s", out)
		}
		expect(t, exitOK, `(?s)created Role=project:a:builds\n.*created Hook=project-a/nightly\n.*is as the files say: 9 changes made\n$`, "resources", "apply", file)
		diff(exitOK, `^http\S+ is as the files say: 9 resources\n$`, file)
		expect(t, exitOK, `is as the files say: 9 resources\n$`, "resources", "apply", file)

		// What is exported is what there is: as one file, and as many.
		dir := t.TempDir()
		one, many, values := filepath.Join(dir, "all.yml"), filepath.Join(dir, "conf")+"/", filepath.Join(dir, "secrets.yml")
		expect(t, exitOK, `2 secrets, 1 worker pool, 1 hook, 1 denylist address of .* in .*all.yml\n$`, "resources", "export", "-o", one)
		diff(exitOK, "as the files say: 10 resources", one) // and the role of everybody
		expect(t, exitOK, "hooks.yml, .*secrets.yml", "resources", "export", "-o", many, "--secrets-to", values)
		diff(exitOK, "as the files say: 10 resources", many, values)
		expect(t, exitFailed, `all.yml is there already: write to another one`, "resources", "export", "-o", one)
		if info, err := os.Stat(values); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file of secrets is %v, %v", info, err)
		}
		if text, err := os.ReadFile(values); err != nil || !strings.Contains(string(text), "hunter2") {
			t.Errorf("the file of secrets has %q, %v", text, err)
		}
		if text, err := os.ReadFile(one); err != nil || strings.Contains(string(text), "hunter2") || strings.Contains(string(text), "\nmanaged:") {
			t.Errorf("what is exported is %v\n%s", err, text)
		}
		exported := expect(t, exitOK, `^# What http`, "resources", "export", "--only", "Role=project:a:.*", "--from", p.RootURL)
		if !strings.Contains(exported, "managed:\n  - Role=project:a:.*\nroles:\n  project:a:builds:\n    description: |\n      What\n      builds may do.\n") || strings.Contains(exported, "anonymous") {
			t.Errorf("the roles of the project are\n%s", exported)
		}

		// What others changed is found, and made as it should be. What nobody speaks of stays.
		for _, f := range []func() error{
			func() error {
				_, err := auth.New(core).UpdateRole(t.Context(), "project:a:builds", &auth.CreateRoleRequest{Description: "\x1b[31mx", Scopes: client.List[string]{"queue:y"}})
				return err
			},
			func() error {
				_, err := auth.New(core).CreateRole(t.Context(), "project:a:extra", &auth.CreateRoleRequest{Scopes: client.List[string]{}})
				return err
			},
			func() error {
				_, err := auth.New(core).CreateRole(t.Context(), "project:b:extra", &auth.CreateRoleRequest{Scopes: client.List[string]{}})
				return err
			},
			func() error { _, err := auth.New(core).EnableClient(t.Context(), "project/a/off"); return err },
			func() error { _, err := auth.New(core).DisableClient(t.Context(), "project/a/ci"); return err },
			func() error {
				return secrets.New(core).Set(t.Context(), "project/a/key", &secrets.Secret{Secret: json.RawMessage(`{"key":"hunter3"}`), Expires: timestamp.Now().Add(time.Hour)})
			},
			func() error {
				return secrets.New(core).Set(t.Context(), "project/a/later", &secrets.Secret{Secret: json.RawMessage(`{"key":"set"}`), Expires: timestamp.Now().Add(time.Hour)})
			},
		} {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		out = diff(exitDifferent, `(?s)~ Role=project:a:builds\n.*~ Client=project/a/off\n.*  -disabled: false\n  \+disabled: true\n.*~ Secret=project/a/key\n.*- Role=project:a:extra\n.*0 to create, 3 to change, 1 to delete, 6 as they should be`, file)
		for _, wrong := range []string{"hunter", "\x1b", "project:b:extra", "project/a/ci", "project/a/later"} {
			if strings.Contains(out, wrong) {
				t.Errorf("the difference has %q:\n%s", wrong, out)
			}
		}
		var result resourcesResult
		if err := json.Unmarshal([]byte(diff(exitDifferent, `"action"`, file, "--json")), &result); err != nil || result.Update != 3 || result.Delete != 1 || result.Same != 6 || len(result.Changes) != 4 {
			t.Errorf("as JSON it is %+v, %v", result, err)
		}
		expect(t, exitFailed, `nothing was done: 1 resource would be deleted, and there is nobody to ask; add --yes`, "resources", "apply", file)
		result = resourcesResult{}
		if err := json.Unmarshal([]byte(expect(t, exitOK, `"done"`, "resources", "apply", file, "--yes", "--json")), &result); err != nil || len(result.Done) != 4 || result.Done[3] != "Role=project:a:extra" {
			t.Errorf("as JSON it is %+v, %v", result, err)
		}
		diff(exitOK, "as the files say: 9 resources", file)
		if s, err := secrets.New(core).Get(t.Context(), "project/a/later"); err != nil || !strings.Contains(string(s.Secret), "set") {
			t.Errorf("a secret without a value was %s, %v", s.Secret, err)
		}
		if c, err := auth.New(core).Client(t.Context(), "project/a/ci"); err != nil || !c.Disabled {
			t.Errorf("a client that was disabled is %+v, %v", c, err)
		}
		if _, err := auth.New(core).Role(t.Context(), "project:b:extra"); err != nil {
			t.Errorf("what is not managed: %v", err)
		}

		// A role that comes to have another one, in a circle while that has not changed yet.
		turn := strings.NewReplacer(`scopes: ["assume:project:a:builds"]}
clients`, `scopes: []}
clients`, `scopes: ["queue:create-task:low:proj-a/build"]`, `scopes: ["assume:hook-id:project-a/nightly"]`).Replace(someResources)
		expect(t, exitOK, `2 changes made`, "resources", "apply", writeFile(t, "turn.yml", turn))

		// All of it goes.
		managed, _, _ := strings.Cut(someResources, "roles:")
		expect(t, exitOK, `(?s)9 to delete.*deleted WorkerPool=proj-a/build\n.*deleted Client=project/a/ci\n.*9 changes made`, "resources", "apply", writeFile(t, "none.yml", managed), "--yes")
		expect(t, exitOK, `is as the files say: 0 resources`, "resources", "diff", writeFile(t, "none.yml", managed))
		if _, err := workermanager.New(core).WorkerPool(t.Context(), "proj-a/build"); err != nil && !client.IsNotFound(err) {
			t.Error(err)
		}
		expect(t, exitFailed, `f.yml:1: the file has no section "role"; did you mean roles\?`, "resources", "check", writeFile(t, "f.yml", "role: {}"))
		expect(t, exitOK, `^2 roles, 2 clients, 2 secrets, 1 worker pool, 1 hook, 1 denylist address in 1 file: nothing is wrong`, "resources", "check", file)
	})
}

// A transport that somebody else uses, too, or that breaks.
type meddler struct {
	mu     sync.Mutex
	before func(*http.Request) *http.Response // under mu; nil: it goes its way
}

func (m *meddler) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	f := m.before
	var answer *http.Response
	if f != nil && r.Method != http.MethodGet {
		answer = f(r)
	}
	m.mu.Unlock()
	if answer != nil {
		return answer, nil
	}
	return http.DefaultTransport.RoundTrip(r)
}

func TestAnApplyThatDoesNotComeToItsEnd(t *testing.T) {
	p := startReal(t)
	t.Setenv("THE_KEY", `{"key": "hunter2"}`)
	m := &meddler{}
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root, Transport: m, Retry: client.Retry{For: time.Nanosecond}})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	compare := func() *resource.Diff {
		t.Helper()
		set, err := resource.Load(nil, writeFile(t, "conf.yml", someResources))
		if err != nil {
			t.Fatal(err)
		}
		if err := set.ReadValues(os.LookupEnv); err != nil {
			t.Fatal(err)
		}
		d, err := set.Diff(t.Context(), core)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	meddle := func(f func(*http.Request) *http.Response) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.before = f
	}
	fault := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
	}

	// A call fails in the middle: what comes after is not tried.
	meddle(func(r *http.Request) *http.Response {
		if strings.Contains(r.URL.Path, "worker-pool") {
			return fault(500, `{"code": "InternalServerError", "message": "broken"}`)
		}
		return nil
	})
	var done []string
	err = compare().Apply(t.Context(), core, func(x resource.Change) { done = append(done, x.ID) })
	u, ok := errors.AsType[*resource.Unfinished](err)
	if !ok || u.Done != 6 || len(done) != 6 || len(u.Failed) != 1 || len(u.Left) != 2 || !strings.Contains(err.Error(), "conf.yml:10: WorkerPool=proj-a/build cannot be created: ") ||
		!strings.Contains(err.Error(), "6 done, 1 failed, 2 not tried. What is done is kept: the same again does the rest") {
		t.Fatalf("after %q: %v", done, err)
	}

	// It is ended between two calls: that which is under way is done.
	ctx, cancel := context.WithCancel(t.Context())
	meddle(func(r *http.Request) *http.Response { cancel(); return nil })
	err = compare().Apply(ctx, core, nil)
	if u, ok = errors.AsType[*resource.Unfinished](err); !ok || u.Done != 1 || len(u.Failed) != 0 || len(u.Left) != 2 || !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	meddle(nil)
	if err := compare().Apply(t.Context(), core, nil); err != nil {
		t.Fatal(err)
	}
	if d := compare(); len(d.Changes) > 0 {
		t.Errorf("there is left %+v", d.Changes)
	}

	// Somebody else changes, makes and deletes what was compared.
	role := func(id, scope string) {
		t.Helper()
		in := &auth.CreateRoleRequest{Scopes: client.List[string]{scope}}
		_, err := auth.New(plain).UpdateRole(t.Context(), id, in)
		if client.IsNotFound(err) {
			_, err = auth.New(plain).CreateRole(t.Context(), id, in)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	role("project:a:builds", "queue:first")
	d := compare()
	role("project:a:builds", "queue:second")
	if err := d.Apply(t.Context(), core, nil); !errors.Is(err, resource.ErrChanged) {
		t.Errorf("what was changed meanwhile: %v", err)
	}
	if r, err := auth.New(plain).Role(t.Context(), "project:a:builds"); err != nil || !slices.Equal(r.Scopes, []string{"queue:second"}) {
		t.Errorf("it is %+v, %v", r, err)
	}
	role("project:a:extra", "queue:first")
	if err := compare().Apply(t.Context(), core, nil); err != nil {
		t.Fatal(err)
	}
	role("project:a:extra", "queue:first")
	d = compare()
	role("project:a:extra", "queue:second")
	if err := d.Apply(t.Context(), core, nil); !errors.Is(err, resource.ErrChanged) {
		t.Errorf("what was changed and is to be deleted: %v", err)
	}
	if err := secrets.New(plain).Remove(t.Context(), "project/a/later"); err != nil {
		t.Fatal(err)
	}
	if err := auth.New(plain).DeleteRole(t.Context(), "project:a:extra"); err != nil {
		t.Fatal(err)
	}
	d = compare()
	if err := secrets.New(plain).Set(t.Context(), "project/a/later", &secrets.Secret{Secret: json.RawMessage(`{"a":"b"}`), Expires: timestamp.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(t.Context(), core, nil); err != nil {
		t.Errorf("a secret that was made meanwhile is as it should be: %v", err)
	}
	if s, err := secrets.New(plain).Get(t.Context(), "project/a/later"); err != nil || string(s.Secret) != `{"a":"b"}` {
		t.Errorf("a secret that was made meanwhile is %+v, %v", s, err)
	}

	// A platform that repeats what it was sent does not have it repeated here.
	t.Setenv("THE_KEY", `{"key": "hunter4"}`)
	meddle(func(r *http.Request) *http.Response {
		return fault(400, `{"code": "InputError", "message": "hunter4 is no good"}`)
	})
	if err := compare().Apply(t.Context(), core, nil); err == nil || strings.Contains(err.Error(), "hunter4") || !strings.Contains(err.Error(), "Secret=project/a/key cannot be updated: the platform does not take it") {
		t.Errorf("a secret that is refused: %v", err)
	}
}

// Who does it is not deleted by it, and a platform without rights tells which are missing.
func TestAnApplyDoesNotDeleteWhoDoesIt(t *testing.T) {
	p := startReal(t)
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	made, err := auth.New(core).CreateClient(t.Context(), "ops/me", &auth.CreateClientRequest{Expires: timestamp.Now().Add(time.Hour), Scopes: []string{"auth:*"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TASKCLUSTER_ROOT_URL", p.RootURL)
	t.Setenv("TASKCLUSTER_CLIENT_ID", "ops/me")
	t.Setenv("TASKCLUSTER_ACCESS_TOKEN", made.AccessToken)
	expect(t, exitFailed, `Client=ops/me cannot be deleted: it is the client that does this`, "resources", "apply", "--yes", writeFile(t, "f.yml", "managed: ['Client=ops/.*']"))
	expect(t, exitTrouble, `(?s)the secrets cannot be listed: .*secrets:list-secrets.*taskfleet creds show lists their scopes`, "resources", "diff", writeFile(t, "f.yml", "secrets: {a: {}}"))
	expect(t, exitUsage, `--only: the pattern "x" does not begin with a kind`, "resources", "export", "--only", "x")
}

// What programs do with kinds that have their own idea of what there is, such as providers of infrastructure tools.
func TestEachKindIsCreatedReadUpdatedAndDeleted(t *testing.T) {
	p := startReal(t)
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		kind                          resource.Kind
		name, first, then, wantUpdate string
	}{
		{resource.Roles, "project:a:x", `{"scopes": ["b", "a"]}`, `{"description": "x"}`, `{"description":"x","scopes":[]}`},
		{resource.Clients, "project/a/x", `{"disabled": true}`, `{"description": "x"}`, `{"description":"x","scopes":[],"expires":"3000-01-01T00:00:00.000Z","deleteOnExpiration":false,"disabled":true}`},
		{resource.Secrets, "project/a/x", `{"value": {"a": 1.0}}`, `{"expires": "2999-01-01T00:00:00Z"}`, `{"expires":"2999-01-01T00:00:00.000Z","value":{"a":1}}`},
		{resource.WorkerPools, "proj-a/x", `{"providerId": "static", "owner": "a@b.c", "config": {}}`, `{"providerId": "static", "owner": "a@b.c", "emailOnError": true, "config": {"scopes": []}}`,
			`{"providerId":"static","description":"","owner":"a@b.c","emailOnError":true,"config":{"scopes":[]}}`},
		{resource.Hooks, "project-a/x/y", `{"name": "x", "owner": "a@b.cd", "task": {}, "bindings": [{"exchange": "exchange/a/v1/b", "routingKeyPattern": "#"}], "triggerSchema": {"type": "object"}}`,
			`{"name": "x", "owner": "a@b.cd", "task": {"a": 1e1}}`,
			`{"name":"x","description":"","owner":"a@b.cd","emailOnError":true,"schedule":[],"bindings":[],"task":{"a":10},"triggerSchema":{"additionalProperties":false,"type":"object"}}`},
		{resource.Denylist, "email/a@b.c", `{}`, `{}`, `{}`},
	} {
		t.Run(test.kind.Name(), func(t *testing.T) {
			read := func() string {
				t.Helper()
				is, err := test.kind.Read(t.Context(), core, test.name)
				if err != nil {
					t.Fatal(err)
				}
				list, err := test.kind.List(t.Context(), core)
				if err != nil || (list[test.name] != nil) != (is != nil) {
					t.Errorf("it is %s, and in the list %s, %v", is, list[test.name], err)
				}
				return string(is)
			}
			normal := func(document string) json.RawMessage {
				t.Helper()
				d, err := test.kind.Normal(test.name, json.RawMessage(document))
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			if is := read(); is != "" {
				t.Fatalf("it is there before it is made: %s", is)
			}
			first := normal(test.first)
			if err := test.kind.Create(t.Context(), core, test.name, first); err != nil {
				t.Fatal(err)
			}
			is := read()
			if want, err := test.kind.Complete(first, json.RawMessage(is)); err != nil || is != string(want) {
				t.Errorf("it is\n%s\nwant\n%s, %v", is, want, err)
			}
			if err := test.kind.Update(t.Context(), core, test.name, normal(test.then)); err != nil {
				t.Fatal(err)
			}
			if is := read(); is != test.wantUpdate {
				t.Errorf("changed, it is\n%s\nwant\n%s", is, test.wantUpdate)
			}
			for range 2 {
				if err := test.kind.Delete(t.Context(), core, test.name); err != nil {
					t.Fatal(err)
				}
			}
			if is := read(); is != "" {
				t.Errorf("deleted, it is %s", is)
			}
		})
	}
}

// Characters that turn the direction of text are not shown, and two documents may differ in them alone.
func TestADifferenceThatIsNotShownIsTold(t *testing.T) {
	t.Parallel()
	d := &resource.Diff{Changes: []resource.Change{{
		ID: "Role=a", Action: resource.Update, Before: json.RawMessage("{\"description\":\"x\u202ey\"}"), After: json.RawMessage("{\"description\":\"x\u202dy\"}"),
	}}}
	var out strings.Builder
	if err := printResources(&out, "it", d); err != nil || !strings.Contains(out.String(), "~ Role=a\n    (what differs is characters that are not shown") || !strings.Contains(out.String(), "1 to change") {
		t.Errorf("it is shown as %q, %v", out.String(), err)
	}
}
