package stacks

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"
	"github.com/pulumi/pulumi/sdk/v3/go/common/diag/colors"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/sig"

	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
)

// An Action is what becomes of a thing.
type Action string

// Actions.
const (
	Create  Action = "create"
	Adopt   Action = "adopt" // it is there as defined, and comes into the state
	Update  Action = "update"
	Replace Action = "replace"
	Delete  Action = "delete"
	Keep    Action = "keep" // it leaves the state, and stays on the platform
)

// A Change is what becomes of a thing of a stack. Nothing in it is secret.
type Change struct {
	Stack  string          `json:"stack"`
	ID     string          `json:"id"`   // KIND=NAME
	Kind   string          `json:"kind"` // its token
	Name   string          `json:"name"`
	Action Action          `json:"action"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	Hidden []string        `json:"hidden,omitempty"` // members that differ and whose values are secret

	// Taken is that it is on the platform already, other than it is defined, and is changed.
	Taken bool `json:"taken,omitempty"`
}

// stays tells whether a thing is left as it is, whoever deletes it.
func (c *Change) stays() bool {
	return slices.Contains([]string{tokenGeneratedSecret, tokenReplicas, monitoring.TokenTeam, monitoring.TokenProject}, c.Kind)
}

// Holds words what is lost with a thing for good; "" if the definition makes it again.
func (c *Change) Holds() string {
	switch {
	case c.Action != Delete && c.Action != Replace:
	case c.Kind == indexPrefix+resource.Secrets.Name():
		return "SECRET: what is in it is gone for good"
	case c.Kind == indexPrefix+resource.WorkerPools.Name():
		return "WORKER POOL: its workers are ended, with the tasks that they run"
	case c.Kind == monitoring.TokenToken:
		return "TOKEN: who sends with it does so no more"
	}
	return ""
}

// resourceKind is that of package resource; nil if it is another sort of thing.
func (c *Change) resourceKind() resource.Kind {
	name, ok := strings.CutPrefix(c.Kind, indexPrefix)
	if !ok {
		return nil
	}
	return resource.KindNamed(name)
}

// idOf is how a thing is called, by its token and name.
func idOf(token, name string) string { return token[strings.LastIndex(token, ":")+1:] + "=" + name }

// ours tells whether a resource is a thing, not a component, the stack or a provider.
func ours(token string) bool {
	return strings.HasPrefix(token, "taskfleet:") && !strings.HasPrefix(token, "taskfleet:stacks:")
}

// A Progress is that something happens to a thing.
type Progress struct {
	Time   time.Time     `json:"time"`
	Stack  string        `json:"stack"`
	What   string        `json:"what"` // begun, done, failed; note: Text says what
	Action Action        `json:"action,omitempty"`
	ID     string        `json:"id,omitempty"`
	Done   int           `json:"done"` // of the stack's Total
	Total  int           `json:"total"`
	Took   time.Duration `json:"-"`
	Text   string        `json:"text,omitempty"`
}

// A Failure is why something was not done.
type Failure struct {
	ID     string `json:"id,omitempty"` // none: it concerns the stack
	Reason string `json:"reason"`
}

// A recorder makes changes, or progress, of the events of an engine.
type recorder struct {
	stack    string
	total    int
	planned  map[string]Action // by KIND=NAME: what it is for people, if the engine calls it otherwise
	progress func(Progress)    // nil: it is a preview

	changes   []*Change
	byURN     map[string]*Change
	unchanged int
	drift     []*Change // found by the refresh
	done      []string
	failures  []Failure
	begun     map[string]time.Time
	ids       map[string]string // by URN
	looking   map[string]bool   // by URN: it is refreshed

	in         chan events.EngineEvent
	stop, over chan struct{} // see wait
}

func newRecorder(stack string) *recorder {
	r := &recorder{stack: stack, byURN: map[string]*Change{}, begun: map[string]time.Time{}, ids: map[string]string{}, looking: map[string]bool{}, in: make(chan events.EngineEvent), stop: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(r.over)
		for {
			select {
			case e, more := <-r.in:
				if !more {
					return
				}
				r.event(&e.EngineEvent)
			case <-r.stop:
				return
			}
		}
	}()
	return r
}

// wait waits until the last event was recorded. It is called when package auto has come back from running the engine: then all were
// sent. in need not be closed, as an engine that ended before it had a stream closes nothing.
func (r *recorder) wait() {
	close(r.stop)
	<-r.over
}

func (r *recorder) event(e *apitype.EngineEvent) {
	switch {
	case e.ResourcePreEvent != nil:
		r.before(&e.ResourcePreEvent.Metadata)
	case e.ResOutputsEvent != nil:
		r.after(&e.ResOutputsEvent.Metadata)
	case e.ResOpFailedEvent != nil:
		r.failed(&e.ResOpFailedEvent.Metadata)
	case e.DiagnosticEvent != nil && e.DiagnosticEvent.Severity == "error":
		r.failure(e.DiagnosticEvent)
	}
}

var actions = map[apitype.OpType]Action{
	apitype.OpCreate: Create, apitype.OpUpdate: Update, apitype.OpDelete: Delete,
	apitype.OpReplace: Replace, apitype.OpCreateReplacement: Replace, apitype.OpDeleteReplaced: Replace,
}

// before is that a step is about to be made, or would be.
func (r *recorder) before(m *apitype.StepEventMetadata) {
	if !ours(m.Type) {
		return
	}
	r.ids[m.URN] = nameIn(m)
	action, does := actions[m.Op]
	switch m.Op {
	case apitype.OpSame:
		r.unchanged++
	case apitype.OpRefresh:
		r.looking[m.URN] = true
	}
	if !does {
		return
	}
	if r.progress != nil {
		if r.begun[m.URN].IsZero() {
			r.begun[m.URN] = time.Now()
			r.tell("begun", action, m)
		}
		return
	}
	if old := r.byURN[m.URN]; old != nil { // a replacement is several steps
		old.Action = Replace
		return
	}
	c := r.change(m, action)
	r.changes, r.byURN[m.URN] = append(r.changes, c), c
}

// after is that a step was made. Of a refresh it is told as what, if it were a step, would have led to what there is.
func (r *recorder) after(m *apitype.StepEventMetadata) {
	if !ours(m.Type) {
		return
	}
	action, does := actions[m.Op]
	if r.looking[m.URN] {
		delete(r.looking, m.URN)
		if does {
			r.drift = append(r.drift, r.change(m, action))
		}
		return
	}
	// Only now it is known what becomes of members that the definition leaves out.
	if c := r.byURN[m.URN]; c != nil && m.New != nil && m.New.Outputs["spec"] != nil && c.Action != Delete {
		c.After = specOf(m.New)
	}
	if does && r.progress != nil && m.Op != apitype.OpReplace {
		if action != Replace || m.Op == apitype.OpCreateReplacement {
			r.done = append(r.done, nameIn(m))
		}
		r.tell("done", action, m)
	}
}

// tell tells the progress of a step.
func (r *recorder) tell(what string, action Action, m *apitype.StepEventMetadata) {
	id := nameIn(m)
	if planned, ok := r.planned[id]; ok {
		action = planned
	}
	p := Progress{Time: time.Now(), Stack: r.stack, What: what, Action: action, ID: id, Done: len(r.done), Total: r.total}
	if what != "begun" {
		p.Took = time.Since(r.begun[m.URN])
	}
	r.progress(p)
}

func (r *recorder) failed(m *apitype.StepEventMetadata) {
	if r.progress != nil && ours(m.Type) {
		r.tell("failed", actions[m.Op], m)
	}
}

func (r *recorder) failure(d *apitype.DiagnosticEvent) {
	text := strings.TrimSpace(colors.Never.Colorize(d.Message))
	text = strings.TrimPrefix(text, "error: ")
	f := Failure{Reason: text}
	if token, name := tokenOf(d.URN), urnName(d.URN); ours(token) {
		f.ID = cmp.Or(r.ids[d.URN], idOf(token, name))
	}
	for _, said := range []string{"update failed", "preview failed", "expected resource operations for "} {
		if strings.HasPrefix(text, said) {
			return // what follows from other failures
		}
	}
	if strings.Contains(text, planViolation) {
		f.Reason = planViolated
	}
	if !slices.Contains(r.failures, f) {
		r.failures = append(r.failures, f)
	}
}

// planViolation is what the engine says of what it did not plan, and goes on with values; planViolated is said instead.
const (
	planViolation = "violates plan"
	planViolated  = "it, or a value that its definition takes from elsewhere, has changed since the preview, which therefore does not say what would become of it: preview again"
)

// tokenOf is the type in a URN, and urnName the name.
func tokenOf(urn string) string {
	parts := strings.SplitN(urn, "::", 4)
	if len(parts) < 4 {
		return ""
	}
	return parts[2][strings.LastIndex(parts[2], "$")+1:]
}

func urnName(urn string) string {
	parts := strings.SplitN(urn, "::", 4)
	return parts[len(parts)-1]
}

// nameIn is how the thing of a step is called.
func nameIn(m *apitype.StepEventMetadata) string {
	for _, s := range []*apitype.StepEventStateMetadata{m.New, m.Old} {
		if s != nil {
			if name, ok := s.Inputs["name"].(string); ok {
				return idOf(m.Type, name)
			}
		}
	}
	return idOf(m.Type, urnName(m.URN))
}

func (r *recorder) change(m *apitype.StepEventMetadata, action Action) *Change {
	c := &Change{Stack: r.stack, ID: nameIn(m), Action: action, Kind: m.Type}
	c.Name = c.ID[strings.Index(c.ID, "=")+1:]
	if action != Create {
		c.Before = specOf(m.Old)
	}
	if action != Delete {
		c.After = specOf(m.New)
	}
	for path := range m.DetailedDiff {
		member, _, _ := strings.Cut(strings.TrimPrefix(path, "spec."), ".")
		if secretAt(c.Before, member) && secretAt(c.After, member) && !slices.Contains(c.Hidden, member) {
			c.Hidden = append(c.Hidden, member)
		}
	}
	slices.Sort(c.Hidden)
	return c
}

// What the engine writes in place of secrets, and of what is not known yet.
const (
	secretWord  = "[secret]"
	unknownWord = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
)

// specOf is the document of a thing, completed if that is known.
func specOf(s *apitype.StepEventStateMetadata) json.RawMessage {
	if s == nil {
		return nil
	}
	spec := s.Outputs["spec"]
	if spec == nil {
		spec = s.Inputs["spec"]
	}
	text, err := json.Marshal(hide(spec))
	if err != nil {
		return nil
	}
	return text
}

// hide puts one word in place of each secret, of which events have the ciphertext.
func hide(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v[sig.Key] == sig.Secret {
			return secretWord
		}
		for name, of := range v {
			v[name] = hide(of)
		}
	case []any:
		for i, of := range v {
			v[i] = hide(of)
		}
	}
	return v
}

func secretAt(document json.RawMessage, member string) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(document, &m) == nil && bytes.Contains(m[member], []byte(secretWord))
}

// A difference is one member that differs between two documents.
type difference struct {
	path          string
	before, after string // as JSON; "" if it is not there
	gone, new     []string
}

// differences compares two documents, by member; lists of words are compared as sets.
func differences(before, after json.RawMessage) []difference {
	var a, b any
	_ = json.Unmarshal(before, &a)
	_ = json.Unmarshal(after, &b)
	var out []difference
	compareAt("", a, b, &out)
	return out
}

func compareAt(path string, a, b any, out *[]difference) {
	ma, isA := a.(map[string]any)
	mb, isB := b.(map[string]any)
	if isA && isB {
		names := map[string]bool{}
		for n := range ma {
			names[n] = true
		}
		for n := range mb {
			names[n] = true
		}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			compareAt(strings.TrimPrefix(path+"."+n, "."), ma[n], mb[n], out)
		}
		return
	}
	ta, tb := valueText(a), valueText(b)
	if ta == tb {
		return
	}
	d := difference{path: path, before: ta, after: tb}
	la, isA := words(a)
	lb, isB := words(b)
	if isA && isB {
		for _, w := range la {
			if !slices.Contains(lb, w) {
				d.gone = append(d.gone, w)
			}
		}
		for _, w := range lb {
			if !slices.Contains(la, w) {
				d.new = append(d.new, w)
			}
		}
	}
	*out = append(*out, d)
}

func words(v any) (out []string, ok bool) {
	list, ok := v.([]any)
	for _, x := range list {
		s, is := x.(string)
		if !is {
			return nil, false
		}
		out = append(out, s)
	}
	return out, ok && len(list) > 0
}

// valueText is a value as people read it.
func valueText(v any) string {
	switch v {
	case nil:
		return ""
	case secretWord:
		return "(hidden)"
	case unknownWord:
		return "(known when it is done)"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return fmt.Sprint(v)
	}
	text := strings.TrimSpace(b.String())
	return strings.NewReplacer(`"`+secretWord+`"`, "(hidden)", `"`+unknownWord+`"`, "(known when it is done)").Replace(text)
}
