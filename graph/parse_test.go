package graph

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client/queue"
)

var noon = time.Date(2016, 5, 11, 12, 0, 0, 0, time.UTC)

// options give ids that tell which was made first: the group's is id-0.
func options() Options {
	n := -1
	return Options{
		Now:        noon,
		NewID:      func() string { n++; return fmt.Sprintf("id-%d", n) },
		Repository: "/src/project", Directory: "/src/project/ci",
		Env: func(name string) string { return map[string]string{"HOME": "/home/me"}[name] },
		Go: func(name string) (string, error) {
			if name != "GOOS" {
				return "", errors.New("go is broken")
			}
			return "plan9", nil
		},
	}
}

const head = `
defaults:
  queue: local/build
  owner: me@example.com
  source: https://example.com/graph.yml
`

func parse(t *testing.T, text string) *Graph {
	t.Helper()
	g, err := Parse("graph.yml", []byte(text), options())
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func payload(t *testing.T, task *Task) map[string]any {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(task.Definition.Payload, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestADefinitionHasWhatTheFileSays(t *testing.T) {
	g := parse(t, `
name: demo
parameters:
  target: all
  workers: {default: 2}
defaults:
  queue: local/build
  owner: me@example.com
  source: https://example.com/graph.yml
  deadline: 2 hours
  env: {LANG: C, TARGET: "${target}"}
  scopes: [a, b]
  tags: {kind: test}
tasks:
  build:
    name: Build it
    description: Builds ${target} in ${group}.
    priority: high
    requires: all-resolved
    retries: 0
    expires: 3 days
    scopes: [c]
    routes: [index.demo]
    project: demo
    scheduler: me
    tags: {os: linux}
    extra: {treeherder: {tier: 1, note: "${workers}"}}
    env: {LANG: de, VERSION: 1.10}
    command:
      - [make, -j, 4, "${target}"]
      - [sh, -c, 'echo $HOME $${HOME}']
    maxRunTime: 10 minutes
    artifacts:
      public/app: out/app
      public/docs: out/docs/
      public/log: {path: log, optional: true, contentType: text/plain, expires: 1 day}
    onExitStatus: {retry: [75]}
    features: {liveLog: false}
`)
	task := g.Task("build")
	want := queue.CreateTaskRequest{
		Created: 1462968000000, Deadline: 1462975200000, Expires: 1463227200000,
		Metadata: queue.TaskMetadata{
			Name: "Build it", Description: "Builds all in id-0.", Owner: "me@example.com", Source: "https://example.com/graph.yml",
		},
		TaskGroupID: "id-0", TaskQueueID: "local/build", Priority: "high", Requires: "all-resolved", Retries: new(int),
		Scopes: []string{"c"}, Routes: []string{"index.demo"}, ProjectID: "demo", SchedulerID: "me",
		Tags: map[string]string{"kind": "test", "os": "linux"}, Extra: json.RawMessage(`{"treeherder":{"note":"2","tier":1}}`),
	}
	got := task.Definition
	got.Payload = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the definition is\n%+v, want\n%+v", got, want)
	}
	wantPayload := map[string]any{
		"command":    []any{[]any{"make", "-j", "4", "all"}, []any{"sh", "-c", "echo $HOME ${HOME}"}},
		"env":        map[string]any{"LANG": "de", "VERSION": "1.10", "TARGET": "all"},
		"maxRunTime": 600.0,
		"artifacts": []any{
			map[string]any{"type": "file", "name": "public/app", "path": "out/app"},
			map[string]any{"type": "directory", "name": "public/docs", "path": "out/docs/"},
			map[string]any{"type": "file", "name": "public/log", "path": "log", "optional": true, "contentType": "text/plain", "expires": "2016-05-12T12:00:00.000Z"},
		},
		"onExitStatus": map[string]any{"retry": []any{75.0}},
		"features":     map[string]any{"liveLog": false},
	}
	if p := payload(t, task); !reflect.DeepEqual(p, wantPayload) {
		t.Errorf("the payload is\n%v, want\n%v", p, wantPayload)
	}
}

func TestDependenciesComeFirst(t *testing.T) {
	g := parse(t, head+`
tasks:
  last: {dependencies: ["work-*", first], command: [["true"]]}
  work-${n}: {each: {n: 1..3}, dependencies: [first], command: [[echo, "${n}", "${task:first}"]]}
  first: {command: [["true"]]}
`)
	var order []string
	position := map[string]int{}
	for i, task := range g.Tasks {
		order = append(order, task.Label)
		position[task.ID] = i
		for _, d := range task.Definition.Dependencies {
			if at, known := position[d]; !known || at >= i {
				t.Errorf("%s stands before one that it needs", task.Label)
			}
		}
	}
	if want := []string{"first", "work-1", "work-2", "work-3", "last"}; !slices.Equal(order, want) {
		t.Errorf("the order is %v, want %v", order, want)
	}
	last := g.Task("last")
	if want := []string{"work-1", "work-2", "work-3", "first"}; !slices.Equal(last.Dependencies, want) {
		t.Errorf("last depends on %v, want %v", last.Dependencies, want)
	}
	if command := payload(t, g.Task("work-2"))["command"]; !reflect.DeepEqual(command, []any{[]any{"echo", "2", g.Task("first").ID}}) {
		t.Errorf("work-2 runs %v", command)
	}
}

func TestEachMultiplies(t *testing.T) {
	for each, want := range map[string][]string{
		`{n: 1..2}`:                                {"t-1-x", "t-2-x"},
		`{n: "1..${count}"}`:                       {"t-1-x", "t-2-x", "t-3-x"},
		`{n: [b, a]}`:                              {"t-b-x", "t-a-x"},
		`[{n: a, more: 1}, {n: b, more: 2}]`:       {"t-a-x", "t-b-x"},
		`[{n: "${count}"}]`:                        {"t-3-x"},
		"\n      n: 2..3\n      other: [only one]": {"t-2-x", "t-3-x"},
	} {
		g := parse(t, "parameters: {count: 3, words: b a}\n"+head+"tasks:\n  t-${n}-x:\n    each: "+each+"\n    command: [[echo]]\n")
		var got []string
		for _, task := range g.Tasks {
			got = append(got, task.Label)
		}
		if !slices.Equal(got, want) {
			t.Errorf("each: %s makes %v, want %v", each, got, want)
		}
	}
}

func TestParametersGetTheirValues(t *testing.T) {
	const text = `
parameters:
  plain: one
  empty: ""
  number: {description: How many, default: 4}
  home: ${env:HOME}
  unset: ${env:NOTHING}
  os: ${go:GOOS}
  source: ${repository}/src
  here: {default: "${directory}"}
  composed: "${plain}-${number}"
  broken: ${go:GOARCH}
` + head + `
tasks:
  t: {command: [[echo]], extra: {text: "${number}"}, payload: {number: 1}}
`
	o := options()
	o.Parameters = map[string]string{"plain": "two", "broken": "given"}
	g, err := Parse("graph.yml", []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range g.Parameters {
		got[p.Name] = p.Value
	}
	want := map[string]string{
		"plain": "two", "empty": "", "number": "4", "home": "/home/me", "unset": "", "os": "plan9", "source": "/src/project/src",
		"here": "/src/project/ci", "composed": "two-4", "broken": "given",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the parameters are %v, want %v", got, want)
	}
}

func TestAPlainValueIsReadAgainAfterSubstitution(t *testing.T) {
	g := parse(t, `
parameters: {n: 3, yes: true, none: "", word: hello}
`+head+`
tasks:
  t:
    payload:
      number: ${n}
      quoted: "${n}"
      flag: ${yes}
      empty: ${none}
      text: ${word} ${n}
      literal: [0x10, 1.5, null, ~, "null", 2016-05-11, yes]
`)
	want := map[string]any{
		"number": 3.0, "quoted": "3", "flag": true, "empty": "", "text": "hello 3",
		"literal": []any{16.0, 1.5, nil, nil, "null", "2016-05-11", "yes"},
	}
	if got := payload(t, &g.Tasks[0]); !reflect.DeepEqual(got, want) {
		t.Errorf("the payload is %v, want %v", got, want)
	}
}

func TestAnchorsAndMergesWork(t *testing.T) {
	g := parse(t, head+`
x-go: &go
  env: {GO: "1", A: b}
  maxRunTime: 5m
tasks:
  a:
    <<: *go
    command: &run [[go, test]]
  b:
    maxRunTime: 1m
    <<: *go
    command: *run
`)
	if got := payload(t, g.Task("a"))["maxRunTime"]; got != 300.0 {
		t.Errorf("a may run for %v", got)
	}
	b := payload(t, g.Task("b"))
	if b["maxRunTime"] != 60.0 || !reflect.DeepEqual(b["env"], map[string]any{"GO": "1", "A": "b"}) {
		t.Errorf("b is %v", b)
	}
}

func TestMistakesAreNamedWithPlaceAndFix(t *testing.T) {
	task := func(fields string) string { return head + "tasks:\n  t: {command: [[x]], " + fields + "}\n" }
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                    {"", []string{"graph.yml is empty"}},
		"not YAML":                   {"tasks: [", []string{"graph.yml is not valid YAML", "line 1"}},
		"unquoted substitution":      {"tasks:\n  a: {command: [[echo, ${x}]]}\n", []string{"not valid YAML", `a value with ${...} needs quotes`}},
		"a list":                     {"[]", []string{"graph.yml:1: the file must be a mapping", "no tasks"}},
		"no tasks":                   {head, []string{"the graph has no tasks; add some under tasks:"}},
		"unknown top field":          {"task:\n  a: {}\n", []string{`graph.yml:1: the file has no field "task"; did you mean tasks?`}},
		"unknown task field":         {task("comand: [[y]]"), []string{`graph.yml:7: task t has no field "comand"; did you mean command?`}},
		"unknown default":            {"defaults:\n  dependencies: [a]\ntasks: {a: {command: [[x]]}}", []string{`graph.yml:2: defaults has no field "dependencies"`}},
		"twice":                      {head + "tasks:\n  a: {command: [[x]]}\n  a: {command: [[x]]}\n", []string{"graph.yml:8: tasks has a twice; the first is in line 7"}},
		"unknown label":              {head + "tasks:\n  build: {command: [[x]]}\n  test:\n    command: [[x]]\n    dependencies: [biuld]\n", []string{`graph.yml:10: task test depends on "biuld", and there is no such task; did you mean build?`}},
		"unknown id":                 {task(`env: {A: "${task:nobody}"}`), []string{`graph.yml:7: task t: env.A: there is no task "nobody"; there are t`}},
		"unknown variable":           {task(`env: {A: "${nothing}"}`), []string{"nothing is called ${nothing} here", "write $${nothing} if it is the shell's"}},
		"unclosed variable":          {task(`env: {A: "${nothing"}`), []string{"lacks its }"}},
		"no match":                   {task(`dependencies: ["x-*"]`), []string{`task t depends on "x-*", which no other task's label matches`}},
		"bad pattern":                {task(`dependencies: ["[*"]`), []string{"is no pattern of labels"}},
		"itself":                     {task(`dependencies: [t]`), []string{"task t depends on itself"}},
		"cycle":                      {head + "tasks:\n  z: {command: [[x]], dependencies: [a]}\n  a: {command: [[x]], dependencies: [b]}\n  b: {command: [[x]], dependencies: [a]}\n", []string{"graph.yml:8: these tasks wait for each other: a → b → a; remove one of these dependencies"}},
		"no command":                 {head + "tasks:\n  t: {env: {A: b}}\n", []string{"graph.yml:7: task t has no command; write one such as"}},
		"a shell line":               {head + "tasks:\n  t: {command: make all}\n", []string{`task t: command must be a list, not "make all"`}},
		"words":                      {head + "tasks:\n  t: {command: [make, all]}\n", []string{"command must be a list of commands, each a list of words"}},
		"no words":                   {head + "tasks:\n  t: {command: [[]]}\n", []string{"a command has no words"}},
		"no queue, owner, source":    {"tasks:\n  t: {command: [[x]]}\n", []string{"has nothing as its queue; it must be PROVISIONER/TYPE", "has no owner", "has nothing as its source"}},
		"bad source":                 {task("source: graph.yml"), []string{`has "graph.yml" as its source`}},
		"duration without unit":      {task("deadline: 90"), []string{`graph.yml:7: task t: deadline: the duration "90" has no unit; write 90 seconds, 90 minutes`}},
		"unknown unit":               {task("deadline: 3 moons"), []string{`"moons" in the duration "3 moons" is no unit`}},
		"late deadline":              {task("deadline: 6 days"), []string{"has a deadline in 144h0m0s; it must be within five days"}},
		"early expiry":               {task("expires: 1 minute"), []string{"expires before its deadline"}},
		"bad priority":               {task("priority: urgent"), []string{`has the priority "urgent"; there are highest, very-high`}},
		"bad requires":               {task("requires: any"), []string{`requires "any"; there are all-completed and all-resolved`}},
		"bad retries":                {task("retries: many"), []string{"retries must be a number from 0 to 49"}},
		"no run time":                {task("maxRunTime: 0"), []string{"maxRunTime: it must be at least a second"}},
		"bad exit status":            {task("onExitStatus: {retry: [x], again: [1]}"), []string{"onExitStatus.retry must be a list of numbers", `has no field "again"`}},
		"null command":               {head + "tasks:\n  t: {command: [[null]]}\n", []string{"command must be a single value, not nothing"}},
		"artifact without path":      {task("artifacts: {a: {type: file}}"), []string{"artifact a has no path"}},
		"artifact of unknown kind":   {task("artifacts: {a: {path: x, type: link}}"), []string{`type is "link"; there are file and directory`}},
		"mount of nothing":           {task("mounts: [{content: {raw: x}}]"), []string{"a mount needs either file or directory"}},
		"mount without dependency":   {head + "tasks:\n  a: {command: [[x]]}\n  b: {command: [[x]], mounts: [{file: f, content: {artifact: p, taskId: \"${task:a}\"}}]}\n", []string{"graph.yml:8: task b mounts an artifact of a without depending on it; add a to its dependencies"}},
		"missing parameter":          {"parameters:\n  version:\n" + task(""), []string{"graph.yml:2: the parameter version has no default and was given no value; give one with --param version=VALUE"}},
		"unknown kind of default":    {"parameters: {a: \"${task:t}\"}\n" + task(""), []string{"nothing is called ${task:t} here"}},
		"a default that fails":       {"parameters:\n  arch: ${go:GOARCH}\n" + task(""), []string{"graph.yml:2: parameter arch: go is broken"}},
		"reserved parameter":         {"parameters: {group: x}\n" + task(""), []string{`a parameter cannot be called "group"`}},
		"each with a parameter name": {"parameters: {n: 1}\n" + head + "tasks:\n  t-${n}: {each: {n: 1..2}, command: [[x]]}\n", []string{`a variable cannot be called "n"`}},
		"each without its variable":  {head + "tasks:\n  t: {each: {n: 1..2}, command: [[x]]}\n", []string{"there is a task t already", "the label has to contain each of its variables"}},
		"each of nothing":            {head + "tasks:\n  t-${n}: {each: {n: 2..1}, command: [[x]]}\n", []string{"each.n is empty"}},
		"each of too much":           {head + "tasks:\n  t-${n}: {each: {n: 1..1000000}, command: [[x]]}\n", []string{"has more than 50000 values"}},
		"each of no range":           {head + "tasks:\n  t-${n}: {each: {n: x..y}, command: [[x]]}\n", []string{"must be a range such as 1..4, a list, or words"}},
		"a bad label":                {head + "tasks:\n  a b: {command: [[x]]}\n", []string{`"a b" cannot be a label`}},
		"an alias that is a bomb":    {"x-a: &a [x,x,x,x,x,x,x,x]\nx-b: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nx-c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nx-d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\nx-e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nx-f: &f [*e,*e,*e,*e,*e,*e,*e,*e]\nx-g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\n", []string{"too deep or, with its aliases written out, too large"}},
		"an alias of itself":         {"x-a: &a [*a]\n", []string{"too deep or"}},
		"mistakes in defaults once":  {"defaults: {deadline: soon}\n" + "tasks:\n  a: {payload: {}}\n  b: {payload: {}}\n", []string{`graph.yml:1: defaults: deadline: "soon" is no duration`}},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Parse("graph.yml", []byte(test.text), options())
			if err == nil {
				t.Fatalf("parsed as %+v", g)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error is\n%v\nwithout %q", err, part)
				}
			}
			if name == "mistakes in defaults once" && strings.Count(err.Error(), "no duration") != 1 {
				t.Errorf("the error repeats itself:\n%v", err)
			}
		})
	}
}

func TestAParameterThatNobodyDeclaredIsRefused(t *testing.T) {
	o := options()
	o.Parameters = map[string]string{"versoin": "1"}
	_, err := Parse("graph.yml", []byte("parameters: {version: 0}\n"+head+"tasks: {t: {command: [[x]]}}"), o)
	if err == nil || !strings.Contains(err.Error(), `has no parameter "versoin", for which a value was given; did you mean version?`) {
		t.Errorf("got %v", err)
	}
}

func TestALongChainIsNotACycle(t *testing.T) {
	var b strings.Builder
	b.WriteString(head + "tasks:\n")
	for i := range 2000 {
		fmt.Fprintf(&b, "  t%d: {command: [[x]], dependencies: [t%d], mounts: [{file: f, content: {artifact: a, taskId: \"${task:t2000}\"}}]}\n", i, i+1)
	}
	b.WriteString("  t2000: {command: [[x]]}\n")
	if g := parse(t, b.String()); g.Tasks[0].Label != "t2000" || g.Tasks[2000].Label != "t0" {
		t.Errorf("it begins with %s and ends with %s", g.Tasks[0].Label, g.Tasks[2000].Label)
	}
}

func TestLoadFindsTheFileAndItsRepository(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "ci", "deep")
	for _, d := range []string{dir, filepath.Join(root, ".git")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text := "parameters: {root: \"${repository}\", here: \"${directory}\"}\n" + head + "tasks: {t: {command: [[x]]}}"
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := Load(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if g.Parameters[0].Value != root || g.Parameters[1].Value != dir {
		t.Errorf("the parameters are %v, want %s and %s", g.Parameters, root, dir)
	}
	for path, want := range map[string]string{
		filepath.Join(root, "ci"):       "there is no graph at " + filepath.Join(root, "ci", FileName),
		filepath.Join(root, "none.yml"): "there is no graph at",
		root + "\x00":                   "invalid argument",
	} {
		if _, err := Load(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("loading %q gives %v, want %q", path, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		head + "tasks:\n  a-${n}: {each: {n: 1..3}, command: [[x, \"$${y}\"]]}\n  b: {dependencies: [\"a-*\"], command: [[x]], requires: all-resolved}\n",
		"parameters: {a: {default: b}}\n" + head + "tasks: {t: {<<: {command: [[\"${a}\"]]}, extra: {n: 1e3, m: 0x1f, i: .inf}, artifacts: {a: b/}}}",
		head + "x-a: &a {command: [[x]]}\ntasks: {a: *a, b: {<<: [*a, *a], mounts: [{file: f, content: {artifact: p, taskId: \"${task:a}\"}}]}}",
		"tasks: {? [a] : b, !!int x: {}, y: !!binary aGk=}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := Parse("graph.yml", []byte(text), options())
		if err != nil {
			if !strings.HasPrefix(err.Error(), "graph.yml") {
				t.Errorf("the error does not say where: %v", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, task := range g.Tasks {
			for _, d := range task.Definition.Dependencies {
				if !seen[d] {
					t.Errorf("%s stands before one that it needs", task.Label)
				}
			}
			seen[task.ID] = true
			if !json.Valid(task.Definition.Payload) {
				t.Errorf("the payload of %s is no JSON: %s", task.Label, task.Definition.Payload)
			}
		}
	})
}
