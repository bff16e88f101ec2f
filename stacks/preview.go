package stacks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/optpreview"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

// A Saved is a preview on disk, in .stacks/previews/NAME of its environment: the engine's plans, and meta.json, which this is. Its
// digest is of all the rest and of the plans.
type Saved struct {
	Name        string            `json:"preview"`
	Environment string            `json:"environment"`
	Digest      string            `json:"digest"`
	Created     time.Time         `json:"created"`
	Program     string            `json:"program"` // version of taskfleet
	Engine      string            `json:"engine"`  // version of Pulumi
	Adopt       bool              `json:"adopt,omitempty"`
	Prune       bool              `json:"prune,omitempty"`
	Stacks      []StackPreview    `json:"stacks"`
	Strays      []*Change         `json:"strays"`            // things on the platform that a pattern manages, and that nobody has defined
	Refused     []Failure         `json:"refused,omitempty"` // why it cannot be done
	Notices     []string          `json:"notices,omitempty"`
	Files       map[string]string `json:"files,omitempty"` // digests, by path relative to the environment

	directory string
}

// A StackPreview is what would become of a stack.
type StackPreview struct {
	Name      string    `json:"stack"`
	State     string    `json:"state"`          // digest
	Plan      string    `json:"plan,omitempty"` // digest of the engine's plan
	Changes   []*Change `json:"changes"`
	Drift     []*Change `json:"drift,omitempty"` // what others have changed since the last up
	Unchanged int       `json:"unchanged"`
}

// PreviewOptions say what is previewed.
type PreviewOptions struct {
	Adopt bool // what is on the platform and differs is changed, instead of refused
	Prune bool // strays are deleted
}

// atATime is how many engines work at the same time where they only look.
const atATime = 2

// Preview works out what would be done, and saves that. What is refused is saved as well, and says so.
func (d *Driver) Preview(ctx context.Context, o PreviewOptions) (*Saved, error) {
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	names := d.names
	s := &Saved{Environment: d.Environment.Name, Created: time.Now().UTC().Truncate(time.Second), Program: d.options.Version, Engine: d.engine.command.version.String(),
		Adopt: o.Adopt, Prune: o.Prune, Stacks: make([]StackPreview, len(names)), Strays: []*Change{}}
	var err error
	if s.Files, err = d.files(); err != nil {
		return nil, err
	}
	base := filepath.Join(d.Environment.workDirectory(), "previews")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	if s.directory, err = os.MkdirTemp(base, makingPrefix); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.directory) // if it did not get its name

	states := make([]*state, len(names))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(atATime)
	for i, name := range names {
		work.Go(func() (err error) {
			states[i], err = d.engine.ensure(workCtx, name)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	look, err := d.look(ctx, names, states)
	if err != nil {
		return nil, err
	}
	left, err := d.left(ctx)
	if err != nil {
		return nil, err
	}
	s.Strays, s.Notices = append(s.Strays, look.strays...), append(look.notices, left...)
	switch {
	case !look.blind:
	case o.Prune:
		return nil, errors.New("--prune: the platform does not answer, so it is not known what there is to delete")
	case slices.ContainsFunc(states, (*state).isOnPlatform):
		return nil, errors.New(look.notices[0] + ". A stack of the servers themselves can do without: --stack platform")
	}
	// Else the engine would end at the first of them, and nothing else would be shown.
	d.guard.take(slices.Collect(maps.Keys(look.other)))
	work, workCtx = errgroup.WithContext(ctx)
	work.SetLimit(atATime)
	for i, name := range names {
		work.Go(func() (err error) {
			s.Stacks[i], err = d.previewStack(workCtx, name, states[i], filepath.Join(s.directory, name+".plan"))
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	for _, stack := range s.Stacks {
		for _, c := range stack.Changes {
			d.judge(s, look, c)
		}
	}
	return s, s.save(base)
}

// previewStack has the engine say what it would do.
func (d *Driver) previewStack(ctx context.Context, name string, at *state, plan string) (StackPreview, error) {
	out := StackPreview{Name: name, State: at.digest(), Changes: []*Change{}}
	stack, err := d.engine.open(ctx, name, at, d.program(name))
	if err != nil {
		return out, err
	}
	r := newRecorder(name)
	_, err = stack.Preview(ctx, optpreview.Refresh(), optpreview.Plan(plan), optpreview.EventStreams(r.in), optpreview.SuppressProgress(), optpreview.Color("never"))
	r.wait()
	if err != nil {
		return out, d.failed(ctx, name, r, err)
	}
	text, err := os.ReadFile(plan)
	if err != nil {
		return out, err
	}
	out.Plan, out.Changes, out.Drift, out.Unchanged = digestOf(text), append(out.Changes, r.changes...), r.drift, r.unchanged
	return out, nil
}

func (d *Driver) program(name string) pulumi.RunFunc {
	program := stackNamed(name).program
	return func(ctx *pulumi.Context) error { return program(ctx, d.inputs) }
}

// A StackError is that an engine has failed.
type StackError struct {
	Stack    string
	Failures []Failure
}

// Error implements error.
func (e *StackError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stack %s:", e.Stack)
	for _, f := range e.Failures {
		b.WriteString("\n  ")
		if f.ID != "" {
			b.WriteString(plain.Line(f.ID) + ": ")
		}
		b.WriteString(lines(f.Reason, "\n    "))
	}
	return b.String()
}

// lines is a text of several lines with another separator, and nothing in it that a terminal obeys.
func lines(text, separator string) string {
	all := strings.Split(text, "\n")
	for i := range all {
		all[i] = plain.Line(all[i])
	}
	return strings.Join(all, separator)
}

// failed is the error of an engine that has failed, in its own words if it had any.
func (d *Driver) failed(ctx context.Context, name string, r *recorder, err error) error {
	if ctx.Err() == nil && len(r.failures) > 0 {
		return &StackError{name, r.failures}
	}
	return d.engine.explain(ctx, name, err.Error(), err)
}

// A view is what a look at the platform has shown.
type view struct {
	blind   bool            // it does not answer
	same    map[string]bool // by KIND=NAME: defined, not in a state, and there as defined
	other   map[string]resource.Change
	strays  []*Change
	notices []string
}

// look compares the definitions with the platform, as far as states do not know it.
func (d *Driver) look(ctx context.Context, names []string, states []*state) (*view, error) {
	v := &view{same: map[string]bool{}, other: map[string]resource.Change{}}
	known := map[string]bool{}
	for _, s := range states {
		for _, r := range s.Deployment.Resources {
			if ours(r.Type) {
				known[idOf(r.Type, r.ID)] = true
			}
		}
	}
	for _, name := range names {
		set := d.inputs.sets[name]
		if set == nil {
			continue
		}
		diff, err := set.Diff(ctx, d.client)
		if unreachable(err) {
			v.blind = true
			v.notices = append(v.notices, fmt.Sprintf("%s does not answer, so it is not known what is there already: %v", d.inputs.rootURL, err))
			return v, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s cannot be compared with the definitions of %s: %w", d.inputs.rootURL, name, err)
		}
		for _, x := range set.Definitions {
			if !known[x.ID()] {
				v.same[x.ID()] = true
			}
		}
		for _, c := range diff.Changes {
			delete(v.same, c.ID)
			switch {
			case known[c.ID]:
			case c.Action == resource.Update:
				v.other[c.ID] = c
			case c.Action == resource.Delete:
				kind := resource.KindNamed(c.ID[:strings.Index(c.ID, "=")])
				v.strays = append(v.strays, &Change{Stack: name, ID: c.ID, Action: Delete, Before: c.Before, Kind: indexPrefix + kind.Name(), Name: c.Name})
			}
		}
	}
	return v, nil
}

// unreachable tells whether no server answers: nobody does, or a balancer, which says so in words that are not the API's.
func unreachable(err error) bool {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.Code == "" && e.StatusCode >= 502 && e.StatusCode <= 504
}

// judge says of a change what the engine does not know.
func (d *Driver) judge(s *Saved, v *view, c *Change) {
	if c.Action == Delete && c.stays() {
		c.Action = Keep
	}
	kind := c.resourceKind()
	if kind == nil {
		return
	}
	switch c.Action {
	case Create:
		other, differs := v.other[c.ID]
		switch {
		case v.same[c.ID]:
			c.Action = Adopt
		case differs && s.Adopt:
			c.Action, c.Taken, c.Before, c.After = Update, true, other.Before, other.After
		case differs:
			c.Before, c.After = other.Before, other.After
			s.Refused = append(s.Refused, Failure{c.ID, "is on the platform already, and is not as it is defined. To have it changed: preview with --adopt. To keep it as it is: write that into the definition"})
		}
	case Delete:
		if !d.guard.manages(kind, c.Name) {
			c.Action = Keep
		}
	}
}

// files are the digests of what a preview is made of.
func (d *Driver) files() (map[string]string, error) {
	e := d.Environment
	paths := []string{e.path(EnvironmentFile)}
	if e.Manifest != "" {
		paths = append(paths, e.path(e.Manifest))
	}
	for _, file := range e.configurations() {
		paths = append(paths, e.path(file))
	}
	for _, of := range []*Definitions{e.Access, e.Pools} {
		if of != nil {
			for _, f := range of.Files {
				paths = append(paths, e.path(f))
			}
		}
	}
	if e.Schedules != nil {
		for _, f := range e.Schedules.Files {
			paths = append(paths, e.path(f))
		}
	}
	out := map[string]string{}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			p += string(filepath.Separator) // else a link to a directory would not be walked
		}
		err := filepath.WalkDir(p, func(file string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if file != p && strings.HasPrefix(entry.Name(), ".") { // as package resource leaves them out
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if entry.IsDir() || file != p && !strings.HasSuffix(file, ".yml") && !strings.HasSuffix(file, ".yaml") {
				return nil
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(e.Directory, file)
			out[cmp.Or(name, file)] = digestOf(text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if e.Infra != "" {
		m := *d.inputs.manifest
		m.Written = time.Time{} // which is now, as nobody has written it
		text, err := json.Marshal(&m)
		if err != nil {
			return nil, err
		}
		out["manifest of "+e.Infra] = digestOf(text)
	}
	return out, nil
}

// seal is the digest of a preview.
func (s *Saved) seal() (string, error) {
	c := *s
	c.Digest = ""
	text, err := json.Marshal(c)
	return digestOf(text), err
}

// save gives a preview its name, which others may have taken in the same second.
func (s *Saved) save(base string) error {
	first := s.Created.Format("20060102-150405")
	for n := 1; ; n++ {
		s.Name = first
		if n > 1 {
			s.Name = fmt.Sprintf("%s-%d", first, n)
		}
		err := s.saveAs(filepath.Join(base, s.Name))
		if err == nil {
			return forget(base)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

func (s *Saved) saveAs(to string) (err error) {
	if _, err := os.Stat(to); err == nil { // where to rename to a directory is another error
		return fs.ErrExist
	}
	if s.Digest, err = s.seal(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.directory, "meta.json"), append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(s.directory, to); err != nil {
		return err
	}
	s.directory = to
	return nil
}

const (
	mostPreviews = 20         // are kept
	makingPrefix = ".making-" // of a preview that is not complete
)

// forget removes the oldest previews.
func forget(base string) error {
	entries, err := os.ReadDir(base) // in order of their names, which are times
	if err != nil {
		return err
	}
	for _, e := range entries { // of processes that were killed
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), makingPrefix) && time.Since(info.ModTime()) > 24*time.Hour {
			os.RemoveAll(filepath.Join(base, e.Name()))
		}
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !previewName.MatchString(e.Name()) })
	for _, e := range entries[:max(0, len(entries)-mostPreviews)] {
		if err := os.RemoveAll(filepath.Join(base, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

var previewName = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}(-[0-9]+)?$`)

// Saved reads a preview, and checks that it is what its digest says.
func (d *Driver) Saved(name string) (*Saved, error) {
	if !previewName.MatchString(name) {
		return nil, fmt.Errorf("%q is no name of a preview: it is like 20270131-101500", name)
	}
	directory := filepath.Join(d.Environment.workDirectory(), "previews", name)
	text, err := os.ReadFile(filepath.Join(directory, "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no preview %s in %s", name, filepath.Dir(directory))
	} else if err != nil {
		return nil, err
	}
	s := &Saved{directory: directory}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("preview %s cannot be read: %w", name, err)
	}
	digest, err := s.seal()
	if err != nil {
		return nil, err
	}
	altered := digest != s.Digest || s.Name != name
	for _, stack := range s.Stacks {
		plan, err := os.ReadFile(s.plan(stack.Name))
		altered = altered || err != nil || digestOf(plan) != stack.Plan
	}
	if altered {
		return nil, fmt.Errorf("preview %s was altered since it was made: preview again", name)
	}
	return s, nil
}

func (s *Saved) plan(stack string) string { return filepath.Join(s.directory, stack+".plan") }

// Empty tells whether there is nothing to do.
func (s *Saved) Empty() bool { return s.Count() == 0 }

// Count is how many changes there are; those to strays count if they are deleted.
func (s *Saved) Count() (n int) {
	for _, stack := range s.Stacks {
		n += len(stack.Changes)
	}
	if s.Prune {
		n += len(s.Strays)
	}
	return n
}

// Deletes are the changes that take something away, strays too if they are deleted.
func (s *Saved) Deletes() (out []*Change) {
	for _, stack := range s.Stacks {
		for _, c := range stack.Changes {
			if c.Action == Delete || c.Action == Replace {
				out = append(out, c)
			}
		}
	}
	if s.Prune {
		out = append(out, s.Strays...)
	}
	return out
}

// OnlyAdopts tells whether all that it does is to take what is there into the states.
func (s *Saved) OnlyAdopts() bool {
	for _, stack := range s.Stacks {
		for _, c := range stack.Changes {
			if c.Action != Adopt {
				return false
			}
		}
	}
	return len(s.Refused) == 0 && !(s.Prune && len(s.Strays) > 0)
}
