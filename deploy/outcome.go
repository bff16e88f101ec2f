package deploy

import (
	"errors"
	"fmt"
)

// A StepState says how far a step is.
type StepState struct {
	Step  Step   `json:"step"`
	State string `json:"state"` // done, failed, not done (it was begun, and may be done in part), not begun
	Text  string `json:"text,omitempty"`
}

// States of steps.
const (
	stepDone     = "done"
	stepFailed   = "failed"
	stepNotDone  = "not done"
	stepNotBegun = "not begun"
)

// An Outcome is why a deploy has not come to the end that was wished for, and what the state is.
type Outcome struct {
	Name   string      `json:"environment"`
	Deploy string      `json:"deploy"` // its journal; "" if there is none
	Result Result      `json:"result"`
	Step   Step        `json:"step"` // that was under way
	Steps  []StepState `json:"steps"`
	Before string      `json:"before,omitempty"` // image of the release before, if it was to be replaced
	Wanted string      `json:"wanted,omitempty"` // by this one
	Next   []string    `json:"next"`             // what to do now
	Err    error       `json:"-"`                // nil if it was interrupted
}

// Error says what has become of the deploy, and why.
func (o *Outcome) Error() string {
	text := fmt.Sprintf("the deploy of %s ", o.Name)
	switch o.Result {
	case Interrupted:
		return text + fmt.Sprintf("was interrupted at the step %s", o.Step)
	case Declined:
		text += fmt.Sprintf("has ended before the step %s", o.Step)
	case Forbidden:
		text += "is forbidden by policy"
	case RolledBack:
		text += "has failed, and its release was rolled back"
	case Broken:
		text += "has failed, and its release could not be rolled back"
	default:
		text += fmt.Sprintf("has failed at the step %s", o.Step)
	}
	return text + ": " + o.Err.Error()
}

// Unwrap is the cause.
func (o *Outcome) Unwrap() error { return o.Err }

const nextForbidden = "Change the configuration, or write exceptions with a reason and a date into policy.yml. Then deploy again."

// outcome ends a run that has not come to the end that was wished for.
func (d *Deploy) outcome(j *journal, r Result, s Step, cause error) error {
	if err := j.write(record{What: "end", Result: r}); err != nil {
		return errors.Join(cause, err)
	}
	o := &Outcome{Name: d.Name, Deploy: j.name, Result: r, Step: s, Err: cause, Before: j.before, Wanted: j.wanted}
	all := d.steps()
	if j.rolling {
		all = append(all, step{name: StepRollback})
	}
	for _, x := range all {
		state := StepState{Step: x.name, State: stepNotBegun}
		if how, done := j.done[x.name]; done {
			state.State, state.Text = stepDone, how
		} else if j.begun[x.name] && r != Declined {
			state.State = stepNotDone
		} else if x.name == s && r != Declined || j.rolling && x.name == j.failedAt || r == Broken && x.name == StepRollback {
			state.State = stepFailed
		}
		o.Steps = append(o.Steps, state)
	}
	say := func(format string, args ...any) { o.Next = append(o.Next, fmt.Sprintf(format, args...)) }
	switch r {
	case Interrupted:
		say("Go on with the step that was under way: %s", d.Resume)
		if s == StepInfra {
			say("What an apply that was cut off has done: taskfleet infra show, in the directory of the deployment.")
		}
	case Declined:
		if s == StepRollback {
			say("%s has failed and is not taken back; %s was at work before. To go back: %s", j.wanted, j.before, d.Resume)
			say("To go forward with a release that is mended, deploy with --anew.")
		} else {
			say("Steps that are done stay done. Deploy again, or go on: %s", d.Resume)
		}
	case Forbidden:
		say(nextForbidden)
	case RolledBack:
		if d.Smoke == nil {
			say("%s is at work again. It was not tested, since environment.yml has no smoke.", j.before)
		} else {
			say("%s is at work again, and a task has completed on it.", j.before)
		}
		say("What infra and stacks have changed beside the release stays. environment.yml still asks for %s: mend it, or put back what it said, before the next deploy.", orFiles(j.wanted))
	case Broken:
		say("Whether the platform works is not known: look at the servers' log, and at taskfleet loops.")
		say("If that says that the database was migrated by a newer taskfleet, %s does not start on it: go forward with a release that is mended, or restore the backup from before (docs/upgrade.md).", j.before)
	default:
		var replaced *replacedError
		if j.replacing && (s == StepSmoke || s == StepPlatform && errors.As(cause, &replaced)) {
			switch {
			case j.canRollBack():
				say("It was not rolled back: whether %s works was not tested.", j.wanted)
			case j.wanted == "":
				say("It was not rolled back, as environment.yml names no image. To go back, put back the files, and deploy with --anew.")
			case j.before == "":
				say("It was not rolled back: there is no release before.")
			default:
				say("It was not rolled back: the release before has the same image, %s. What has changed is its configuration. To go back, put back the files, and deploy with --anew.", j.before)
			}
		}
		say("Mend what the error names, and go on with this step: %s", d.Resume)
	}
	return o
}
