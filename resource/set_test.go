package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// example has everything that a file can have.
const example = `
managed:
  - Role=(project|hook-id):.*
  - Client=project/.*
  - WorkerPool=proj-a/.*
  - Hook=project-a/.*
  - Secret=project/a/.*
  - DenylistAddress=email/.*
roles:
  project:a:builds: &role
    description: |
      What builds may do.

      <..> & "more" — é
    scopes: [queue:b, queue:a, queue:b]
  project:a:others:
    <<: *role
    description: Others.
clients:
  project/a/ci:
    description: CI
    expires: 2030-01-31
    scopes: ["assume:project:a:builds"]
  project/a/off: {disabled: true, deleteOnExpiration: true, expires: 2030-01-31T12:00:00Z}
workerPools:
  proj-a/build:
    providerId: local
    owner: a@example.com
    config: {maxCapacity: 2, ratio: 1.50, one: 1.0, big: 18446744073709551615, flag: true, nothing: null, when: 2020-01-01, text: "yes", lines: "a\n b \n", list: [], map: {}}
hooks:
  project-a/nightly/build:
    name: Nightly
    owner: a@example.com
    emailOnError: false
    schedule: ["0 0 3 * * *"]
    bindings: [{exchange: exchange/x/v1/y, routingKeyPattern: "#"}]
    task: {$if: 'a', then: {b: [1, [2, {}]]}}
    triggerSchema: {type: object}
  project-a/simple: {name: "n", owner: a@example.com, task: {a: b}}
secrets:
  project/a/key:
    value: {key: hunter2}
  project/a/later:
denylist:
  email/Nobody@Example.com:
`

func parseSet(t testing.TB, text string) *Set {
	t.Helper()
	s := &Set{}
	if err := s.Parse("conf.yml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func documents(s *Set) string {
	var b strings.Builder
	for _, k := range Kinds() {
		docs := map[string]json.RawMessage{}
		for _, d := range s.Only(k).Definitions {
			docs[d.Name] = d.Document
		}
		for _, name := range sortedKeys(docs) {
			fmt.Fprintf(&b, "%s %s\n", ID(k, name), docs[name])
		}
	}
	for _, p := range s.Managed {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

func TestWhatIsWrittenIsReadAsTheSame(t *testing.T) {
	s := parseSet(t, example)
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := s.Write(&text); err != nil {
		t.Fatal(err)
	}
	if again := documents(parseSet(t, text.String())); again != documents(s) {
		t.Errorf("it was\n%s\nand is now\n%s\nby the file\n%s", documents(s), again, text.String())
	}
	for _, part := range []string{
		`Role=project:a:builds {"description":"What builds may do.\n\n<..> & \"more\" — é\n","scopes":["queue:a","queue:b"]}`,
		`Role=project:a:others {"description":"Others.","scopes":["queue:a","queue:b"]}`,
		`Client=project/a/ci {"description":"CI","scopes":["assume:project:a:builds"],"expires":"2030-01-31T00:00:00.000Z","deleteOnExpiration":false}`,
		`"expires":"2030-01-31T12:00:00.000Z","deleteOnExpiration":true,"disabled":true}`,
		`"config":{"big":18446744073709551615,"flag":true,"lines":"a\n b \n","list":[],"map":{},"maxCapacity":2,"nothing":null,"one":1,"ratio":1.5,"text":"yes","when":"2020-01-01"}}`,
		`Hook=project-a/simple {"name":"n","description":"","owner":"a@example.com","emailOnError":true,"schedule":[],"bindings":[],"task":{"a":"b"},"triggerSchema":{"additionalProperties":false,"type":"object"}}`,
		`Secret=project/a/later {}`,
		"DenylistAddress=email/nobody@example.com {}",
	} {
		if !strings.Contains(documents(s), part) {
			t.Errorf("it lacks %s:\n%s", part, documents(s))
		}
	}
}

// Each is told with its line, and with what to do.
func TestMistakesInFiles(t *testing.T) {
	for text, want := range map[string]string{
		"colour: red":       `f.yml:1: the file has no section "colour"; there are clients, denylist, hooks, managed, roles, secrets, workerPools`,
		"\nworkerpools: {}": `f.yml:2: the file has no section "workerpools"; did you mean workerPools?`,
		"roles:\n  a: {}\n  b:\n    descripton: x":                  `f.yml:4: Role=b has no field "descripton"; did you mean description?`,
		"hooks:\n  a/b:\n    bindings: [{exchnge: x}]":              `f.yml:3: Hook=a/b: bindings[0] has no field "exchnge"; did you mean exchange?`,
		"roles:\n  a: {}\n  b: {}\n  a: {}":                         `f.yml:4: roles has "a" twice; the first is in line 2`,
		"roles:\n  a: {}\n---\nroles:\n  a: {}":                     `f.yml:5: Role=a is defined twice; the first is at f.yml:2`,
		"denylist: {email/A@b.c: }\n---\ndenylist: {email/a@B.c: }": `is defined twice`,
		"roles: [a]":                                                   `f.yml:1: roles must be a mapping of names to values, not a list`,
		"[]":                                                           `the file must be a mapping`,
		"roles: {a: {scopes: x}}":                                      `Role=a: scopes must be a list, not a word`,
		"roles: {a: {scopes: [1]}}":                                    `Role=a: scopes[0] must be text, not a number: put it in quotes`,
		"roles: {a: {scopes: [\"\\n\"]}}":                              `scopes are of printable ASCII characters`,
		"roles: {\"\": {}}":                                            `the id of a role has 1 to 1024`,
		"roles: {? [a] : {}}":                                          `a name in roles must be a word, not a list`,
		"clients: {\"a b\": {}}":                                       `ids of clients match`,
		"clients: {static/x: {}}":                                      `defined by the configuration of the platform: leave it out`,
		"clients: {x: {expires: tomorrow}}":                            `Client=x: expires must be a date such as 2027-12-31`,
		"clients: {x: {disabled: maybe}}":                              `disabled must be true or false, not a word`,
		"workerPools: {a: {}}":                                         `the id of a worker pool is PROVISIONER/TYPE`,
		"workerPools: {a/b: {}}":                                       `providerId is ""; it must be`,
		"workerPools: {a/b: {providerId: null-provider}}":              `providerId is "null-provider"; it must be`,
		"workerPools: {a/b: {providerId: x, owner: y}}":                `owner is "y"; it must be a mail address`,
		"workerPools: {a/b: {providerId: x, owner: y@z}}":              `config must be a mapping`,
		"workerPools: {a/b: {config: {x: .nan}}}":                      `WorkerPool=a/b: config has a number here that JSON cannot say`,
		"workerPools: {a/b: {config: {x: !!binary aGk=}}}":             `which has no counterpart in JSON`,
		"hooks: {a: {}}":                                               `the name of a hook is GROUP/HOOK`,
		"hooks: {a/b: {name: x, owner: y@z}}":                          `task must be a mapping`,
		"hooks: {a/b: {name: x, owner: y@z, task: {}, schedule: [x]}}": `schedule[0]: "x"`,
		"hooks: {a/b: {name: x, owner: y@z, task: {}, bindings: [{exchange: e}]}}": `bindings[0] needs both`,
		"secrets: {x: {value: {a: b}, valueFrom: {env: X}}}":                       `it has both value and valueFrom`,
		"secrets: {x: {valueFrom: {}}}":                                            `valueFrom needs one of file and env`,
		"secrets: {x: {valueFrom: {env: X, file: y}}}":                             `valueFrom needs one of file and env`,
		"denylist: {fax/1: }":                                                      `an address has the form TYPE/ADDRESS`,
		"managed: Role=.*":                                                         `managed must be a list`,
		"managed: ['.*']":                                                          `f.yml:1: managed: the pattern ".*" does not begin with a kind`,
		"managed: ['Rolle=x']":                                                     `did you mean Role?`,
		"managed: ['Role=a)|(.*']":                                                 `is no regular expression`,
		"clients: {x: {disabled: !!bool \"yes\"}}":                                 `disabled must be true or false, not a word`,
		"hooks: {a/b: {task: {x: !!bool on}}}":                                     `Hook=a/b: task has a value here with the tag !!bool`,
		"clients: {x: {expires: 1970-01-01}}":                                      `Client=x: expires must be later than 1970`,
		"hooks: {a/b: {name: x, owner: y@z, task: {}, bindings: [{exchange: e, routingKeyPattern: k}, {exchange: e, routingKeyPattern: k}]}}": `bindings[1] is there twice`,
		"hooks: {a/: {}}": `the name of a hook is GROUP/HOOK`,
		"hooks: {" + strings.Repeat("a", 1001) + "/b: {}}": `the name of a hook is GROUP/HOOK`,
		"managed: ['Role=(']":                              `is no regular expression`,
		"managed: ['Role=a']\nroles:\n  ab: {}":            `f.yml:3: Role=ab is defined, but no pattern of managed matches it`,
		"managed: []\nroles: {a: {}}":                      `no pattern of managed matches it`,
		"roles: {a: *b}":                                   `f.yml is not YAML: unknown anchor`,
		"roles:\n\t- a":                                    `f.yml is not YAML`,
		"roles: {a: {scopes: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}}": "the document is too deep",
	} {
		s := &Set{}
		err := s.Parse("f.yml", []byte(text))
		if err == nil {
			err = s.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// Aliases that stand for aliases are a small file, and a large document.
func TestAliasesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("hooks: {a/b: {task: {x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n")
	for i := range 9 {
		fmt.Fprintf(&b, ", x%d: &x%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i), 10), ", "))
	}
	b.WriteString("}}}")
	if err := new(Set).Parse("f.yml", []byte(b.String())); err == nil || !strings.Contains(err.Error(), "too large with its aliases") {
		t.Errorf("a thousand million values: %v", err)
	}
	for _, text := range []string{"a: &a [*a]", "a: &a {<<: *a}", "hooks: {a/b: &h {<<: [*h, *h]}}"} {
		if err := new(Set).Parse("f.yml", []byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// No part of a secret is in a message, wherever the mistake is.
func TestMistakesInSecretsDoNotTellThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for i, text := range []string{
		"secrets: {x: {value: hunter2}}", "secrets: {x: {value: [hunter2]}}", "secrets: {x: {value: {a: !hunter2 b}}}",
		"secrets: {x: {value: {a: .nan, b: hunter2}}}", "secrets: {x: {value: {a: hunter2, a: hunter2}}}",
		"secrets: {x: {value: {a: hunter2}}}\n---\nsecrets: {x: {value: {a: hunter2}}}",
	} {
		if _, err := Load(nil, put(fmt.Sprintf("%d.yml", i), text, 0o600)); err == nil || strings.Contains(err.Error(), "hunter2") && !strings.Contains(text, "!hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	put("bad.json", "hunter2", 0o600)
	s := parseSet(t, "secrets: {a: {valueFrom: {file: "+filepath.Join(dir, "bad.json")+"}}, b: {valueFrom: {env: HUNTED}}, c: {valueFrom: {env: EMPTY}}, d: {valueFrom: {file: "+filepath.Join(dir, "no")+"}}}")
	err := s.ReadValues(func(name string) (string, bool) { return map[string]string{"HUNTED": "[\"hunter2\"]"}[name], true })
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Fatalf("values that are wrong: %v", err)
	}
	for _, part := range []string{"conf.yml:1: Secret=a: valueFrom: what is in " + dir, "variable HUNTED is no JSON object", "variable EMPTY is not set", "no such file"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q:\n%v", part, err)
		}
	}
	// A value is in a file of its owner's alone, and files are looked for beside the one that names them.
	open := put("open.yml", "secrets: {x: {value: {a: hunter2}}}", 0o644)
	if _, err := Load(nil, open); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("others may read the file: %v", err)
	}
	put("good.json", `{"a": 1.0}`, 0o600)
	got, err := Load(nil, put("from.yml", "secrets: {x: {valueFrom: {file: good.json}}}", 0o644))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.ReadValues(os.LookupEnv); err != nil || documents(got) != "Secret=x {\"value\":{\"a\":1}}\n" {
		t.Errorf("it is %s, %v", documents(got), err)
	}
	shown, err := Secrets.Show(json.RawMessage(`{"value":{"a":"hunter2"}}`), json.RawMessage(`{"value":{"a":"hunter3"}}`))
	if err != nil || string(shown) != `{"value":"(hidden, another value)"}` {
		t.Errorf("a secret is shown as %s, %v", shown, err)
	}
}

func TestDirectoriesAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yml": "roles: {a: {}}", "sub/b.yaml": "roles: {b: {}}", "README.md": "{", ".hidden.yml": "{", ".git/c.yml": "{", "empty.yml": "", "comment.yml": "# nothing",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(strings.NewReader("roles: {c: {}}"), dir, "-")
	if err != nil || len(s.Definitions) != 3 || s.Files != 5 {
		t.Errorf("it is %+v, %v", s, err)
	}
	if _, err := Load(strings.NewReader("roles: {a: {}}"), dir, "-"); err == nil || !strings.Contains(err.Error(), "stdin:1: Role=a is defined twice; the first is at "+filepath.Join(dir, "a.yml")+":1") {
		t.Errorf("twice: %v", err)
	}
	if _, err := Load(nil, t.TempDir()); err == nil || !strings.Contains(err.Error(), "there is no file *.yml") {
		t.Errorf("an empty directory: %v", err)
	}
	if _, err := Load(nil, filepath.Join(dir, "no")); err == nil || !strings.Contains(err.Error(), "there is no file or directory") {
		t.Errorf("a missing one: %v", err)
	}
}

func TestPatternsMatchAllOfAName(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"Role=a", "a", true}, {"Role=a", "ab", false}, {"Role=a|b", "b", true}, {"Role=a|b", "ab", false}, {"Role=a.*", "a\nb", false},
		{"Role=(?i)a", "A", true}, {"Role=(?m)a", "a\nb", false},
		{"Client=a", "a", false}, {"Role=", "", true},
	} {
		p, err := ParsePattern(test.pattern)
		if err != nil || p.Match(Roles, test.name) != test.want {
			t.Errorf("%s matches %q: %v, %v", test.pattern, test.name, !test.want, err)
		}
	}
}

// Numbers have many spellings.
func TestDocumentsHaveOneForm(t *testing.T) {
	one := `{"providerId":"x","description":"","owner":"a@b","emailOnError":false,"config":{"a":1,"b":0.25,"c":100}}`
	for _, other := range []string{
		`{"config": {"c": 1e2, "b": 2.5e-1, "a": 1.0}, "owner": "a@b", "providerId": "x"}`,
		`{"config": {"c": 100.00, "b": 0.250, "a": 1}, "owner": "a@b", "providerId": "x", "description": null}`,
	} {
		if got, err := WorkerPools.Normal("a/b", json.RawMessage(other)); err != nil || string(got) != one {
			t.Errorf("%s is %s, %v", other, got, err)
		}
	}
	if _, err := WorkerPools.Normal("a/b", json.RawMessage(`{"colour": 1}`)); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Errorf("an unknown member: %v", err)
	}
}

func FuzzSet(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("hooks: {a/b: {name: \"\\0\", owner: a@b, task: {\"\": \" x\\n\", y: \"\\ufeff\", z: -0.0, e: 1e300}}}"))
	f.Add([]byte("roles: {a: &a {scopes: [a]}, b: {<<: *a}}\n---\nmanaged: ['Role=.*']"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &Set{}
		if s.Parse("f", text) != nil {
			return
		}
		var out bytes.Buffer
		if err := s.Write(&out); err != nil {
			t.Fatal(err)
		}
		again := &Set{}
		if err := again.Parse("f", out.Bytes()); err != nil || documents(again) != documents(s) {
			t.Errorf("it was\n%s\nand is now\n%s, %v, by\n%s", documents(s), documents(again), err, out.String())
		}
	})
}

// What JSON can say and YAML reads otherwise unless it is written with care.
func TestOddDocumentsAreWrittenAndReadAsTheSame(t *testing.T) {
	t.Parallel()
	s := &Set{}
	task := `{"<<":{"a":1},"? a":1,"big":100000000000000000000,"huge":1e300,"less":-9223372036854775809,"limit":9223372036854775807,` +
		`"merge":"<<","nel":"a\u0085b","octal":"010","on":"on","sexagesimal":"1:20","tilde":"~","` + strings.Repeat("k", 300) + `":"x","two\nlines":1,"é\ud83d\ude80":"\ud83d\ude80\u200d"}`
	if err := s.Add(Hooks, "a/b", json.RawMessage(`{"name":"n","owner":"a@b","task":`+task+`}`), ""); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	again := &Set{}
	if err := again.Parse("f", out.Bytes()); err != nil || documents(again) != documents(s) {
		t.Errorf("it was\n%s\nand is now\n%s, %v, by\n%s", documents(s), documents(again), err, out.String())
	}
}

// Links to directories are not followed, and what is behind one is not taken for undefined.
func TestWhatIsNotReadIsNotLeftOutInSilence(t *testing.T) {
	t.Parallel()
	dir, other, empty := t.TempDir(), t.TempDir(), t.TempDir()
	for _, file := range []string{filepath.Join(dir, "a.yml"), filepath.Join(other, "b.yml")} {
		if err := os.WriteFile(file, []byte("roles: {"+filepath.Base(file)+": {}}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(nil, dir, empty); err == nil || !strings.Contains(err.Error(), "there is no file *.yml or *.yaml in "+empty) {
		t.Errorf("a directory without files beside another one: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(nil, dir, link); err != nil || len(s.Definitions) != 2 {
		t.Errorf("a link to a directory is %+v, %v", s, err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "shared")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(nil, dir); err == nil || !strings.Contains(err.Error(), "shared is a link to a directory, which is not followed") {
		t.Errorf("a link in a directory: %v", err)
	}
}

// Credentials that are derived from a client end with it, too.
func TestNobodyDeletesWhoTheirCredentialsComeFrom(t *testing.T) {
	t.Parallel()
	named, err := cred.Temporary(cred.Credentials{ClientID: "ops/me", AccessToken: strings.Repeat("a", 44)},
		cred.Options{ClientID: "ops/me/today", Expiry: time.Now().Add(time.Hour), Scopes: []string{"auth:*"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{RootURL: "http://127.0.0.1:1", Credentials: named})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"ops/me", "ops/me/today"} {
		if err := Clients.Delete(t.Context(), c, id); err == nil || !strings.Contains(err.Error(), "which does not delete itself") {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// There is no call that reads one address, so a denylist is listed once, however much is to be changed in it.
func TestADenylistIsListedOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	calls := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls[r.Method+" "+r.URL.Path]++
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/list") {
			fmt.Fprint(w, `{"addresses": [{"notificationType": "email", "notificationAddress": "old@example.com"}]}`)
		} else {
			fmt.Fprint(w, "{}")
		}
	}))
	defer server.Close()
	c, err := client.New(client.Options{RootURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseSet(t, "managed: ['DenylistAddress=.*']\ndenylist: {email/a@b.c: , email/b@b.c: , email/c@b.c: }").Diff(t.Context(), c)
	if err != nil || len(d.Changes) != 4 {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := d.Apply(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"GET /api/notify/v1/denylist/list": 1, "POST /api/notify/v1/denylist/add": 3, "DELETE /api/notify/v1/denylist/delete": 1}
	if !maps.Equal(calls, want) {
		t.Errorf("there were %v, want %v", calls, want)
	}
}
