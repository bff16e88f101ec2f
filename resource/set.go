package resource

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/plain"
)

// A Definition says how one thing should be.
type Definition struct {
	Kind     Kind
	Name     string
	Document json.RawMessage // in the form of Kind.Normal
	At       string          // where that is said, such as roles.yml:12
}

// ID is how the definition is called, such as Role=project:nightly:admin.
func (d *Definition) ID() string { return ID(d.Kind, d.Name) }

// A Pattern is a regular expression over what is called KIND=NAME, which has to match all of it:
// Role=project:nightly:.* are all roles of the project nightly.
type Pattern struct {
	kind Kind
	expr *regexp.Regexp
	text string
}

const longestPattern = 1000

// ParsePattern reads a pattern. It begins with the name of a kind as it is, so that a mistake in it
// does not concern things of another kind.
func ParsePattern(text string) (*Pattern, error) {
	name, rest, found := strings.Cut(text, "=")
	kind := KindNamed(name)
	if !found || kind == nil {
		var names []string
		for _, k := range Kinds() {
			names = append(names, k.Name())
		}
		return nil, fmt.Errorf("the pattern %.100q does not begin with a kind, as in Role=project:nightly:.*; %s", text, Suggest(name, names))
	}
	if len(text) > longestPattern {
		return nil, fmt.Errorf("the pattern %.100q… has %d bytes; %d are the most", text, len(text), longestPattern)
	}
	// By itself it has to be one: a)|(b would put the anchors at two halves of it.
	if _, err := regexp.Compile(rest); err != nil {
		return nil, fmt.Errorf("the pattern %.100q is no regular expression: %w", text, err)
	}
	expr, err := regexp.Compile("^(?:" + rest + ")$")
	if err != nil {
		return nil, fmt.Errorf("the pattern %.100q is no regular expression: %w", text, err)
	}
	return &Pattern{kind: kind, expr: expr, text: text}, nil
}

func (p *Pattern) String() string { return p.text }

// Match tells whether it is the pattern of a thing.
func (p *Pattern) Match(k Kind, name string) bool { return p.kind == k && p.expr.MatchString(name) }

// A Set is what a platform should have, by definitions.
type Set struct {
	Definitions []*Definition // each once, by Add

	// Managed says what belongs to the set: of what matches, nothing is to be there that is not
	// defined. Nil, which is not empty, says nothing: then nothing is deleted.
	Managed []*Pattern

	Files int // that it was read from

	byID map[string]*Definition
}

// mostDefinitions bounds a set.
const mostDefinitions = 100_000

// Add adds a definition, in any form. It refuses what is there already.
func (s *Set) Add(kind Kind, name string, document json.RawMessage, at string) error {
	name = kind.canonical(name)
	document, err := kind.Normal(name, document)
	if err != nil {
		return err
	}
	d := &Definition{kind, name, document, at}
	if old := s.byID[d.ID()]; old != nil {
		return fmt.Errorf("%s is defined twice; the first is at %s", d.ID(), cmp.Or(old.At, "another place"))
	}
	if len(s.Definitions) == mostDefinitions {
		return fmt.Errorf("there are more than %d definitions", mostDefinitions)
	}
	if s.byID == nil {
		s.byID = map[string]*Definition{}
	}
	s.byID[d.ID()] = d
	s.Definitions = append(s.Definitions, d)
	return nil
}

// manages tells whether the set says what there is to be of it.
func (s *Set) manages(k Kind, name string) bool {
	return slices.ContainsFunc(s.Managed, func(p *Pattern) bool { return p.Match(k, name) })
}

// Check refuses definitions of what is not managed.
func (s *Set) Check() error {
	if s.Managed == nil {
		return nil
	}
	var wrong []error
	for _, d := range s.Definitions {
		if !s.manages(d.Kind, d.Name) {
			wrong = append(wrong, fmt.Errorf("%s: %s is defined, but no pattern of managed matches it: add one, or leave the definition out", d.At, d.ID()))
		}
	}
	return limited(wrong)
}

// limited is a list of mistakes that somebody can read.
func limited(list []error) error {
	const most = 20
	if len(list) > most {
		list = append(slices.Clone(list[:most]), fmt.Errorf("and %d more mistakes", len(list)-most))
	}
	return errors.Join(list...)
}

// List is what a platform has, as a set. patterns, unless there are none, say of what.
// Secrets are named; their values are for Secret.
func List(ctx context.Context, c *client.Client, patterns []*Pattern) (*Set, error) {
	out := &Set{Managed: patterns}
	var kinds []Kind
	for _, k := range Kinds() {
		if len(patterns) == 0 || slices.ContainsFunc(patterns, func(p *Pattern) bool { return p.kind == k }) {
			kinds = append(kinds, k)
		}
	}
	lists, err := listAll(ctx, c, kinds)
	if err != nil {
		return nil, err
	}
	for _, k := range kinds {
		for _, name := range sortedKeys(lists[k]) {
			if len(patterns) > 0 && !out.manages(k, name) {
				continue
			}
			if err := out.Add(k, name, lists[k][name], "the platform"); err != nil {
				return nil, fmt.Errorf("the platform has what cannot be defined: %w", err)
			}
		}
	}
	return out, nil
}

// WithValues is the secrets of a set with their values and expiries, as a platform has them. One that went
// meanwhile is left out.
func (s *Set) WithValues(ctx context.Context, c *client.Client) (*Set, error) {
	names := []string{}
	for _, d := range s.Definitions {
		if d.Kind == Secrets {
			names = append(names, d.Name)
		}
	}
	docs := make([]json.RawMessage, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i, name := range names {
		group.Go(func() (err error) {
			if docs[i], err = Secrets.Read(ctx, c, name); err != nil {
				err = fmt.Errorf("the secret %s cannot be read: %w", name, err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := &Set{}
	for i, name := range names {
		if docs[i] != nil {
			if err := out.Add(Secrets, name, docs[i], "the platform"); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Without is the set without what is of a kind, and to be read only.
func (s *Set) Without(k Kind) *Set {
	return &Set{Managed: s.Managed, Definitions: slices.DeleteFunc(slices.Clone(s.Definitions), func(d *Definition) bool { return d.Kind == k })}
}

// Only is what is of a kind in the set, without patterns, and to be read only.
func (s *Set) Only(k Kind) *Set {
	return &Set{Definitions: slices.DeleteFunc(slices.Clone(s.Definitions), func(d *Definition) bool { return d.Kind != k })}
}

func listAll(ctx context.Context, c *client.Client, kinds []Kind) (map[Kind]map[string]json.RawMessage, error) {
	lists := make([]map[string]json.RawMessage, len(kinds))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i, k := range kinds {
		group.Go(func() (err error) {
			if lists[i], err = k.List(ctx, c); err != nil {
				err = fmt.Errorf("the %s cannot be listed: %w", Plural(k), err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := map[Kind]map[string]json.RawMessage{}
	for i, k := range kinds {
		out[k] = lists[i]
	}
	return out, nil
}

// A Diff is what has to be done so that a platform is as a set says.
type Diff struct {
	// Changes are in the order in which they can be made: what others need first, and what goes last.
	Changes []Change
	Same    int // definitions that agree with what there is
}

// Count is how many changes are of an action.
func (d *Diff) Count(a Action) (n int) {
	for _, x := range d.Changes {
		if x.Action == a {
			n++
		}
	}
	return n
}

// Diff compares a set with a platform. Secrets have to have their values: see ReadValues.
func (s *Set) Diff(ctx context.Context, c *client.Client) (*Diff, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	of := map[Kind][]*Definition{}
	for _, d := range s.Definitions {
		of[d.Kind] = append(of[d.Kind], d)
	}
	var kinds []Kind
	for _, k := range Kinds() {
		if of[k] != nil || slices.ContainsFunc(s.Managed, func(p *Pattern) bool { return p.kind == k }) {
			kinds = append(kinds, k)
		}
	}
	lists, err := listAll(ctx, c, kinds)
	if err != nil {
		return nil, err
	}
	diff := &Diff{}
	for _, k := range kinds {
		slices.SortFunc(of[k], func(a, b *Definition) int { return cmp.Compare(a.Name, b.Name) })
		changes := make([]Change, len(of[k]))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(atATime)
		for i, d := range of[k] {
			is := lists[k][d.Name]
			group.Go(func() (err error) {
				changes[i], err = d.compare(ctx, c, is)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		for _, x := range changes {
			if x.Action == Keep {
				diff.Same++
			} else {
				diff.Changes = append(diff.Changes, x)
			}
		}
	}
	for _, k := range slices.Backward(kinds) {
		for _, name := range sortedKeys(lists[k]) {
			if s.byID[ID(k, name)] == nil && s.manages(k, name) {
				x := Change{ID: ID(k, name), Kind: k.Noun(), Name: name, Action: Delete, kind: k, is: lists[k][name]}
				if x.Before, err = k.Show(x.is, nil); err != nil {
					return nil, fmt.Errorf("%s: %w", x.ID, err)
				}
				diff.Changes = append(diff.Changes, x)
			}
		}
	}
	return diff, nil
}

// compare says what has to become of a thing, of which List has told is.
func (d *Definition) compare(ctx context.Context, c *client.Client, is json.RawMessage) (x Change, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s cannot be compared: %w", plain.Line(d.ID()), err)
		}
	}()
	x = Change{ID: d.ID(), Kind: d.Kind.Noun(), Name: d.Name, Action: Create, kind: d.Kind, is: is, said: d.Document, at: d.At}
	if is != nil && !d.Kind.whole(string(d.Document)) {
		if x.is, err = d.Kind.Read(ctx, c, d.Name); err != nil {
			return x, err
		}
	}
	if x.want, err = d.Kind.Complete(d.Document, x.is); err != nil {
		return x, err
	}
	switch {
	case x.is == nil:
	case bytes.Equal(x.is, x.want):
		x.Action = Keep
		return x, nil
	default:
		x.Action = Update
		if x.Before, err = d.Kind.Show(x.is, nil); err != nil {
			return x, err
		}
	}
	x.After, err = d.Kind.Show(x.want, x.is)
	return x, err
}

// ErrChanged is the error of a change to what somebody else has changed since it was compared.
var ErrChanged = errors.New("somebody else has changed it since it was compared, so it was left as it is: look at the difference again")

// callLimit is how long a change may take that is under way when it is to end.
const callLimit = 30 * time.Second

// A Failure is a change that could not be made.
type Failure struct {
	Change Change
	Err    error
}

// An Unfinished is the error of Diff.Apply when not all changes were made.
type Unfinished struct {
	Done   int
	Failed []Failure
	Left   []Change // what was not tried
	Cause  error    // why it stopped, if nothing failed: the context ended
}

// Error implements error.
func (e *Unfinished) Error() string {
	var b strings.Builder
	for _, f := range e.Failed {
		if f.Change.at != "" {
			fmt.Fprintf(&b, "%s: ", f.Change.at)
		}
		fmt.Fprintf(&b, "%s cannot be %s: %v\n", plain.Line(f.Change.ID), f.Change.Action.Past(), f.Err)
	}
	if len(e.Failed) == 0 {
		fmt.Fprintf(&b, "%v\n", e.Cause)
	}
	fmt.Fprintf(&b, "%d done, %d failed, %d not tried. What is done is kept: the same again does the rest", e.Done, len(e.Failed), len(e.Left))
	return b.String()
}

// Unwrap is the causes.
func (e *Unfinished) Unwrap() []error {
	var all []error
	for _, f := range e.Failed {
		all = append(all, f.Err)
	}
	if e.Cause != nil {
		all = append(all, e.Cause)
	}
	return all
}

// Past is the word for that it is done, such as created.
func (a Action) Past() string { return strings.TrimSuffix(string(a), "e") + "ed" }

// Apply makes the changes, several at a time of those that do not need each other, and tells done each that is
// made. After a failure, and when ctx ends, it begins no other one, but ends those that are under way. Each
// thing is looked at again first: ErrChanged is the error if it is not what was compared. The error is
// an *Unfinished.
func (d *Diff) Apply(ctx context.Context, c *client.Client, done func(Change)) error {
	e := &Unfinished{}
	changes := d.Changes
	for len(changes) > 0 {
		n := slices.IndexFunc(changes, func(x Change) bool {
			return x.kind != changes[0].kind || (x.Action == Delete) != (changes[0].Action == Delete)
		})
		if n < 0 {
			n = len(changes)
		}
		stage := changes[:n]
		changes = changes[n:]
		for {
			before := e.Done
			again := e.run(ctx, c, stage, done)
			if len(again) == 0 {
				break
			}
			if e.Done == before || len(e.Failed) > 0 || len(e.Left) > 0 {
				e.Failed = append(e.Failed, again...)
				break
			}
			stage = nil
			for _, f := range again {
				stage = append(stage, f.Change)
			}
		}
		if len(e.Failed) > 0 || len(e.Left) > 0 || ctx.Err() != nil {
			e.Left = append(e.Left, changes...)
			break
		}
	}
	if len(e.Failed) == 0 && len(e.Left) == 0 {
		return nil
	}
	e.Cause = context.Cause(ctx)
	return e
}

// run makes changes that do not need each other. What it returns may work when others of them are made:
// a role that has another is refused while that has the first.
func (e *Unfinished) run(ctx context.Context, c *client.Client, stage []Change, done func(Change)) (again []Failure) {
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(atATime)
	for _, x := range stage {
		group.Go(func() error {
			mu.Lock()
			stop := ctx.Err() != nil || len(e.Failed) > 0
			if stop {
				e.Left = append(e.Left, x)
			}
			mu.Unlock()
			if stop {
				return nil
			}
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
			defer cancel()
			err := x.make(call, c)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				e.Done++
				if done != nil {
					done(x)
				}
			case x.kind == Roles && x.Action != Delete && isInputError(err):
				again = append(again, Failure{x, err})
			default:
				e.Failed = append(e.Failed, Failure{x, err})
			}
			return nil
		})
	}
	group.Wait() // none fails
	return again
}

func isInputError(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.StatusCode == 400
}

// make makes a change, if the thing is as it was compared.
func (x *Change) make(ctx context.Context, c *client.Client) error {
	is, err := x.kind.look(ctx, c, x.Name, x.is, x.want)
	if err != nil {
		return fmt.Errorf("looking at it again: %w", err)
	}
	switch {
	case x.Action == Delete && is == nil, x.Action != Delete && bytes.Equal(is, x.want):
		return nil // somebody else has done it
	case !bytes.Equal(is, x.is):
		return ErrChanged
	case x.Action == Create:
		return x.kind.Create(ctx, c, x.Name, x.said)
	case x.Action == Update:
		return x.kind.Update(ctx, c, x.Name, x.said)
	}
	return x.kind.Delete(ctx, c, x.Name)
}
