package project

import (
	"os"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/scope"
)

func TestTheExampleIsAProject(t *testing.T) {
	text, err := os.ReadFile("../examples/project.yml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("project.yml", text)
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.Resources()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Kind()+" "+r.Name())
	}
	want := `role project-admin:nightly, role project:nightly:builds, grant github-team:example/releases, grant repo:github.com/example/nightly:*, ` +
		`client project/nightly/ci, secret project/nightly/ci, secret project/nightly/signing-key, worker pool proj-nightly/build`
	if got := strings.Join(names, ", "); got != want {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
}

// What an administrator may do is all in the project's namespaces, also where another
// project's name begins with the same letters.
func TestAdministratorsStayInTheirProject(t *testing.T) {
	has := scope.NewSet(adminScopes("night")...)
	for _, s := range []string{
		"auth:create-client:project/night/ci", "assume:project:night:x", "secrets:get:project/night/key", "hooks:trigger-hook:project-night/h",
		"queue:create-task:highest:proj-night/build", "index:insert-task:project.night.x", "worker-manager:manage-worker-pool:proj-night/build",
	} {
		if !has.Has(s) {
			t.Errorf("it has not %s", s)
		}
		if other := strings.Replace(s, "night", "nightly", 1); has.Has(other) {
			t.Errorf("it has %s", other)
		}
	}
	for _, s := range []string{"auth:create-client:x", "assume:repo:x", "worker-manager:provider:aws", "secrets:get:project/night", "assume:project-admin:night"} {
		if has.Has(s) {
			t.Errorf("it has %s", s)
		}
	}
}

func TestMistakesInAProject(t *testing.T) {
	const good = "project: a\nowner: a@b.c\n"
	for text, want := range map[string]string{
		"":                           "is empty",
		"project: A\nowner: a@b.c\n": `project is "A"; it must be a name of lower-case`,
		"project: " + strings.Repeat("a", 34) + "\nowner: a@b.c\n": "up to 33",
		"project: a\n":                                           `owner is ""; it must be a mail address`,
		good + "colour: red\n":                                   "line 3: field colour not found",
		good + "---\nproject: b\n":                               "more than one document",
		good + "roles: {x: {scopes: [\"\\u00e9\"]}}\n":           "roles.x has the scope",
		good + "roles: {\"\\n\": {}}\n":                          "is no part of the id of a role",
		good + "clients: {\"a b\": {}}\n":                        `clients: "a b" is no part of the id of a client`,
		good + "clients: {x: {expires: tomorrow}}\n":             "it must be a date such as",
		good + "clients: {x: {secret: ../y}}\n":                  "clients.x.secret",
		good + "clients: {x: {secret: y}}\nsecrets: [y]\n":       "clients.x.secret is y, which is in secrets as well",
		good + "clients: {x: {secret: y}, z: {secret: y}}\n":     "which is in clients.x as well",
		good + "secrets: [y, y]\n":                               "y is there twice",
		good + "pools: {x: {}}\n":                                "pools.x has no providerId",
		good + "pools: {x: {providerId: local}}\n":               "pools.x has no config",
		good + "pools: {X/Y: {providerId: local, config: {}}}\n": `pools: "X/Y" must be`,
		good + "grants: [{to: [x]}]\n":                           "grants[0] needs both",
		good + "admins: [\"\"]\n":                                `admins[0] is ""`,
	} {
		if _, err := Parse("file.yml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "file.yml") {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
	for _, to := range []string{"project:a:x", "project-admin:a"} {
		p, err := Parse("file.yml", []byte(good+"roles: {x: {}}\ngrants: [{to: [\""+to+"\"], scopes: [y]}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Resources(); err == nil || !strings.Contains(err.Error(), "give it the scopes there") {
			t.Errorf("a grant to %s, a role of its own: %v", to, err)
		}
	}
}

func TestAClientThatHasExpiredGetsNoSecret(t *testing.T) {
	for day, want := range map[string]int{"2020-01-01": 2, "2999-12-31": 3} {
		p, err := Parse("file.yml", []byte("project: a\nowner: a@b.c\nclients: {x: {expires: "+day+", secret: y}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		if all, err := p.Resources(); err != nil || len(all) != want {
			t.Errorf("until %s there are %d resources, %v; want %d", day, len(all), err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	text, err := os.ReadFile("../examples/project.yml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("project: a\nowner: a@b.c\npools: {x: {providerId: y, config: {a: [1, {b: .nan}]}}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := Parse("f", text); err == nil {
			p.Resources()
		}
	})
}
