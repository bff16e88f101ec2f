package graph

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	defaultDeadline = day
	defaultRunTime  = time.Hour
)

// A builder makes one task's definition: the file's defaults are read into it
// first, then the task's own fields, which replace them or, where they are
// mappings, are added to them.
type builder struct {
	*parser
	d        *draft
	what     string // for messages: defaults, or the task
	deadline time.Duration
	expires  time.Duration
	def      queue.CreateTaskRequest
	payload  map[string]any
	raw      bool // payload is given, so the worker may be of any kind
	extra    map[string]any
}

func newBuilder(p *parser, d *draft) *builder {
	return &builder{
		parser: p, d: d, deadline: defaultDeadline, payload: map[string]any{}, extra: map[string]any{},
		def: queue.CreateTaskRequest{
			Created: timestamp.Of(p.o.Now), TaskGroupID: p.g.GroupID,
			Metadata: queue.TaskMetadata{Name: d.label, Description: d.label},
		},
	}
}

// read reads the fields of a task, or of the defaults of all.
func (b *builder) read(n *yaml.Node, what string, defaults bool) {
	b.what = what
	known := table{
		"description":  b.into(&b.def.Metadata.Description, "description"),
		"owner":        b.into(&b.def.Metadata.Owner, "owner"),
		"source":       b.into(&b.def.Metadata.Source, "source"),
		"queue":        b.into(&b.def.TaskQueueID, "queue"),
		"project":      b.into(&b.def.ProjectID, "project"),
		"scheduler":    b.into(&b.def.SchedulerID, "scheduler"),
		"priority":     b.into(&b.def.Priority, "priority"),
		"requires":     b.into(&b.def.Requires, "requires"),
		"retries":      b.retries,
		"deadline":     b.duration("deadline", &b.deadline),
		"expires":      b.duration("expires", &b.expires),
		"routes":       b.list("routes", &b.def.Routes),
		"scopes":       b.list("scopes", &b.def.Scopes),
		"tags":         b.tags,
		"extra":        b.mergeInto(b.extra, "extra"),
		"command":      b.command,
		"env":          b.env,
		"maxRunTime":   b.maxRunTime,
		"artifacts":    b.artifacts,
		"mounts":       b.mounts,
		"onExitStatus": b.onExitStatus,
		"features":     b.member("features"),
		"logs":         b.member("logs"),
		"payload":      b.rawPayload,
	}
	if !defaults {
		known["name"] = b.into(&b.def.Metadata.Name, "name")
		known["each"] = func(*yaml.Node) {} // read before
		known["dependencies"] = func(*yaml.Node) {}
	}
	b.object(n, what, known)
}

// finish checks the definition as a whole.
func (b *builder) finish() queue.CreateTaskRequest {
	d := &b.def
	for _, n := range b.d.needs {
		d.Dependencies = append(d.Dependencies, n.id)
	}
	d.Deadline = d.Created.Add(b.deadline)
	if b.expires != 0 {
		d.Expires = d.Created.Add(b.expires)
	}
	_, hasCommand := b.payload["command"]
	if _, ok := b.payload["maxRunTime"]; !ok && hasCommand {
		b.payload["maxRunTime"] = int(min(defaultRunTime, b.deadline).Seconds())
	}
	d.Payload = compact(b.payload)
	if len(b.extra) > 0 {
		d.Extra = compact(b.extra)
	}
	for _, c := range []struct {
		wrong   bool
		message string
	}{
		{!hasCommand && !b.raw, "has no command; write one such as command: [[sh, -c, make all]]"},
		{!queueForm.MatchString(d.TaskQueueID), fmt.Sprintf("has %s as its queue; it must be PROVISIONER/TYPE, such as local/build; set queue: in the task or in defaults", orNothing(d.TaskQueueID))},
		{d.Metadata.Owner == "", "has no owner; set owner: in the task or in defaults to somebody's e-mail address"},
		{!sourceForm.MatchString(d.Metadata.Source), fmt.Sprintf("has %s as its source; set source: in the task or in defaults to the URL where this file is kept (https://…, ssh://… or git@…)", orNothing(d.Metadata.Source))},
		{len(d.Metadata.Name) > 255 || len(d.Metadata.Owner) > 255, "has a name or owner of more than 255 characters"},
		{len(d.Metadata.Description) > 32768, "has a description of more than 32768 characters"},
		{b.deadline <= 0 || b.deadline > task.MaxLife, fmt.Sprintf("has a deadline in %s; it must be within five days", b.deadline)},
		{b.expires != 0 && b.expires < b.deadline, "expires before its deadline; make expires: the longer one"},
		{d.Priority != "" && !slices.Contains(task.Priorities, task.Priority(d.Priority)), fmt.Sprintf("has the priority %q; there are %s", d.Priority, join(task.Priorities))},
		{!slices.Contains([]string{"", string(task.AllCompleted), string(task.AllResolved)}, d.Requires), fmt.Sprintf("requires %q; there are all-completed and all-resolved", d.Requires)},
	} {
		if c.wrong {
			b.fail(b.d.key, "task %s %s", b.d.label, c.message)
		}
	}
	b.checkMounts()
	return *d
}

var (
	queueForm  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,38}/[a-z]([-a-z0-9]{0,36}[a-z0-9])?$`)
	sourceForm = regexp.MustCompile(`^(https?://|ssh://|git@)`)
)

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return strconv.Quote(s)
}

func join[S ~string](list []S) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}

// str reads the text of a field of the task.
func (b *builder) str(n *yaml.Node, name string) string {
	return b.text(n, b.what+": "+name, b.d.vars)
}

func (b *builder) into(target *string, name string) func(*yaml.Node) {
	return func(n *yaml.Node) { *target = b.str(n, name) }
}

func (b *builder) duration(name string, target *time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d, err := ParseDuration(b.str(n, name))
		if err != nil {
			b.fail(n, "%s: %s: %w", b.what, name, err)
			return
		}
		*target = d
	}
}

func (b *builder) strings(n *yaml.Node, name string) (list []string) {
	for _, x := range b.items(n, b.what+": "+name) {
		list = append(list, b.str(x, name))
	}
	return list
}

func (b *builder) list(name string, target *[]string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		*target = b.strings(n, name)
		if name != "scopes" {
			return
		}
		for _, s := range *target {
			if !scope.Valid(s) {
				b.fail(n, "%s: %q is no scope: scopes are printable ASCII", b.what, s)
			}
		}
	}
}

// mergeInto adds the members of a mapping to one that has those of the defaults.
func (b *builder) mergeInto(target map[string]any, name string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		for _, f := range b.fields(n, b.what+": "+name) {
			target[f.name] = b.value(f.node, name+"."+f.name, b.d.vars)
		}
	}
}

// member is mergeInto for an object of the payload that the worker checks.
func (b *builder) member(name string) func(*yaml.Node) {
	return func(n *yaml.Node) { b.mergeInto(b.part(name), name)(n) }
}

// part is the object called name in the payload, made if need be.
func (b *builder) part(name string) map[string]any {
	m, ok := b.payload[name].(map[string]any)
	if !ok {
		m = map[string]any{}
		b.payload[name] = m
	}
	return m
}

func (b *builder) rawPayload(n *yaml.Node) {
	b.raw = true
	b.mergeInto(b.payload, "payload")(n)
}

func (b *builder) retries(n *yaml.Node) {
	i, err := strconv.Atoi(b.str(n, "retries"))
	if err != nil || i < 0 || i > 49 {
		b.fail(n, "%s: retries must be a number from 0 to 49", b.what)
		return
	}
	b.def.Retries = &i
}

func (b *builder) tags(n *yaml.Node) {
	if b.def.Tags == nil {
		b.def.Tags = map[string]string{}
	}
	for _, f := range b.fields(n, b.what+": tags") {
		b.def.Tags[f.name] = b.str(f.node, "tags."+f.name)
	}
}

func (b *builder) env(n *yaml.Node) {
	env := b.part("env")
	for _, f := range b.fields(n, b.what+": env") {
		env[f.name] = b.str(f.node, "env."+f.name)
	}
}

func (b *builder) command(n *yaml.Node) {
	var commands [][]string
	for _, c := range b.items(n, b.what+": command") {
		if c.Kind != yaml.SequenceNode {
			b.fail(c, "%s: command must be a list of commands, each a list of words such as [sh, -c, make all], not %s", b.what, kindOf(c))
			return
		}
		words := b.strings(c, "command")
		if len(words) == 0 {
			b.fail(c, "%s: a command has no words", b.what)
			return
		}
		commands = append(commands, words)
	}
	if len(commands) == 0 {
		b.fail(n, "%s: command has no commands", b.what)
		return
	}
	b.payload["command"] = commands
}

// maxRunTime is the only duration that may be a bare number: that is what it is
// in the payload.
func (b *builder) maxRunTime(n *yaml.Node) {
	s := b.str(n, "maxRunTime")
	if _, err := strconv.Atoi(s); err == nil {
		s += "s"
	}
	d, err := ParseDuration(s)
	if err == nil && d < time.Second {
		err = fmt.Errorf("it must be at least a second")
	}
	if err != nil {
		b.fail(n, "%s: maxRunTime: %w", b.what, err)
		return
	}
	b.payload["maxRunTime"] = int(d.Seconds())
}

func (b *builder) onExitStatus(n *yaml.Node) {
	target := b.part("onExitStatus")
	statuses := func(name string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			list := []int{}
			for _, x := range b.items(n, b.what+": onExitStatus."+name) {
				i, err := strconv.Atoi(b.str(x, "onExitStatus."+name))
				if err != nil {
					b.fail(x, "%s: onExitStatus.%s must be a list of numbers", b.what, name)
				}
				list = append(list, i)
			}
			target[name] = list
		}
	}
	b.object(n, b.what+": onExitStatus", table{"retry": statuses("retry"), "purgeCaches": statuses("purgeCaches")})
}

// artifacts are a mapping of names to paths, or a list in the payload's form.
func (b *builder) artifacts(n *yaml.Node) {
	list := []any{}
	if n.Kind == yaml.MappingNode {
		for _, f := range b.fields(n, b.what+": artifacts") {
			name, err := b.d.vars.expand(f.name)
			if err != nil {
				b.fail(f.key, "%s: artifacts: %w", b.what, err)
			}
			list = append(list, b.artifact(f.node, name))
		}
	} else {
		for _, x := range b.items(n, b.what+": artifacts") {
			list = append(list, b.artifact(x, ""))
		}
	}
	b.payload["artifacts"] = list
}

// artifact reads one; a path that ends in / is a directory.
func (b *builder) artifact(n *yaml.Node, name string) map[string]any {
	a := map[string]any{}
	what := b.what + ": artifact"
	if name != "" {
		a["name"] = name
		what += " " + name
	}
	text := func(key string) func(*yaml.Node) {
		return func(n *yaml.Node) { a[key] = b.text(n, what+"."+key, b.d.vars) }
	}
	if n.Kind == yaml.ScalarNode {
		text("path")(n)
	} else {
		known := table{
			"path": text("path"), "type": text("type"), "contentType": text("contentType"), "contentEncoding": text("contentEncoding"),
			"optional": func(n *yaml.Node) { a["optional"] = b.value(n, what+".optional", b.d.vars) },
			"expires": func(n *yaml.Node) {
				d, err := ParseDuration(b.text(n, what+".expires", b.d.vars))
				if err != nil {
					b.fail(n, "%s: expires: %w", what, err)
				}
				a["expires"] = b.def.Created.Add(d)
			},
		}
		if name == "" {
			known["name"] = text("name")
		}
		b.object(n, what, known)
	}
	path, _ := a["path"].(string)
	if path == "" {
		b.fail(n, "%s has no path; say where the task leaves it", what)
	}
	if a["type"] == nil {
		a["type"] = "file"
		if strings.HasSuffix(path, "/") {
			a["type"] = "directory"
		}
	}
	if a["type"] != "file" && a["type"] != "directory" {
		b.fail(n, "%s: type is %q; there are file and directory", what, a["type"])
	}
	return a
}

func (b *builder) mounts(n *yaml.Node) {
	list := []any{}
	for _, x := range b.items(n, b.what+": mounts") {
		for _, each := range b.each(x, b.what+": mount", b.d.vars) {
			list = append(list, b.mount(x, b.d.vars.with(each)))
		}
	}
	b.payload["mounts"] = list
}

func (b *builder) mount(n *yaml.Node, vars *variables) map[string]any {
	m := map[string]any{}
	text := func(key string) func(*yaml.Node) {
		return func(n *yaml.Node) { m[key] = b.text(n, b.what+": mount."+key, vars) }
	}
	b.object(n, b.what+": mount", table{
		"file": text("file"), "directory": text("directory"), "cacheName": text("cacheName"), "format": text("format"),
		"content": func(n *yaml.Node) { m["content"] = b.content(n, vars) },
		"each":    func(*yaml.Node) {}, // read before
	})
	if (m["file"] == nil) == (m["directory"] == nil) {
		b.fail(n, "%s: a mount needs either file or directory, where its content is to be", b.what)
	}
	return m
}

func (b *builder) content(n *yaml.Node, vars *variables) map[string]any {
	c := map[string]any{}
	known := table{}
	for _, key := range []string{"artifact", "taskId", "url", "sha256", "raw", "base64"} {
		known[key] = func(n *yaml.Node) { c[key] = b.text(n, b.what+": mount.content."+key, vars) }
	}
	b.object(n, b.what+": mount.content", known)
	return c
}

// checkMounts refuses artifacts of tasks that need not have run by then: they
// would be there by luck.
func (b *builder) checkMounts() {
	mounts, _ := b.payload["mounts"].([]any)
	for _, m := range mounts {
		mount, _ := m.(map[string]any)
		content, _ := mount["content"].(map[string]any)
		id, _ := content["taskId"].(string)
		if other := b.byID[id]; other != nil && !b.d.reaches(other) {
			b.fail(b.d.key, "task %s mounts an artifact of %s without depending on it; add %s to its dependencies", b.d.label, other.label, other.label)
		}
	}
}
