package payload

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	expires = time.Date(2017, 5, 11, 0, 0, 0, 0, time.UTC)
	task    = Task{Scopes: []string{"generic-worker:cache:go-*"}, Expires: expires}
)

func TestDefaultsAreFilledIn(t *testing.T) {
	p, err := Parse(json.RawMessage(`{
		"command": [["true"]], "maxRunTime": 60.0,
		"artifacts": [
			{"type": "file", "path": "./out/result.json"},
			{"type": "directory", "path": "./"},
			{"type": "directory", "path": "logs", "name": "public/logs", "expires": "2016-12-01T00:00:00Z"}],
		"mounts": [
			{"directory": "./cache/", "cacheName": "go-build"},
			{"directory": ".", "format": "zip", "content": {"url": "https://example.com/a.zip"}}],
		"onExitStatus": {"retry": [3, 4.0]}
	}`), task)
	if err != nil {
		t.Fatal(err)
	}
	if p.MaxRunTime.Duration() != time.Minute {
		t.Errorf("maxRunTime is %v", p.MaxRunTime.Duration())
	}
	if !p.OnExitStatus.Retry.Has(4) || p.OnExitStatus.Retry.Has(5) {
		t.Errorf("retry is %v", p.OnExitStatus.Retry)
	}
	if want := (Features{LiveLog: true, BackingLog: true, ResourceMonitor: true}); p.Features != want {
		t.Errorf("features are %+v", p.Features)
	}
	if want := (Logs{"public/logs/live.log", "public/logs/live_backing.log"}); p.Logs != want {
		t.Errorf("logs are %+v", p.Logs)
	}
	var names []string
	for _, a := range p.Artifacts {
		names = append(names, a.Name)
	}
	if want := []string{"out/result.json", "", "public/logs"}; !reflect.DeepEqual(names, want) {
		t.Errorf("the artifacts are named %q, want %q", names, want)
	}
	if !p.Artifacts[0].Expires.Equal(expires) || p.Artifacts[2].Expires.Year() != 2016 {
		t.Errorf("the artifacts expire at %v and %v", p.Artifacts[0].Expires, p.Artifacts[2].Expires)
	}
	if p.Mounts[0].Path() != "cache" || p.Mounts[1].Path() != "." {
		t.Errorf("the mounts are at %q and %q", p.Mounts[0].Path(), p.Mounts[1].Path())
	}
}

func TestFeaturesCanBeTurnedOff(t *testing.T) {
	p, err := Parse(json.RawMessage(`{"command": [["true"]], "maxRunTime": 1, "features": {"liveLog": false, "lineTimestamps": true}}`), task)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Features{BackingLog: true, ResourceMonitor: true, LineTimestamps: true}); p.Features != want {
		t.Errorf("features are %+v", p.Features)
	}
}

func TestMalformedPayloadsAreRefusedWithAllReasons(t *testing.T) {
	const sum = `"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"`
	for name, test := range map[string]struct {
		payload string
		reasons []string // a part of each
	}{
		"no JSON":                {`{`, []string{"unexpected EOF"}},
		"no object":              {`[]`, []string{"payload: got array, want object"}},
		"empty":                  {`{}`, []string{"missing properties 'command', 'maxRunTime'"}},
		"a docker payload":       {`{"image": "debian", "command": ["true"], "maxRunTime": 1}`, []string{"no container engine"}},
		"a shell line":           {with(`"command": ["make all"]`), []string{"command/0: got string, want array"}},
		"no command":             {with(`"command": []`), []string{"command: minItems: got 0, want 1"}},
		"an empty command":       {with(`"command": [[]]`), []string{"command/0: minItems"}},
		"a NUL in an argument":   {with(`"command": [["a\u0000b"]]`), []string{"command/0/0: "}},
		"a variable with =":      {with(`"env": {"A=B": "c"}`), []string{"env: additional properties 'A=B' not allowed"}},
		"a number in env":        {with(`"env": {"A": 1}`), []string{"env/A: got number, want string"}},
		"no time at all":         {with(`"maxRunTime": 0`), []string{"maxRunTime: minimum"}},
		"an unending time":       {with(`"maxRunTime": 1e300`), []string{"maxRunTime: maximum"}},
		"an unknown feature":     {with(`"features": {"teleport": true}`), []string{"features: additional properties 'teleport' not allowed"}},
		"an unknown property":    {with(`"commands": []`), []string{"additional properties 'commands' not allowed"}},
		"groups":                 {with(`"osGroups": ["docker"]`), []string{"osGroups: this worker runs tasks as the user that it runs as itself"}},
		"a late artifact":        {with(`"artifacts": [{"type": "file", "path": "a", "expires": "2018-01-01T00:00:00Z"}]`), []string{"artifacts/0: it would expire at 2018-01-01T00:00:00Z, after its task"}},
		"an artifact of no time": {with(`"artifacts": [{"type": "file", "path": "a", "expires": "tomorrow"}]`), []string{"artifacts/0/expires: 'tomorrow' is not valid date-time"}},
		"a path that is no name": {with(`"artifacts": [{"type": "file", "path": "é"}]`), []string{"artifacts/0: the path \"é\" cannot serve"}},
		"two of one name":        {with(`"artifacts": [{"type": "file", "path": "a"}, {"type": "file", "path": "b", "name": "a"}]`), []string{`artifacts/1: its name, "a", is taken by artifacts/0`}},
		"a name of the log's":    {with(`"artifacts": [{"type": "file", "path": "a", "name": "public/logs/live.log"}]`), []string{"taken by the live log"}},
		"logs of one name":       {with(`"logs": {"live": "a", "backing": "a"}`), []string{"the live log and the backing log have the same name"}},
		"a mount outside":        {with(`"mounts": [{"file": "../a", "content": {"raw": ""}}]`), []string{`mounts/0: "../a" is no path below`}},
		"an absolute mount":      {with(`"mounts": [{"file": "/etc/passwd", "content": {"raw": ""}}]`), []string{"no path below"}},
		"a mount of everything":  {with(`"mounts": [{"directory": ".", "cacheName": "go-build"}]`), []string{"no path below"}},
		"a cache without scope":  {with(`"mounts": [{"directory": "a", "cacheName": "rust"}]`), []string{"needs the scope generic-worker:cache:rust"}},
		"a cache twice":          {with(`"mounts": [{"directory": "a", "cacheName": "go-1"}, {"directory": "b", "cacheName": "go-1"}]`), []string{"mounts/1: the cache \"go-1\" is mounted by mounts/0 already"}},
		"a cache half filled":    {with(`"mounts": [{"directory": "a", "cacheName": "go-1", "format": "zip"}]`), []string{"mounts/0"}},
		"no format":              {with(`"mounts": [{"directory": "a", "content": {"raw": "x"}}]`), []string{"mounts/0: missing property 'format'"}},
		"an archive as a file":   {with(`"mounts": [{"file": "a", "format": "zip", "content": {"raw": "x"}}]`), []string{"mounts/0/format: value must be one of"}},
		"a file URL":             {with(`"mounts": [{"file": "a", "content": {"url": "file:///etc/passwd"}}]`), []string{"mounts/0/content/url"}},
		"no digest":              {with(`"mounts": [{"file": "a", "content": {"url": "http://x/", "sha256": "abc"}}]`), []string{"mounts/0/content/sha256"}},
		"two contents":           {with(`"mounts": [{"file": "a", "content": {"url": "http://x/", "raw": "", "sha256": ` + sum + `}}]`), []string{"mounts/0/content"}},
		"an artifact of nobody":  {with(`"mounts": [{"file": "a", "content": {"artifact": "public/x"}}]`), []string{"mounts/0/content: missing property 'taskId'"}},
		"several at once":        {with(`"osGroups": ["x"], "mounts": [{"file": "..", "content": {"raw": ""}}, {"directory": "a", "cacheName": "rust"}]`), []string{"mounts/0", "mounts/1", "osGroups"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse(json.RawMessage(test.payload), task)
			var malformed *Malformed
			if !errors.As(err, &malformed) {
				t.Fatalf("Parse returned %+v, %v", p, err)
			}
			if len(malformed.Reasons) != len(test.reasons) {
				t.Errorf("%d reasons, want %d: %v", len(malformed.Reasons), len(test.reasons), err)
			}
			for _, part := range test.reasons {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the reasons are %v; want %q among them", err, part)
				}
			}
		})
	}
}

// with is a valid payload with the members in place of, or beside, its own: of
// two members of one name the last one counts.
func with(members string) string {
	return `{"command": [["true"]], "maxRunTime": 1, ` + members + `}`
}

func FuzzParse(f *testing.F) {
	f.Add(with(`"mounts": [{"file": "a", "content": {"raw": ""}}]`))
	f.Add(with(`"artifacts": [{"type": "file", "path": "a"}]`))
	f.Add(with(`"onExitStatus": {"retry": [1e400]}`))
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := Parse(json.RawMessage(raw), task)
		var malformed *Malformed
		if err != nil && !errors.As(err, &malformed) {
			t.Errorf("err is %T", err)
		}
		if err == nil && (len(p.Command) == 0 || len(p.Command[0]) == 0 || p.MaxRunTime.Duration() < time.Second) {
			t.Errorf("%q was accepted as %+v", raw, p)
		}
	})
}
