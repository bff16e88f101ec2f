package stacks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/optup"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

// A Report is what came of an Up or a Destroy.
type Report struct {
	Preview string        `json:"preview,omitempty"`
	Result  string        `json:"result"` // done, failed, interrupted
	Stacks  []StackReport `json:"stacks"`
	Pruned  []string      `json:"pruned,omitempty"`
	Kept    []string      `json:"kept,omitempty"` // out of the states, and still on the platform
	Total   int           `json:"total"`
	Began   time.Time     `json:"began"`
	Ended   time.Time     `json:"ended"`
}

// A StackReport is what came of a stack.
type StackReport struct {
	Name   string    `json:"stack"`
	Result string    `json:"result"` // done, failed, interrupted, unchanged; not begun
	Done   []string  `json:"done,omitempty"`
	Failed []Failure `json:"failed,omitempty"`
}

// Done counts what was done.
func (r *Report) Done() (n int) {
	for _, s := range r.Stacks {
		n += len(s.Done)
	}
	return n + len(r.Pruned)
}

// An UnfinishedError is that an Up or a Destroy did not come to its end. What is done is in the states.
type UnfinishedError struct {
	Report *Report
	Cause  error
}

// Error implements error.
func (e *UnfinishedError) Error() string { return e.Cause.Error() }

// Unwrap is the cause.
func (e *UnfinishedError) Unwrap() error { return e.Cause }

// A StaleError is that a preview is not of what there is.
type StaleError struct {
	Preview string
	Reasons []string
}

// Error implements error.
func (e *StaleError) Error() string {
	return fmt.Sprintf("preview %s is stale, and nothing was done:\n  %s\nPreview again", e.Preview, strings.Join(e.Reasons, "\n  "))
}

// A RefusedError is that a preview cannot be done.
type RefusedError struct {
	Preview string
	Refused []Failure
}

// Error implements error.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "preview %s is refused:", e.Preview)
	for _, f := range e.Refused {
		fmt.Fprintf(&b, "\n  %s %s", plain.Line(f.ID), f.Reason)
	}
	return b.String()
}

// Up does what was previewed. The digest is that of the preview that was looked at.
func (d *Driver) Up(ctx context.Context, name, digest string) (*Report, error) {
	s, err := d.Saved(name)
	if err != nil {
		return nil, err
	}
	if s.Digest != digest {
		return nil, fmt.Errorf("the digest of preview %s is %s, and not %s: what was looked at was another one. Nothing was done", name, s.Digest, digest)
	}
	if len(s.Refused) > 0 {
		return nil, &RefusedError{name, s.Refused}
	}
	if d.inputs == nil { // else it was previewed just now
		d.names = nil
		for _, stack := range s.Stacks {
			d.names = append(d.names, stack.Name)
		}
	}
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	states, err := d.fresh(ctx, s)
	if err != nil {
		return nil, err
	}
	r := &Report{Preview: name, Result: "done", Total: s.Count(), Began: time.Now(), Stacks: []StackReport{}}
	for _, stack := range s.Stacks {
		one := StackReport{Name: stack.Name, Result: "not begun"}
		if len(stack.Changes) == 0 {
			one.Result = "unchanged"
		}
		r.Stacks = append(r.Stacks, one)
	}
	for i, stack := range s.Stacks {
		if len(stack.Changes) == 0 {
			continue
		}
		if err = d.upStack(ctx, s, &stack, states[i], &r.Stacks[i]); err != nil {
			break
		}
	}
	if err == nil && s.Prune && len(s.Strays) > 0 {
		r.Pruned, err = d.prune(ctx, s)
	}
	return d.ended(ctx, r, err)
}

// ended completes a report.
func (d *Driver) ended(ctx context.Context, r *Report, err error) (*Report, error) {
	r.Ended, r.Kept = time.Now(), d.guard.left()
	if err == nil {
		return r, nil
	}
	r.Result = "failed"
	if ctx.Err() != nil {
		r.Result = "interrupted"
	}
	return r, &UnfinishedError{r, err}
}

// fresh refuses a preview of what is not so any more, and reads the states.
func (d *Driver) fresh(ctx context.Context, s *Saved) ([]*state, error) {
	e := &StaleError{Preview: s.Name}
	if s.Environment != d.Environment.Name {
		e.Reasons = append(e.Reasons, fmt.Sprintf("it is of the environment %s, and this one is called %s", s.Environment, d.Environment.Name))
	}
	if s.Program != d.options.Version {
		e.Reasons = append(e.Reasons, fmt.Sprintf("it was made by taskfleet %s, and this is %s", s.Program, d.options.Version))
	}
	if v := d.engine.command.version.String(); s.Engine != v {
		e.Reasons = append(e.Reasons, fmt.Sprintf("it was made with Pulumi %s, and this is %s", s.Engine, v))
	}
	files, err := d.files()
	if err != nil {
		return nil, err
	}
	everywhere := maps.Clone(files)
	maps.Copy(everywhere, s.Files)
	for _, f := range slices.Sorted(maps.Keys(everywhere)) {
		switch {
		case s.Files[f] == "":
			e.Reasons = append(e.Reasons, f+" is new")
		case files[f] == "":
			e.Reasons = append(e.Reasons, f+" is gone")
		case files[f] != s.Files[f]:
			e.Reasons = append(e.Reasons, f+" has changed")
		}
	}
	var states []*state
	for _, stack := range s.Stacks {
		at, err := d.engine.state(ctx, stack.Name)
		if err != nil {
			return nil, err
		}
		if at.digest() != stack.State {
			e.Reasons = append(e.Reasons, fmt.Sprintf("the state of stack %s has changed: somebody was there, or this preview was done already; taskfleet stacks history --dir %s --stack %s tells", stack.Name, ShellWord(d.Environment.Directory), stack.Name))
		}
		states = append(states, at)
	}
	if len(e.Reasons) > 0 {
		return nil, e
	}
	return states, nil
}

// upStack has the engine do what it planned.
func (d *Driver) upStack(ctx context.Context, s *Saved, p *StackPreview, at *state, report *StackReport) error {
	if err := d.engine.clearPending(ctx, p.Name, at); err != nil {
		return err
	}
	stack, err := d.engine.open(ctx, p.Name, at, d.program(p.Name))
	if err != nil {
		return err
	}
	var taken []string
	for _, c := range p.Changes {
		if c.Taken {
			taken = append(taken, c.ID)
		}
	}
	d.guard.take(taken)
	d.working.Store(p.Name)
	r := newRecorder(p.Name)
	r.total, r.planned, r.progress = len(p.Changes), map[string]Action{}, d.options.Progress
	for _, c := range p.Changes {
		r.planned[c.ID] = c.Action
	}
	_, err = stack.Up(ctx, optup.Refresh(), optup.Plan(s.plan(p.Name)), optup.EventStreams(r.in), optup.SuppressProgress(), optup.Color("never"),
		optup.Message("preview "+s.Name))
	r.wait()
	return d.report(ctx, report, r, err)
}

// report completes the report of a stack.
func (d *Driver) report(ctx context.Context, report *StackReport, r *recorder, err error) error {
	report.Done, report.Failed, report.Result = r.done, r.failures, "done"
	if err == nil {
		return nil
	}
	report.Result = "failed"
	if ctx.Err() != nil {
		report.Result = "interrupted"
	}
	return d.failed(ctx, report.Name, r, err)
}

// prune deletes the strays that were previewed.
func (d *Driver) prune(ctx context.Context, s *Saved) ([]string, error) {
	meant := map[string]string{}
	for _, c := range s.Strays {
		meant[c.ID] = string(c.Before)
	}
	var done []string
	for _, stack := range slices.Backward(s.Stacks) {
		set := d.inputs.sets[stack.Name]
		if set == nil {
			continue
		}
		diff, err := set.Diff(ctx, d.client)
		if err != nil {
			return done, err
		}
		diff.Changes = slices.DeleteFunc(diff.Changes, func(c resource.Change) bool {
			before, ok := meant[c.ID]
			return !ok || c.Action != resource.Delete || !sameJSON(before, string(c.Before))
		})
		began := time.Now()
		err = diff.Apply(ctx, d.client, func(c resource.Change) {
			done = append(done, c.ID)
			d.options.Progress(Progress{Time: time.Now(), Stack: stack.Name, What: "done", Action: Delete, ID: c.ID, Done: len(done), Total: len(s.Strays), Took: time.Since(began)})
		})
		if err != nil {
			return done, fmt.Errorf("strays of %s: %w", stack.Name, err)
		}
	}
	if n := len(s.Strays) - len(done); n > 0 {
		return done, errors.New("some strays have changed or gone since the preview, and were left as they are: preview again")
	}
	return done, nil
}

func sameJSON(a, b string) bool { return len(differences([]byte(a), []byte(b))) == 0 }
