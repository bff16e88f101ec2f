package graph

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/client/queue"
)

// What each: and patterns can multiply a file to.
const (
	maxTasks = 50_000
	maxEdges = 2_000_000
)

// A draft is a task between its label, which is known first, and its
// definition, which may speak of the ids of all others.
type draft struct {
	label    string
	id       string
	key      *yaml.Node // where the label is, for messages
	node     *yaml.Node
	vars     *variables
	patterns []pattern // of labels it depends on
	needs    []*draft  // in the order of the file
	order    int
}

// A pattern is one entry of dependencies.
type pattern struct {
	node *yaml.Node
	text string
}

// parser holds what reading one graph file has come to know.
type parser struct {
	*reader
	o          Options
	g          *Graph
	defaults   *yaml.Node
	drafts     []*draft
	byLabel    map[string]*draft
	byID       map[string]*draft
	matches    map[string][]*draft // of patterns that were met already
	edges      int
	parameters *variables
}

// Parse reads a graph. File is its name in messages.
func Parse(file string, text []byte, o Options) (*Graph, error) {
	p := &parser{reader: &reader{file: file}, o: o.withDefaults(), g: &Graph{},
		byLabel: map[string]*draft{}, byID: map[string]*draft{}, matches: map[string][]*draft{}}
	top := p.document(text)
	if top == nil {
		return nil, p.err()
	}
	p.g.GroupID = p.o.NewID()
	var parameters, tasks *yaml.Node
	p.top(top, table{
		"name":        func(n *yaml.Node) { p.g.Name = p.scalar(n, "name") },
		"description": func(n *yaml.Node) { p.g.Description = p.scalar(n, "description") },
		"parameters":  func(n *yaml.Node) { parameters = n },
		"defaults":    func(n *yaml.Node) { p.defaults = n },
		"tasks":       func(n *yaml.Node) { tasks = n },
	})
	p.g.Parameters = p.reader.parameters(parameters, p.o)
	p.parameters = &variables{values: valuesOf(p.g.Parameters), lookup: map[string]func(string) (string, error){"task": p.idOf}}
	p.parameters.values["group"] = p.g.GroupID
	if tasks == nil || len(p.fields(tasks, "tasks")) == 0 {
		p.fail(top, "the graph has no tasks; add some under tasks:")
		return nil, p.err()
	}
	p.draw(tasks)
	p.connect()
	if err := p.err(); err != nil {
		return nil, err // no order among tasks that depend on who knows what
	}
	if !p.sort() {
		return nil, p.err()
	}
	for _, d := range p.drafts {
		p.g.Tasks = append(p.g.Tasks, Task{Label: d.label, ID: d.id, Dependencies: labels(d.needs), Definition: p.define(d)})
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return p.g, nil
}

// top reads the fields of the file. Names that begin with x- are nobody's: room
// for what anchors point to.
func (r *reader) top(n *yaml.Node, known table) {
	if n.Kind == yaml.MappingNode {
		own := *n
		own.Content = nil
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !strings.HasPrefix(n.Content[i].Value, "x-") {
				own.Content = append(own.Content, n.Content[i], n.Content[i+1])
			}
		}
		n = &own
	}
	r.object(n, "the file", known)
}

func (p *parser) idOf(label string) (string, error) {
	if d := p.byLabel[label]; d != nil {
		return d.id, nil
	}
	return "", fmt.Errorf("there is no task %q; %s", shorten(label, 80), p.suggestLabel(label))
}

// suggestLabel helps with the first mistakes; looking through the labels of a
// large graph for each of many would take long.
func (p *parser) suggestLabel(label string) string {
	if p.failures > maxErrs {
		return "see the mistakes before this one"
	}
	return suggest(label, sortedKeys(p.byLabel))
}

// draw makes a draft of each task, several of one with each:.
func (p *parser) draw(tasks *yaml.Node) {
	for _, f := range p.fields(tasks, "tasks") {
		if isNull(f.node) || f.node.Kind != yaml.MappingNode {
			p.fail(f.key, "the task %s must be a mapping with a command, not %s", f.name, kindOf(f.node))
			continue
		}
		for _, each := range p.each(f.node, "task "+f.name, p.parameters) {
			vars := p.parameters.with(each)
			label, err := vars.expand(f.name)
			switch {
			case err != nil:
				p.fail(f.key, "the label %s: %w", f.name, err)
			case !labelForm.MatchString(label):
				p.fail(f.key, "%q cannot be a label: it must be letters, digits and . _ - /, beginning with a letter or digit, at most 200", label)
			case p.byLabel[label] != nil:
				p.fail(f.key, "there is a task %s already, in line %d; with each: the label has to contain each of its variables", label, p.byLabel[label].key.Line)
			case len(p.drafts) == maxTasks:
				p.fail(f.key, "the graph has more than %d tasks", maxTasks)
				return
			default:
				d := &draft{label: label, id: p.o.NewID(), key: f.key, node: f.node, vars: vars, order: len(p.drafts)}
				p.drafts = append(p.drafts, d)
				p.byLabel[label], p.byID[d.id] = d, d
			}
		}
	}
}

var labelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)

// each returns the variables of each copy of a task or mount: one copy without
// any, unless it has each:.
func (p *parser) each(of *yaml.Node, what string, outer *variables) []map[string]string {
	var node *yaml.Node
	if of.Kind == yaml.MappingNode {
		for _, x := range p.fields(of, what) {
			if x.name == "each" {
				node = x.node
			}
		}
	}
	if node == nil {
		return []map[string]string{{}}
	}
	what += ": each"
	if node.Kind == yaml.SequenceNode {
		var copies []map[string]string
		for _, n := range p.items(node, what) {
			vars := map[string]string{}
			for _, x := range p.fields(n, what) {
				if p.variable(x, what, outer) {
					vars[x.name] = p.text(x.node, what+"."+x.name, outer)
				}
			}
			copies = append(copies, vars)
		}
		if len(copies) == 0 {
			p.fail(node, "%s is empty, so there would be no copy at all", what)
		}
		return copies
	}
	copies := []map[string]string{{}}
	for _, x := range p.fields(node, what) {
		if !p.variable(x, what, outer) {
			continue
		}
		values := p.series(x, what+"."+x.name, outer)
		if len(copies)*len(values) > maxTasks {
			p.fail(x.key, "%s makes more than %d copies", what, maxTasks)
			return nil
		}
		var product []map[string]string
		for _, c := range copies {
			for _, v := range values {
				more := map[string]string{x.name: v}
				for k, other := range c {
					more[k] = other
				}
				product = append(product, more)
			}
		}
		copies = product
	}
	return copies
}

func (p *parser) variable(x field, what string, outer *variables) bool {
	_, taken := outer.values[x.name]
	if !variableName.MatchString(x.name) || reserved[x.name] || taken {
		p.fail(x.key, "%s: a variable cannot be called %q: the name must be letters, digits and _, and none that is taken by a parameter or an outer each:, nor one of "+reservedNames, what, x.name)
		return false
	}
	return true
}

// series is a list of values: written as such, as words with spaces between
// them, which is how a parameter can have several, or as a range such as 1..4.
func (p *parser) series(x field, what string, outer *variables) (values []string) {
	if x.node.Kind == yaml.SequenceNode {
		for _, n := range p.items(x.node, what) {
			values = append(values, p.text(n, what, outer))
		}
	} else {
		s := p.text(x.node, what, outer)
		if from, to, isRange := strings.Cut(s, ".."); isRange {
			first, err1 := strconv.Atoi(strings.TrimSpace(from))
			last, err2 := strconv.Atoi(strings.TrimSpace(to))
			switch {
			case err1 != nil || err2 != nil || first < 0:
				p.fail(x.node, "%s must be a range such as 1..4, a list, or words, not %q", what, shorten(s, 40))
				return nil
			case last >= 1<<30 || last-first >= maxTasks:
				p.fail(x.node, "%s: the range %s has more than %d values", what, s, maxTasks)
				return nil
			}
			for i := first; i <= last; i++ {
				values = append(values, strconv.Itoa(i))
			}
		} else {
			values = strings.Fields(s)
		}
	}
	if len(values) == 0 {
		p.fail(x.node, "%s is empty, so there would be no copy at all", what)
	}
	return values
}

// connect finds the tasks that each depends on.
func (p *parser) connect() {
	for _, d := range p.drafts {
		for _, f := range p.fields(d.node, "task "+d.key.Value) {
			if f.name != "dependencies" || isNull(f.node) {
				continue
			}
			for _, n := range p.items(f.node, "task "+d.key.Value+": dependencies") {
				d.patterns = append(d.patterns, pattern{n, p.text(n, "task "+d.key.Value+": dependencies", d.vars)})
			}
		}
	}
	for _, d := range p.drafts {
		for _, x := range d.patterns {
			p.match(d, x)
		}
		slices.SortFunc(d.needs, func(a, b *draft) int { return a.order - b.order })
		d.needs = slices.Compact(d.needs)
	}
}

func (p *parser) match(d *draft, x pattern) {
	if !strings.Contains(x.text, "*") {
		need := p.byLabel[x.text]
		switch {
		case need == nil:
			p.fail(x.node, "task %s depends on %q, and there is no such task; %s", d.label, shorten(x.text, 80), p.suggestLabel(x.text))
		case need == d:
			p.fail(x.node, "task %s depends on itself", d.label)
		default:
			d.needs = append(d.needs, need)
		}
		return
	}
	matches, err := p.matching(x.text)
	if err != nil {
		p.fail(x.node, "task %s: %w", d.label, err)
		return
	}
	found := false
	for _, other := range matches {
		if other != d {
			d.needs = append(d.needs, other)
			found = true
		}
	}
	if !found {
		p.fail(x.node, "task %s depends on %q, which no other task's label matches", d.label, x.text)
	}
}

// matching are the tasks whose labels match a pattern.
func (p *parser) matching(text string) ([]*draft, error) {
	list, known := p.matches[text]
	if p.edges += len(list); !known {
		p.edges += len(p.drafts)
	}
	if p.edges > maxEdges {
		return nil, fmt.Errorf("the patterns of dependencies are too many for a graph of %d tasks; depend on fewer", len(p.drafts))
	}
	if known {
		return list, nil
	}
	for _, d := range p.drafts {
		matched, err := path.Match(text, d.label)
		if err != nil {
			return nil, fmt.Errorf("%q is no pattern of labels: use * for any number of characters but /", text)
		}
		if matched {
			list = append(list, d)
		}
	}
	p.matches[text] = list
	return list, nil
}

// sort brings dependencies before those who need them and otherwise keeps the
// order of the file. It reports a cycle.
func (p *parser) sort() bool {
	waits := make(map[*draft]int, len(p.drafts))
	neededBy := map[*draft][]*draft{}
	for _, d := range p.drafts {
		waits[d] = len(d.needs)
		for _, n := range d.needs {
			neededBy[n] = append(neededBy[n], d)
		}
	}
	var ready, sorted []*draft
	for _, d := range p.drafts {
		if waits[d] == 0 {
			ready = append(ready, d)
		}
	}
	for len(ready) > 0 {
		d := ready[0]
		ready = ready[1:]
		sorted = append(sorted, d)
		for _, n := range neededBy[d] {
			if waits[n]--; waits[n] == 0 {
				ready = append(ready, n)
			}
		}
	}
	if len(sorted) == len(p.drafts) {
		p.drafts = sorted
		return true
	}
	// Each of those left needs another of them, so following the needs comes
	// back to one seen before.
	var trail []*draft
	at := map[*draft]int{}
	d := p.drafts[slices.IndexFunc(p.drafts, func(d *draft) bool { return waits[d] > 0 })]
	for {
		if i, seen := at[d]; seen {
			trail = trail[i:]
			break
		}
		at[d] = len(trail)
		trail = append(trail, d)
		d = d.needs[slices.IndexFunc(d.needs, func(n *draft) bool { return waits[n] > 0 })]
	}
	names := labels(trail)
	p.fail(trail[0].key, "these tasks wait for each other: %s → %s; remove one of these dependencies", strings.Join(names, " → "), names[0])
	return false
}

func labels(list []*draft) []string {
	names := make([]string, len(list))
	for i, d := range list {
		names[i] = d.label
	}
	return names
}

// reaches reports whether d depends on other, if by way of more tasks.
func (d *draft) reaches(other *draft) bool {
	seen := map[*draft]bool{}
	next := slices.Clone(d.needs)
	for len(next) > 0 {
		n := next[len(next)-1]
		next = next[:len(next)-1]
		if n == other {
			return true
		}
		if !seen[n] {
			seen[n] = true
			next = append(next, n.needs...)
		}
	}
	return false
}

// define makes the definition of a task out of the defaults and its own fields.
func (p *parser) define(d *draft) queue.CreateTaskRequest {
	b := newBuilder(p, d)
	if p.defaults != nil {
		b.read(p.defaults, "defaults", true)
	}
	b.read(d.node, "task "+d.key.Value, false)
	return b.finish()
}
