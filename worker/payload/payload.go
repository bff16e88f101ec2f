// Package payload is what a task asks of the worker.
//
// Parse holds a payload to the schema in worker/schemas and to what a schema
// cannot say: that a cache needs a scope, that an artifact may not outlive its
// task, that paths stay inside. What it returns is therefore complete — every
// default is filled in — and nothing after it has to ask whether a payload
// makes sense. All reasons for refusal are given at once, in the words that the
// task's log will show.
//
// Artifact paths are the exception: one that leads out of the task's directory
// is no malformed payload but a missing promise, which is recorded in place of
// the artifact when the task has run.
package payload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/scope"
)

// A Payload is a valid one.
type Payload struct {
	Command      [][]string        `json:"command"`
	Env          map[string]string `json:"env"`
	MaxRunTime   Seconds           `json:"maxRunTime"`
	Artifacts    []Artifact        `json:"artifacts"`
	Mounts       []Mount           `json:"mounts"`
	OnExitStatus struct {
		Retry       Statuses `json:"retry"`
		PurgeCaches Statuses `json:"purgeCaches"`
	} `json:"onExitStatus"`
	Features Features `json:"features"`
	Logs     Logs     `json:"logs"`
	OSGroups []string `json:"osGroups"`
}

// Features are what the worker does beside running commands.
type Features struct {
	LiveLog          bool `json:"liveLog"`
	BackingLog       bool `json:"backingLog"`
	LineTimestamps   bool `json:"lineTimestamps"`
	ResourceMonitor  bool `json:"resourceMonitor"`
	TaskclusterProxy bool `json:"taskclusterProxy"`
}

// Logs are the names of the log's artifacts.
type Logs struct {
	Live    string `json:"live"`
	Backing string `json:"backing"`
}

// An Artifact is a file, or the files below a directory, to keep.
type Artifact struct {
	Type            string    `json:"type"` // file or directory
	Path            string    `json:"path"` // as the task gave it; it may lead anywhere
	Name            string    `json:"name"`
	Expires         time.Time `json:"expires"`
	ContentType     string    `json:"contentType"`     // empty: by the name's extension
	ContentEncoding string    `json:"contentEncoding"` // identity, gzip or, to decide by content type, empty
	Optional        bool      `json:"optional"`
}

// A Mount is a file or directory to have before the first command runs: a file
// if File is set, a writable cache if CacheName is, and else a directory.
type Mount struct {
	File      string   `json:"file"`
	Directory string   `json:"directory"`
	CacheName string   `json:"cacheName"`
	Format    string   `json:"format"` // of package archive: a compression for a file, else an archive
	Content   *Content `json:"content"`
}

// Path is where the mount is in the task's directory: relative and clean.
func (m Mount) Path() string { return cmp.Or(m.File, m.Directory) }

// Content is bytes from an artifact, a URL, or the payload itself.
type Content struct {
	TaskID   string  `json:"taskId"`
	Artifact string  `json:"artifact"`
	URL      string  `json:"url"`
	SHA256   string  `json:"sha256"`
	Raw      *string `json:"raw"`
	Base64   *string `json:"base64"`
}

// Seconds is a length of time. JSON has one kind of number, so 60 may come as 60.0.
type Seconds float64

// Duration returns s as the language's kind.
func (s Seconds) Duration() time.Duration { return time.Duration(s) * time.Second }

// Statuses are exit statuses.
type Statuses []float64

// Has reports whether status is one of them.
func (s Statuses) Has(status int) bool { return slices.Contains(s, float64(status)) }

// Task is what of the task's definition bears on its payload.
type Task struct {
	Scopes  []string
	Expires time.Time
}

// Malformed says why a payload is refused.
type Malformed struct {
	Reasons []string
}

func (m *Malformed) Error() string {
	return "the payload is not valid:\n  * " + strings.Join(m.Reasons, "\n  * ")
}

// Parse returns a payload with its defaults, or an error of type *Malformed.
func Parse(raw json.RawMessage, task Task) (*Payload, error) {
	if reasons := violations(raw); len(reasons) > 0 {
		return nil, &Malformed{reasons}
	}
	p := Minimal()
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, &Malformed{[]string{err.Error()}}
	}
	c := checker{task: task, scopes: scope.NewSet(task.Scopes...)}
	c.logs(p)
	c.artifacts(p)
	c.mounts(p)
	if len(p.OSGroups) > 0 {
		c.refuse("osGroups", "this worker runs tasks as the user that it runs as itself and cannot put them into groups (%s); "+
			"leave it out, or use a worker pool whose workers can", strings.Join(p.OSGroups, ", "))
	}
	if len(c.reasons) > 0 {
		return nil, &Malformed{c.reasons}
	}
	return p, nil
}

// Minimal is a payload of nothing but the defaults.
func Minimal() *Payload {
	return &Payload{
		Features: Features{LiveLog: true, BackingLog: true, ResourceMonitor: true},
		Logs:     Logs{Live: "public/logs/live.log", Backing: "public/logs/live_backing.log"},
	}
}

// checker collects what the schema cannot say.
type checker struct {
	task    Task
	scopes  scope.Set
	reasons []string
}

func (c *checker) refuse(place, format string, args ...any) {
	c.reasons = append(c.reasons, place+": "+fmt.Sprintf(format, args...))
}

func (c *checker) logs(p *Payload) {
	if p.Logs.Live == p.Logs.Backing {
		c.refuse("logs", "the live log and the backing log have the same name, %q", p.Logs.Live)
	}
}

func (c *checker) artifacts(p *Payload) {
	taken := map[string]string{}
	if p.Features.LiveLog {
		taken[p.Logs.Live] = "the live log"
	}
	if p.Features.BackingLog {
		taken[p.Logs.Backing] = "the backing log"
	}
	for i := range p.Artifacts {
		a := &p.Artifacts[i]
		place := fmt.Sprintf("artifacts/%d", i)
		if a.Name == "" && (a.Type == "file" || path.Clean(a.Path) != ".") {
			a.Name = path.Clean(a.Path)
		}
		if !printable(a.Name) {
			c.refuse(place, "the path %q cannot serve as the artifact's name, which has to be printable ASCII; give it a name", a.Path)
		}
		if a.Expires.IsZero() {
			a.Expires = c.task.Expires
		} else if a.Expires.After(c.task.Expires) {
			c.refuse(place, "it would expire at %s, after its task, which does at %s", stamp(a.Expires), stamp(c.task.Expires))
		}
		if a.Type != "file" {
			continue
		}
		if other, found := taken[a.Name]; found {
			c.refuse(place, "its name, %q, is taken by %s", a.Name, other)
		}
		taken[a.Name] = place
	}
}

func (c *checker) mounts(p *Payload) {
	caches := map[string]string{}
	for i := range p.Mounts {
		m := &p.Mounts[i]
		place := fmt.Sprintf("mounts/%d", i)
		mayBeAll := m.File == "" && m.CacheName == "" // an archive may be unpacked into the task's directory itself
		at := filepath.FromSlash(path.Clean(m.Path()))
		if !filepath.IsLocal(at) || strings.ContainsRune(at, 0) || at == "." && !mayBeAll {
			c.refuse(place, "%q is no path below the task's directory", m.Path())
		}
		if m.File != "" {
			m.File = at
		} else {
			m.Directory = at
		}
		if m.CacheName == "" {
			continue
		}
		if needs := "generic-worker:cache:" + m.CacheName; !c.scopes.Has(needs) {
			c.refuse(place, "the cache %q needs the scope %s, which is not among task.scopes", m.CacheName, needs)
		}
		if other, found := caches[m.CacheName]; found {
			c.refuse(place, "the cache %q is mounted by %s already", m.CacheName, other)
		}
		caches[m.CacheName] = place
	}
}

func printable(name string) bool {
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			return false
		}
	}
	return len(name) <= 1024
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
