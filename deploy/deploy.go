// Package deploy brings an environment to what its files say, in order: what it stands on (package infra), the manifest
// that hands that over, the platform (generated secrets, configuration, a release with the migration of its database), the
// other stacks, and a smoke test with a real task. When the release or the smoke test fails, the release before is put back.
//
// # Files
//
//	deploy.go    what the steps need of others, and their order
//	steps.go     what each does; the rollback; a look without doing
//	outcome.go   what a deploy has come to, and how it is told
//	journal.go   what was done, on disk
//
// # Steps
//
// A step is done whole or again: to plan, to ask and to apply what was agreed to is one step, since a plan that an
// interrupted apply has left behind is not what was looked at. Each may be repeated after any interruption, because what
// it is made of may: infra and Pulumi compare with what there is, and a smoke test begins with another task.
//
// Each step has a line in a journal before it begins and one after its end, in .deploy of the environment, on disk before
// anything else happens. So a deploy goes on after Ctrl-C, a crash or kill -9 with the step that was under way. The image
// that was at work is written down before it is replaced: afterwards nobody could tell. The one that replaces it is bound,
// too: later steps and a resumed deploy have the image that was rolled out and can be taken back, whatever files say by then.
//
// # What is rolled back
//
// The image of the release, and nothing else: what infra has changed stays, as do the other stacks and the database. A release that
// has migrated the database may leave one that the release before does not start on; outcome.go says so.
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// A Step is a part of a deploy that is done whole, or again.
type Step string

// The steps, in order. A rollback takes the place of what is left.
const (
	StepInfra    Step = "infra"
	StepManifest Step = "manifest"
	StepPlatform Step = "platform"
	StepStacks   Step = "stacks" // the others
	StepSmoke    Step = "smoke"
	StepRollback Step = "rollback"
)

// platformStack is the stack that has the release.
const platformStack = "platform"

// A Plan is what would be done to what the platform stands on.
type Plan struct {
	Name, Digest string
	Summary      string // in some words, such as: 3 to create, about $247.92 a month
	Text         string // all of it, for people
	Detail       any    // all of it, for programs
	Empty        bool
	Forbidden    error // by policy; nil if it is not
	Data         error // says that it destroys data, which is not done here; nil if it does not
}

// Infra is what the platform stands on.
type Infra interface {
	Plan(ctx context.Context) (*Plan, error)

	// Apply does what was planned, and nothing if anything has changed since.
	Apply(ctx context.Context, p *Plan) error

	// Manifest hands over what there is to the stacks, and says how.
	Manifest(ctx context.Context) (string, error)
}

// A Preview is what would be done to stacks.
type Preview struct {
	Stacks  []string
	Image   string // that the platform would run; "" if it has none, or is not among the stacks
	Running string // that it runs, as was found; "" if it runs none that stacks have rolled out
	Summary string // in some words, such as: 3 to create, 1 to change
	Text    string // all of it, for people
	Detail  any    // all of it, for programs
	Empty   bool
	Refused error // why it cannot be done; nil if it can

	Files map[string]string // digests of the files that it was made of, by name
	Saved any               // what Up needs to do this and nothing else
}

// Stacks are what is above.
type Stacks interface {
	// Names are the stacks of the environment, in order of dependency.
	Names() []string

	// Preview looks at what would be done to some stacks. image is that of the release; "" for what the files say.
	Preview(ctx context.Context, stacks []string, image string) (*Preview, error)

	// Up does what was previewed.
	Up(ctx context.Context, p *Preview) error
}

// Smoke tests a platform.
type Smoke interface {
	// Test has a real task run, and returns which it was when it has completed, or why it has not, with its log. progress is
	// told what happens. An *UntestedError says nothing against the release.
	Test(ctx context.Context, progress func(string)) (taskID string, err error)
}

// An UntestedError is why a release could not be tested, where that is not its fault: missing credentials, say.
type UntestedError struct{ Err error }

// Error implements error.
func (e *UntestedError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *UntestedError) Unwrap() error { return e.Err }

// What an event is.
const (
	EventBegin   = "begin"
	EventDone    = "done"
	EventSkipped = "skipped" // it was done before
	EventFailed  = "failed"
	EventPlan    = "plan" // or a preview
	EventNote    = "note"
)

// An Event is something that people should know while it happens.
type Event struct {
	Time   time.Time `json:"time"`
	Step   Step      `json:"step"`
	What   string    `json:"what"`
	Text   string    `json:"text,omitempty"`
	Detail any       `json:"detail,omitempty"` // of what is shown, for programs
}

// A Deploy is an environment, and all that is needed to deploy it.
type Deploy struct {
	Environment string // its directory, which the journals are in
	Name        string // for people
	Infra       Infra  // nil to leave it as it is
	Stacks      Stacks
	Smoke       Smoke  // nil for no test
	Image       string // of the release, instead of what the files say
	Files       string // image that the files say; "" for none
	Resume      string // command line that goes on with this deploy

	Tell func(Event)

	// Agree asks whether to go on. Its error says why not.
	Agree func(ctx context.Context, question string) error
}

// A Mode says what becomes of a deploy that has not come to its end.
type Mode int

// Modes.
const (
	New    Mode = iota // there must be none
	Resume             // go on with it
	Anew               // give it up, and begin another one
)

// A step is one of a certain deploy.
type step struct {
	name Step
	do   func(context.Context, *journal) (how string, err error)
}

// steps are those of the deploy, in order.
func (d *Deploy) steps() (list []step) {
	platform, rest := d.split()
	if d.Infra != nil {
		list = append(list, step{StepInfra, d.infra}, step{StepManifest, func(ctx context.Context, _ *journal) (string, error) { return d.Infra.Manifest(ctx) }})
	}
	if len(platform) > 0 {
		list = append(list, step{StepPlatform, d.platform})
	}
	if len(rest) > 0 {
		list = append(list, step{StepStacks, func(ctx context.Context, j *journal) (string, error) {
			return d.up(ctx, j, StepStacks, rest, cmp.Or(j.wanted, d.Image)) // some roll the release out, with their part of the configuration
		}})
	}
	if d.Smoke != nil {
		list = append(list, step{StepSmoke, d.smoke})
	}
	return list
}

// split is the stacks, as the one with the release and the others.
func (d *Deploy) split() (platform, rest []string) {
	for _, s := range d.Stacks.Names() {
		if s == platformStack {
			platform = append(platform, s)
		} else {
			rest = append(rest, s)
		}
	}
	return platform, rest
}

// Run deploys. The error is an *Outcome if a journal was opened, which is as soon as anything could have been done.
func (d *Deploy) Run(ctx context.Context, m Mode) error {
	unlock, err := lock(d.Environment, d.Name)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := d.open(m)
	if err != nil {
		return err
	}
	defer j.file.Close()
	if j.rolling {
		return d.rollBack(ctx, j, true)
	}
	for _, s := range d.steps() {
		if how, done := j.done[s.name]; done {
			d.tell(s.name, EventSkipped, how, nil)
			continue
		}
		if err := j.write(record{What: "begin", Step: s.name}); err != nil {
			return err
		}
		d.tell(s.name, EventBegin, "", nil)
		how, err := s.do(ctx, j)
		if err != nil {
			return d.failed(ctx, j, s.name, err)
		}
		if err := j.write(record{What: "done", Step: s.name, Text: how}); err != nil {
			return err
		}
		d.tell(s.name, EventDone, how, nil)
	}
	return j.write(record{What: "end", Result: Done})
}

// open opens the journal for a run.
func (d *Deploy) open(m Mode) (*journal, error) {
	last, err := lastJournal(d.Environment)
	if err != nil {
		return nil, err
	}
	switch {
	case m == Resume && last == nil:
		return nil, fmt.Errorf("%s was never deployed from here, so there is nothing to resume. Nothing was done", d.Name)
	case m == Resume && !last.result.resumable():
		return nil, fmt.Errorf("the last deploy of %s, %s, has come to its end: it is %s. Begin a new one without --resume. Nothing was done", d.Name, last.name, last.result)
	case m == Resume && d.Image != "" && d.Image != last.image:
		return nil, fmt.Errorf("deploy %s was begun for %s, and goes on with that: leave --image out, or begin another one with --anew. Nothing was done", last.name, orFiles(last.image))
	case m == Resume && last.released() && !last.rolling && last.image == "" && d.Files != last.wanted:
		return nil, fmt.Errorf("deploy %s has rolled out %s, and the files say %s now: put that back to go on, or begin another deploy with --anew. Nothing was done", last.name, orNone(last.wanted), orNone(d.Files))
	case m == Resume:
		d.Image = last.image
		return last, last.resume(d.Environment)
	case m == New && last != nil && last.unfinished():
		return nil, fmt.Errorf("the last deploy of %s, %s, has not come to its end: go on with it with --resume, or give it up and begin another one with --anew. Nothing was done", d.Name, last.name)
	}
	first := record{What: "open", Image: d.Image}
	if last != nil && (last.unfinished() || last.result == Broken) {
		first.Before, first.Wanted = last.before, last.wanted // what is at work now may be neither of the two
	}
	return openJournal(d.Environment, first)
}

// released tells whether the step is done that replaces the release.
func (j *journal) released() bool {
	_, done := j.done[StepPlatform]
	return done && j.replacing
}

// unfinished tells whether a deploy may have changed something, and has not come to its end. One that somebody did not agree
// to, or that policy has forbidden, has: what it has done before is whole.
func (j *journal) unfinished() bool {
	ended := j.result == Declined || j.result == Forbidden
	return j.result.resumable() && (j.replacing || !ended && len(j.done)+len(j.begun) > 0)
}

func orFiles(image string) string {
	if image == "" {
		return "the image that the files say"
	}
	return image
}

func orNone(image string) string { return cmp.Or(image, "no image") }

func (d *Deploy) tell(s Step, what, text string, detail any) {
	d.Tell(Event{time.Now().UTC(), s, what, text, detail})
}

// failed ends a run whose step has failed.
func (d *Deploy) failed(ctx context.Context, j *journal, s Step, cause error) error {
	var declined *declinedError
	var forbidden *forbiddenError
	var replaced *replacedError
	var untested *UntestedError
	switch {
	case ctx.Err() != nil:
		return d.outcome(j, Interrupted, s, nil)
	case errors.As(cause, &declined):
		return d.outcome(j, Declined, s, cause)
	}
	if err := j.write(record{What: "failed", Step: s, Text: cause.Error()}); err != nil {
		return errors.Join(cause, err)
	}
	d.tell(s, EventFailed, cause.Error(), nil)
	switch {
	case errors.As(cause, &forbidden):
		return d.outcome(j, Forbidden, s, cause)
	case j.canRollBack() && (s == StepSmoke && !errors.As(cause, &untested) || s == StepPlatform && errors.As(cause, &replaced)):
		return d.rollBack(ctx, j, false)
	}
	return d.outcome(j, Failed, s, cause)
}
