package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A declinedError is somebody's no.
type declinedError struct{ error }

// A forbiddenError is that of policy.
type forbiddenError struct{ error }

// A replacedError comes after the release may have been replaced.
type replacedError struct{ error }

func (e *declinedError) Unwrap() error  { return e.error }
func (e *forbiddenError) Unwrap() error { return e.error }
func (e *replacedError) Unwrap() error  { return e.error }

func (d *Deploy) agree(ctx context.Context, question string) error {
	if err := d.Agree(ctx, question); err != nil {
		return &declinedError{err}
	}
	return nil
}

func (d *Deploy) infra(ctx context.Context, _ *journal) (string, error) {
	p, err := d.plan(ctx)
	switch {
	case err != nil:
		return "", err
	case p.Empty:
		return "nothing to do", nil
	}
	if err := d.agree(ctx, fmt.Sprintf("Apply plan %s, %s, with the digest %s?", p.Name, p.Summary, p.Digest)); err != nil {
		return "", err
	}
	if err := d.Infra.Apply(ctx, p); err != nil {
		return "", err
	}
	return fmt.Sprintf("applied plan %s: %s", p.Name, p.Summary), nil
}

// plan shows the plan of infra. What policy forbids, and what destroys data, is an error.
func (d *Deploy) plan(ctx context.Context) (*Plan, error) {
	p, err := d.Infra.Plan(ctx)
	if err != nil {
		return nil, err
	}
	d.tell(StepInfra, EventPlan, p.Text, p.Detail)
	if p.Forbidden != nil {
		return p, &forbiddenError{p.Forbidden}
	}
	return p, p.Data
}

// platform replaces the release.
func (d *Deploy) platform(ctx context.Context, j *journal) (string, error) {
	return d.up(ctx, j, StepPlatform, []string{platformStack}, d.Image)
}

// up previews stacks, asks, and does it. What was agreed to is written down before.
func (d *Deploy) up(ctx context.Context, j *journal, s Step, stacks []string, image string) (string, error) {
	p, err := d.Stacks.Preview(ctx, stacks, image)
	if err != nil {
		return "", err
	}
	d.tell(s, EventPlan, p.Text, p.Detail)
	if p.Refused != nil {
		return "", p.Refused
	}
	if !p.Empty {
		if err := d.agree(ctx, fmt.Sprintf("Make these changes to %s: %s?", strings.Join(p.Stacks, ", "), p.Summary)); err != nil {
			return "", err
		}
	}
	agreed := record{What: "agreed", Step: s, Files: p.Files}
	if s == StepPlatform {
		agreed.Before, agreed.Wanted = p.Running, p.Image
		if j.replacing {
			agreed.Before = j.before // what runs now may be what was under way
		}
	}
	if err := j.write(agreed); err != nil {
		return "", err
	}
	if p.Empty {
		return "nothing to do", nil
	}
	if err := d.Stacks.Up(ctx, p); err != nil {
		return "", &replacedError{err}
	}
	return p.Summary, nil
}

func (d *Deploy) smoke(ctx context.Context, _ *journal) (string, error) {
	task, err := d.test(ctx, StepSmoke)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("task %s completed", task), nil
}

func (d *Deploy) test(ctx context.Context, s Step) (task string, err error) {
	return d.Smoke.Test(ctx, func(text string) { d.tell(s, EventNote, text, nil) })
}

// canRollBack tells whether there is another release to go back to.
func (j *journal) canRollBack() bool { return j.replacing && j.before != "" && j.before != j.wanted }

// A heldError is that a resumed rollback would not be the one that was begun.
type heldError struct{ error }

// hold makes sure that a rollback does what was agreed to, and writes down what that is.
func (d *Deploy) hold(ctx context.Context, j *journal, p *Preview, resumed bool) error {
	changed := j.changed(p)
	_, agreed := j.agreed[StepRollback]
	question := fmt.Sprintf("Go back to %s by these changes to %s: %s?", j.before, strings.Join(p.Stacks, ", "), p.Summary)
	switch {
	case agreed && len(changed) > 0:
		return &heldError{fmt.Errorf("nothing was done, as it is for the files as they were, and %s changed since. Put back what they said, or begin another deploy with --anew", strings.Join(changed, ", "))}
	case len(changed) > 0:
		question = fmt.Sprintf("Files have changed since the release was agreed to: %s. ", strings.Join(changed, ", ")) + question
	}
	if resumed || len(changed) > 0 {
		if err := d.agree(ctx, question); err != nil {
			return err
		}
	}
	return j.write(record{What: "agreed", Step: StepRollback, Files: p.Files})
}

// changed are the files of a rollback that are not what they were when what it takes back was agreed to; or it itself, if it was begun
// before.
func (j *journal) changed(p *Preview) []string {
	agreed := []map[string]string{j.agreed[StepPlatform]}
	if len(p.Stacks) > 1 {
		agreed = append(agreed, j.agreed[StepStacks])
	}
	if files, begun := j.agreed[StepRollback]; begun {
		agreed = []map[string]string{files}
	}
	changed := map[string]bool{}
	for _, files := range agreed {
		for name := range files {
			if p.Files[name] != files[name] {
				changed[name] = true
			}
		}
		for name := range p.Files {
			if p.Files[name] != files[name] {
				changed[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

// rollBack puts the release before back, and tests it.
func (d *Deploy) rollBack(ctx context.Context, j *journal, resumed bool) error {
	if err := j.write(record{What: "begin", Step: StepRollback}); err != nil {
		return err
	}
	d.tell(StepRollback, EventBegin, "the image before was "+j.before, nil)
	cause := errors.New(j.failure)
	err := func() error {
		stacks := []string{platformStack}
		if _, done := j.done[StepStacks]; done { // some of them roll the release out, with their part of the configuration
			stacks = d.Stacks.Names()
		}
		p, err := d.Stacks.Preview(ctx, stacks, j.before)
		if err != nil {
			return err
		}
		d.tell(StepRollback, EventPlan, p.Text, p.Detail)
		if p.Refused != nil {
			return p.Refused
		}
		// A rollout that fails goes back by itself. Then the servers have the configuration of before, too, and that is
		// better left so: it may be the new one that has failed.
		back := j.failedAt == StepPlatform && p.Running == j.before
		if !p.Empty && !back {
			if err := d.hold(ctx, j, p, resumed); err != nil {
				return err
			}
			if err := d.Stacks.Up(ctx, p); err != nil {
				return err
			}
		}
		if d.Smoke != nil {
			_, err = d.test(ctx, StepRollback)
		}
		return err
	}()
	var declined *declinedError
	var held *heldError
	switch {
	case err != nil && ctx.Err() != nil:
		return d.outcome(j, Interrupted, StepRollback, cause)
	case errors.As(err, &declined):
		return d.outcome(j, Declined, StepRollback, errors.Join(cause, fmt.Errorf("the rollback: %w", err)))
	case err != nil:
		if writeErr := j.write(record{What: "failed", Step: StepRollback, Text: err.Error()}); writeErr != nil {
			return errors.Join(cause, err, writeErr)
		}
		d.tell(StepRollback, EventFailed, err.Error(), nil)
		result := Broken
		if errors.As(err, &held) {
			result = Failed
		}
		return d.outcome(j, result, StepRollback, errors.Join(cause, fmt.Errorf("the rollback: %w", err)))
	}
	how := j.before + " is at work again"
	if err := j.write(record{What: "done", Step: StepRollback, Text: how}); err != nil {
		return err
	}
	d.tell(StepRollback, EventDone, how, nil)
	return d.outcome(j, RolledBack, StepRollback, cause)
}

// PlanOnly shows what a deploy would do, and changes nothing. What cannot be looked at before something else was done
// is noted.
func (d *Deploy) PlanOnly(ctx context.Context) error {
	changes := "" // what comes before
	if d.Infra != nil {
		p, err := d.plan(ctx)
		if err != nil {
			return d.planned(ctx, StepInfra, err)
		}
		if !p.Empty {
			changes = "infra"
		}
	}
	platform, rest := d.split()
	for _, part := range []struct {
		step   Step
		stacks []string
	}{{StepPlatform, platform}, {StepStacks, rest}} {
		if len(part.stacks) == 0 {
			continue
		}
		p, err := d.Stacks.Preview(ctx, part.stacks, d.Image)
		switch {
		case err != nil && changes != "" && ctx.Err() == nil:
			d.tell(part.step, EventNote, fmt.Sprintf("cannot be previewed before the changes to %s are made: %v", changes, err), nil)
			continue
		case err != nil:
			return d.planned(ctx, part.step, err)
		}
		d.tell(part.step, EventPlan, p.Text, p.Detail)
		if p.Refused != nil && changes == "" {
			return d.planned(ctx, part.step, p.Refused)
		}
		if !p.Empty && changes == "" {
			changes = string(part.step)
		}
	}
	return nil
}

func (d *Deploy) planned(ctx context.Context, s Step, err error) error {
	var forbidden *forbiddenError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &forbidden):
		return &Outcome{Name: d.Name, Result: Forbidden, Step: s, Err: err, Next: []string{nextForbidden}}
	}
	return fmt.Errorf("%s: %w", s, err)
}
