package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/test/server"
)

// platform is a running one, for all subtests of a test.
func platform(t *testing.T) *client.Client {
	t.Helper()
	binary, err := server.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), server.Options{Binary: binary, Data: filepath.Join(t.TempDir(), "data"), CheckOutput: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(client.Options{RootURL: s.RootURL, Credentials: cred.Credentials{ClientID: s.ClientID, AccessToken: s.AccessToken}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestResourcesOfAPlatform(t *testing.T) {
	c := platform(t)
	for _, x := range []struct {
		kind           resource.Kind
		name           string
		first, second  string // how it is to be
		behind         string // how somebody else makes it
		state          string // of the first
		change         string // from the first to the second
		drift          string // from behind back to the second
		imported       string // of what is behind
		nothingChanges bool   // there is nothing to say of one
	}{
		{
			kind: resource.Roles, name: "project:x:admin",
			first:    `{"scopes": ["b", "a", "b"]}`,
			second:   `{"scopes": ["a", "c"], "description": "What admins may do."}`,
			behind:   `{"scopes": ["*"], "description": "What admins may do."}`,
			state:    `{"description":"","scopes":["a","b"]}`,
			change:   "update spec.description, update spec.scopes[1]",
			drift:    "update spec.scopes[0], add spec.scopes[1]",
			imported: `{"description":"What admins may do.","scopes":["*"]}`,
		},
		{
			kind: resource.Clients, name: "project/x/ci",
			first:    `{"scopes": ["assume:project:x:admin"], "expires": "2040-01-01T00:00:00.000Z"}`,
			second:   `{"scopes": [], "disabled": true}`,
			behind:   `{"scopes": [], "disabled": false, "deleteOnExpiration": true, "expires": "2040-01-01T00:00:00.000Z"}`,
			state:    `{"deleteOnExpiration":false,"description":"","disabled":false,"expires":"2040-01-01T00:00:00.000Z","scopes":["assume:project:x:admin"]}`,
			change:   "update spec.disabled, update spec.expires, delete spec.scopes[0]",
			drift:    "update spec.deleteOnExpiration, update spec.disabled, update spec.expires",
			imported: `{"deleteOnExpiration":true,"description":"","disabled":false,"expires":"2040-01-01T00:00:00.000Z","scopes":[]}`,
		},
		{
			kind: resource.Secrets, name: "project/x/key",
			first:    `{"value": {"password": "hunter2", "none": null}, "expires": "2040-01-01T00:00:00.000Z"}`,
			second:   `{"value": {"password": "hunter3", "none": null}, "expires": "2040-01-01T00:00:00.000Z"}`,
			behind:   `{"value": {"password": "theirs"}, "expires": "2041-01-01T00:00:00.000Z"}`,
			state:    `{"expires":"2040-01-01T00:00:00.000Z","value":"<{\"none\":null,\"password\":\"hunter2\"}>"}`,
			change:   "update spec.value",
			drift:    "update spec.expires, update spec.value",
			imported: `{"expires":"2041-01-01T00:00:00.000Z","value":"<{\"password\":\"theirs\"}>"}`,
		},
		{
			kind: resource.WorkerPools, name: "proj-x/build",
			first:    `{"providerId": "static", "owner": "a@example.com", "config": {"workerConfig": {"one": 1.0, "ratio": 1.50, "none": null}}}`,
			second:   `{"providerId": "static", "owner": "a@example.com", "config": {"workerConfig": {"one": 2, "none": null, "more": {"a.b": []}}}, "emailOnError": true}`,
			behind:   `{"providerId": "static", "owner": "b@example.com", "config": {"workerConfig": {"one": 2}}, "emailOnError": true}`,
			state:    `{"config":{"workerConfig":{"none":null,"one":1,"ratio":1.5}},"description":"","emailOnError":false,"owner":"a@example.com","providerId":"static"}`,
			change:   "add spec.config.workerConfig.more, update spec.config.workerConfig.one, delete spec.config.workerConfig.ratio, update spec.emailOnError",
			drift:    "add spec.config.workerConfig.more, add spec.config.workerConfig.none, update spec.owner",
			imported: `{"config":{"workerConfig":{"one":2}},"description":"","emailOnError":true,"owner":"b@example.com","providerId":"static"}`,
		},
		{
			kind: resource.Hooks, name: "project-x/nightly/build",
			first:    `{"name": "n", "owner": "a@example.com", "task": {"$if": "a", "then": {"none": null}}}`,
			second:   `{"name": "n", "owner": "a@example.com", "task": {"a": [1]}, "schedule": ["0 0 3 * * *"], "emailOnError": false}`,
			behind:   `{"name": "n", "owner": "a@example.com", "task": {"a": [1, 2]}, "schedule": [], "emailOnError": false}`,
			state:    `{"bindings":[],"description":"","emailOnError":true,"name":"n","owner":"a@example.com","schedule":[],"task":{"$if":"a","then":{"none":null}},"triggerSchema":{"additionalProperties":false,"type":"object"}}`,
			change:   `update spec.emailOnError, add spec.schedule[0], add spec.task.a, delete spec.task.then, delete spec.task["$if"]`,
			drift:    "add spec.schedule[0], delete spec.task.a[1]",
			imported: `{"bindings":[],"description":"","emailOnError":false,"name":"n","owner":"a@example.com","schedule":[],"task":{"a":[1,2]},"triggerSchema":{"additionalProperties":false,"type":"object"}}`,
		},
		{
			kind: resource.Denylist, name: "email/nobody@example.com",
			first: `{}`, second: `{}`, behind: `{}`, state: `{}`, imported: `{}`, nothingChanges: true,
		},
	} {
		t.Run(x.kind.Name(), func(t *testing.T) {
			s := newStory(t, TokenOf(x.kind), Resources(c)...)
			if err := s.create(x.name, x.first); err != nil {
				t.Fatal(err)
			}
			expect(t, "the state", text(t, s.state.Get("spec")), x.state)
			expect(t, "the difference to itself", s.differs(x.first), "")
			if err := s.create(x.name, x.first); err != nil {
				t.Fatalf("to make it again: %v", err)
			}

			expect(t, "the difference", s.differs(x.second), x.change)
			if err := s.update(x.second); err != nil {
				t.Fatal(err)
			}
			expect(t, "the difference to itself", s.differs(x.second), "")
			before := s.stateText()
			if !s.refresh() {
				t.Fatal("it is gone")
			}
			expect(t, "the state after a refresh", s.stateText(), before)

			behind, err := x.kind.Normal(x.name, json.RawMessage(x.behind))
			if err != nil {
				t.Fatal(err)
			}
			if err := x.kind.Update(t.Context(), c, x.name, behind); err != nil {
				t.Fatal(err)
			}
			if !x.nothingChanges {
				if err := s.update(x.first); err == nil || !strings.Contains(err.Error(), "somebody else has changed it") {
					t.Errorf("what somebody else has changed is changed unseen: %v", err)
				}
				if err := s.create(x.name, x.first); err == nil || !strings.Contains(err.Error(), "is there already, and differs") {
					t.Errorf("what differs is taken over: %v", err)
				}
				s.id = x.name
				s.state, s.inputs = property.Map{}, property.Map{}
			}
			if !s.refresh() { // of which nothing is known: an import
				t.Fatal("it cannot be imported")
			}
			expect(t, "what is imported", text(t, s.inputs.Get("spec")), x.imported)
			expect(t, "what is to be imported as a state", text(t, s.state.Get("spec")), x.imported)
			expect(t, "the drift", s.differs(x.second), x.drift)
			if err := s.update(x.second); err != nil {
				t.Fatal(err)
			}
			expect(t, "the difference to itself", s.differs(x.second), "")

			s.remove()
			if s.refresh() {
				t.Error("it is still there")
			}
			s.remove() // again is no error
			if err := s.update(x.first); err == nil || !strings.Contains(err.Error(), "somebody else has deleted it") {
				t.Errorf("what is gone is changed: %v", err)
			}
		})
	}

	t.Run("many of which there are but names", func(t *testing.T) { names(t, c) })
	t.Run("what is left out on purpose", func(t *testing.T) { leftOut(t, c) })
	t.Run("what Pulumi cannot keep", func(t *testing.T) { unkept(t, c) })
	t.Run("half a client", func(t *testing.T) { halfAClient(t, c) })
	t.Run("what the platform refuses", func(t *testing.T) { refused(t, c) })
}

// A recorder counts calls.
type recorder struct {
	calls []string
}

func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.calls = append(r.calls, q.Method+" "+q.URL.Path)
	return http.DefaultTransport.RoundTrip(q)
}

// names are made, read, and made by somebody else, while a list of them is kept.
func names(t *testing.T, c *client.Client) {
	seen := &recorder{}
	watched, err := client.New(client.Options{RootURL: c.RootURL(), Credentials: c.Credentials(), Transport: seen})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		kind resource.Kind
		name string
	}{{resource.Denylist, "email/%d@example.com"}, {resource.Secrets, "project/many/%d"}} {
		k := &onPlatform{kind: x.kind, c: watched}
		nothing := json.RawMessage(`{}`)
		read := func(i int) bool {
			t.Helper()
			k.at = time.Now() // however slow this machine is
			is, err := k.Read(t.Context(), fmt.Sprintf(x.name, i), nothing)
			if err != nil {
				t.Fatal(err)
			}
			return is != nil
		}
		seen.calls = nil
		for i := range 5 {
			if read(i) {
				t.Errorf("%s %d is there before it was made", x.kind.Noun(), i)
			}
		}
		if len(seen.calls) != 1 {
			t.Errorf("to read five %s there were %q", resource.Plural(x.kind), seen.calls)
		}
		if x.kind == resource.Secrets { // somebody makes one meanwhile
			if err := x.kind.Create(t.Context(), c, "project/many/0", json.RawMessage(`{"value":{"a":"theirs"}}`)); err != nil {
				t.Fatal(err)
			}
		}
		if state, err := k.Create(t.Context(), fmt.Sprintf(x.name, 0), nothing); err != nil || string(state) != "{}" {
			t.Errorf("the state of a new %s is %s, %v", x.kind.Noun(), state, err)
		}
		if !read(0) || read(1) {
			t.Errorf("what was made is not there, or something else is")
		}
		if x.kind == resource.Secrets {
			if is, err := x.kind.Read(t.Context(), c, "project/many/0"); err != nil || !strings.Contains(string(is), "theirs") {
				t.Errorf("a secret that somebody made meanwhile is %s now, %v", is, err)
			}
		}
		if err := k.Delete(t.Context(), fmt.Sprintf(x.name, 0), nothing); err != nil {
			t.Fatal(err)
		}
		if read(0) {
			t.Errorf("a %s that was deleted is there", x.kind.Noun())
		}
		seen.calls = nil
		if read(1); len(seen.calls) > 0 {
			t.Errorf("it is listed again: %q", seen.calls)
		}
		k.at = time.Now().Add(-2 * listLife)
		if _, err := k.Read(t.Context(), "x", nothing); err != nil || len(seen.calls) != 1 {
			t.Errorf("an old list is not made anew: %q, %v", seen.calls, err)
		}
	}
}

// leftOut is the story of a secret whose value is somebody else's, and of a client that somebody else disables.
func leftOut(t *testing.T, c *client.Client) {
	secret := newStory(t, TokenOf(resource.Secrets), Resources(c)...)
	if err := secret.create("project/y/theirs", `{}`); err != nil {
		t.Fatal(err)
	}
	if err := resource.Secrets.Update(t.Context(), c, "project/y/theirs", json.RawMessage(`{"value":{"a":"theirs"}}`)); err != nil {
		t.Fatal(err)
	}
	if !secret.refresh() {
		t.Fatal("it is gone")
	}
	expect(t, "the state of a secret without a value", secret.stateText(), `{"computed":{},"name":"project/y/theirs","spec":{}}`)
	expect(t, "its difference", secret.differs(`{}`), "")
	if err := secret.create("project/y/theirs", `{}`); err != nil {
		t.Fatalf("to take it over: %v", err)
	}
	expect(t, "its state taken over", secret.stateText(), `{"computed":{},"name":"project/y/theirs","spec":{}}`)
	expect(t, "the difference of one with a value", secret.differs(`{"value": {"a": "ours"}}`), "add spec.value")
	if err := secret.update(`{"value": {"a": "ours"}}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "its state with a value", secret.stateText(), `{"computed":{},"name":"project/y/theirs","spec":{"value":"<{\"a\":\"ours\"}>"}}`)

	disabled := newStory(t, TokenOf(resource.Clients), Resources(c)...)
	if err := disabled.create("project/y/off", `{"scopes": []}`); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.New(c).DisableClient(t.Context(), "project/y/off"); err != nil {
		t.Fatal(err)
	}
	if !disabled.refresh() || !strings.Contains(disabled.stateText(), `"disabled":true`) {
		t.Errorf("the state of a disabled client is %s", disabled.stateText())
	}
	expect(t, "the difference of one that does not speak of it", disabled.differs(`{"scopes": []}`), "")
	expect(t, "the difference of one that does", disabled.differs(`{"scopes": [], "disabled": false}`), "update spec.disabled")
	if err := disabled.update(`{"scopes": ["a"]}`); err != nil {
		t.Fatal(err)
	}
	if is, err := auth.New(c).Client(t.Context(), "project/y/off"); err != nil || !is.Disabled {
		t.Errorf("the client is enabled again: %v", err)
	}
	if strings.Contains(disabled.stateText(), "oken") {
		t.Errorf("the state speaks of a token: %s", disabled.stateText())
	}
}

// unkept is a worker pool that somebody gives what Pulumi cannot keep.
func unkept(t *testing.T, c *client.Client) {
	const spec = `{"providerId": "static", "owner": "a@example.com", "config": {"workerConfig": {"a": 1}}}`
	s := newStory(t, TokenOf(resource.WorkerPools), Resources(c)...)
	if err := s.create("proj-y/big", spec); err != nil {
		t.Fatal(err)
	}
	theirs, err := resource.WorkerPools.Normal("proj-y/big", json.RawMessage(strings.Replace(spec, `"a": 1`, `"a": 9007199254740993`, 1)))
	if err == nil {
		err = resource.WorkerPools.Update(t.Context(), c, "proj-y/big", theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.refresh()
	expect(t, "the drift", s.differs(spec), "update spec.config.workerConfig.a")
	if err := s.update(spec); err != nil {
		t.Fatal(err)
	}
	expect(t, "the difference to itself", s.differs(spec), "")
}

// halfAClient is made by somebody who may create clients, but not disable them.
func halfAClient(t *testing.T, c *client.Client) {
	half := c.WithCredentials(c.Credentials(), []string{"auth:create-client:project/z/*", "auth:update-client:project/z/*"})
	s := newStory(t, TokenOf(resource.Clients), Resources(half)...)
	in := s.checked(inputs("project/z/half", value(t, `{"scopes": [], "disabled": true}`)))
	r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in})
	if err == nil || r.PartialState == nil || r.ID != "project/z/half" || !strings.Contains(err.Error(), "auth:disable-client") {
		t.Fatalf("half a client is %v, %v", r, err)
	}
	expect(t, "its state", text(t, r.Properties.Get("spec")), `{"deleteOnExpiration":false,"description":"","disabled":false,"expires":"3000-01-01T00:00:00.000Z","scopes":[]}`)

	whole := newStory(t, TokenOf(resource.Clients), Resources(c)...)
	whole.id, whole.state, whole.inputs = r.ID, r.Properties, in
	if err := whole.update(`{"scopes": [], "disabled": true}`); err != nil {
		t.Fatal(err)
	}
	expect(t, "what is left to do", whole.differs(`{"scopes": [], "disabled": true}`), "")
}

func refused(t *testing.T, c *client.Client) {
	s := newStory(t, TokenOf(resource.Hooks), Resources(c)...)
	in := s.checked(inputs("project-x/simple", value(t, `{"name": "n", "owner": "a@example.com", "task": {}, "triggerSchema": {"type": "nonsense"}}`)))
	if r, err := s.server.Create(p.CreateRequest{Urn: s.urn, Properties: in}); err == nil || r.PartialState != nil || r.ID != "" {
		t.Errorf("what the platform refuses is %v, %v", r, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k := &onPlatform{kind: resource.Roles, c: c}
	document, err := k.Normal("project:w:a", json.RawMessage(`{"scopes": []}`))
	if err != nil {
		t.Fatal(err)
	}
	if state, err := k.Create(ctx, "project:w:a", document); err == nil || state != nil {
		t.Errorf("a role that was cancelled is %s, %v", state, err)
	}
}

func TestDocumentsOfAPlatformAreRefusedByTheirPaths(t *testing.T) {
	for _, x := range []struct {
		kind             resource.Kind
		name, spec, want string
	}{
		{resource.Roles, "a", `{"scopes": ["é"], "description": 3}`, `[{spec.description is a number; it must be of type string}]`},
		{resource.Roles, "a", `{"scopes": ["é"]}`, `[{spec.scopes has "é"; scopes are of printable ASCII characters}]`},
		{resource.Roles, "é", `{"scopes": ["é"]}`, `[{ the id of a role has 1 to 1024 printable ASCII characters} {spec.scopes has "é"; scopes are of printable ASCII characters}]`},
		{resource.Roles, "a", `{"scpes": []}`, `[{spec.scpes is unknown; leave it out, or look how it is written}]`},
		{resource.Clients, "static/x", `{}`, `[{ clients whose ids begin with static/ are defined by the configuration of the platform: leave it out here}]`},
		{resource.WorkerPools, "a/b", `{"providerId": "aws", "owner": "nobody"}`, `[{spec.owner is "nobody"; it must be a mail address}]`},
		{resource.WorkerPools, "a/b", `{"providerId": "aws", "owner": "a@b", "config": 3}`, `[{spec.config must be a mapping of names to values; the provider says what must be in it, such as maxCapacity}]`},
		{resource.Hooks, "a/b", `{"name": "n", "owner": "a@b", "task": {}, "schedule": ["nonsense"]}`, "[{spec.schedule[0] "},
		{resource.Secrets, "a", `{"value": "hunter2"}`, `[{ the value of a secret must be a JSON object, such as {"key": "..."}}]`},
		{resource.Secrets, "a", `{"valueFrom": {"env": "HOME"}}`, `[{spec.valueFrom is for files; give the value itself}]`},
		{resource.Denylist, "email/Nobody@Example.com", `{}`, `[{ the name must be written email/nobody@example.com}]`},
	} {
		s := newStory(t, TokenOf(x.kind), Resources(nil)...)
		_, failures := s.check(inputs(x.name, value(t, x.spec)))
		if got := fmt.Sprint(failures); !strings.HasPrefix(got, x.want) {
			t.Errorf("%s is refused with\n  %s\nand should be with\n  %s", x.spec, got, x.want)
		}
	}
}
