package infra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/terraform-exec/tfexec"

	"github.com/taskfleet/taskfleet/infra/plan"
)

// A Progress is something that has happened to a resource while a plan is applied.
type Progress struct {
	Time    time.Time     `json:"time"`
	What    string        `json:"what"` // start, still, done, failed
	Address string        `json:"address"`
	Action  string        `json:"action"`
	ID      string        `json:"id,omitempty"`
	Took    time.Duration `json:"took"` // since its start, nanoseconds
	Done    int           `json:"done"` // steps so far, of Total
	Total   int           `json:"total"`
}

// ApplyOptions are what is needed for an apply.
type ApplyOptions struct {
	Digest string // of the plan that was looked at; it must be that

	// Confirm is called before anything is destroyed; its error is why it is not. Without it nothing is destroyed.
	Confirm func(s *Saved) error

	// Word must be the deployment's name if databases, buckets or keys are destroyed.
	Word string

	// Destroy says that everything is to go, so that policy does not protect data from it.
	Destroy bool

	Progress func(Progress) // may be nil
}

// A ViolatedError says that policy forbids a plan. Nothing was done.
type ViolatedError struct {
	Plan      string
	Judgement Judgement
}

func (e *ViolatedError) Error() string {
	n := len(e.Judgement.Policy.Errors())
	what := "1 violation"
	if n != 1 {
		what = fmt.Sprintf("%d violations", n)
	}
	return fmt.Sprintf("policy forbids plan %s: %s, which taskfleet infra show lists. Nothing was applied. "+
		"Change the configuration and plan again, or write exceptions with a reason and a date into policy.yml", e.Plan, what)
}

// An ApplyError says how far an apply has come.
type ApplyError struct {
	Report *Report
	Err    error
}

func (e *ApplyError) Error() string { return e.Err.Error() }
func (e *ApplyError) Unwrap() error { return e.Err }

// Apply applies a saved plan. It refuses (*RefusedError, *ViolatedError) what is not the plan of the digest, what is
// stale, and what policy forbids. When the context ends, what is under way is waited for, and nothing more begun; then, and when
// something fails, the error is an *ApplyError.
func (d *Deployment) Apply(ctx context.Context, name string, o ApplyOptions) (*Report, error) {
	s, err := d.Saved(name)
	if err != nil {
		return nil, err
	}
	if o.Digest == "" {
		return nil, fmt.Errorf("say which plan was looked at with --digest: taskfleet infra show %s tells the digest", name)
	}
	if o.Digest != s.Digest {
		return nil, &RefusedError{fmt.Sprintf("plan %s has the digest %s, not %s: it is not the one that was looked at", name, s.Digest, o.Digest)}
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	if err := d.check(ctx, s); err != nil {
		return nil, err
	}
	// What is applied are the bytes of the digest, whatever happens to the files while people are asked.
	directory, err := d.scratch(".applying-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	file := filepath.Join(directory, "plan.tfplan")
	if err := os.WriteFile(file, s.file, 0o600); err != nil {
		return nil, err
	}
	// Whoever could write here before the digest was approved could have put a JSON beside that says something else.
	text, err := d.planJSON(ctx, file)
	if err != nil {
		return nil, err
	}
	says, err := plan.Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if says.Seal(s.file) != s.Digest {
		return nil, &RefusedError{fmt.Sprintf("plan.json of plan %s, which was looked at, does not say what its plan.tfplan would do", name)}
	}
	// Exceptions end, and what meta.json says has no digest: it is judged again.
	if s.Judgement, err = d.judge(ctx, text, o.Destroy); err != nil {
		return nil, err
	}
	if s.Policy.Refused() {
		return nil, &ViolatedError{name, s.Judgement}
	}
	if err := s.mayDestroy(o); err != nil {
		return nil, err
	}
	return d.apply(ctx, s, file, o.Progress)
}

// mayDestroy asks what has to be asked before something is destroyed.
func (s *Saved) mayDestroy(o ApplyOptions) error {
	if len(s.Plan.Destroys(false)) == 0 {
		return nil
	}
	if data := s.Plan.Destroys(true); len(data) > 0 && o.Word != s.Deployment {
		list := ""
		for _, c := range data {
			list += "\n  " + c.Holds + " " + c.Address
			if c.Label != "" {
				list += fmt.Sprintf(" %q", c.Label)
			}
		}
		what := "it needs --destroy-protected " + s.Deployment
		if o.Word != "" {
			what = fmt.Sprintf("--destroy-protected %s is not the name of the deployment: it is %s", o.Word, s.Deployment)
		}
		return fmt.Errorf("plan %s destroys data that cannot be made again, and %s. Nothing was done. It would destroy:%s", s.Name, what, list)
	}
	if o.Confirm == nil {
		return fmt.Errorf("plan %s destroys %d resources, and nobody has confirmed that. Nothing was done", s.Name, len(s.Plan.Destroys(false)))
	}
	return o.Confirm(s)
}

// apply runs terraform on the file of a plan that may be applied.
func (d *Deployment) apply(ctx context.Context, s *Saved, file string, progress func(Progress)) (*Report, error) {
	j, err := openJournal(s.directory)
	if err != nil {
		return nil, err
	}
	defer j.file.Close()
	total, done := steps(s.Plan), 0
	see := func(e event) {
		what := map[string]string{"apply_start": "start", "apply_progress": "still", "apply_complete": "done", "apply_errored": "failed"}[e.Type]
		if e.Diagnostic != nil { // providers quote what they were given
			e.Diagnostic.Summary, e.Diagnostic.Detail = s.Plan.Hide(e.Diagnostic.Summary), s.Plan.Hide(e.Diagnostic.Detail)
		}
		if e.Diagnostic != nil && e.Diagnostic.Severity == "error" {
			j.write(record{Time: e.Time, What: "error", Address: e.Diagnostic.Address, Text: e.Diagnostic.String()})
		}
		if what == "" || e.Hook == nil {
			return
		}
		id := ""
		if e.Hook.IDKey == "id" {
			id = e.Hook.ID
		}
		if what != "still" {
			j.write(record{Time: e.Time, What: what, Address: e.Hook.Resource.Address, Action: e.Hook.Action, ID: id, Seconds: e.Hook.Seconds})
		}
		if what == "done" && e.Hook.Action != "read" {
			done++
		}
		if progress != nil {
			progress(Progress{
				Time: e.Time, What: what, Address: e.Hook.Resource.Address, Action: e.Hook.Action, ID: id,
				Took: time.Duration(e.Hook.Seconds * float64(time.Second)), Done: done, Total: total,
			})
		}
	}
	stop := context.AfterFunc(ctx, func() {
		d.notice("interrupted: terraform ends what is under way, which may take minutes. Another interrupt kills it, and loses what is not recorded")
	})
	defer stop()
	options := []tfexec.ApplyOption{tfexec.DirOrPlan(file)}
	if d.reattach != nil {
		options = append(options, tfexec.Reattach(d.reattach))
	}
	said, err := d.watch(see, func(w io.Writer) error {
		err := d.tf.ApplyJSON(ctx, w, options...)
		if err != nil && err != ctx.Err() && errors.Is(err, context.Canceled) && errors.Unwrap(err) == nil {
			return nil // it was done when the interrupt came
		}
		return err
	})
	result := Applied
	switch {
	case err != nil && ctx.Err() != nil:
		result = Interrupted
	case err != nil:
		result = Failed
	}
	j.write(record{Time: time.Now().UTC(), What: "end", Text: result})
	failure := d.fail("apply", err, said)
	if result == Interrupted {
		failure = errors.New("the apply was interrupted")
	}
	// Whoever has interrupted is told as well.
	_, recorded, stateErr := d.state(context.WithoutCancel(ctx))
	report, reportErr := d.report(s, recorded)
	if err := errors.Join(failure, j.err, stateErr, reportErr); err != nil {
		return report, &ApplyError{report, err}
	}
	return report, nil
}

// steps counts what terraform has to do for a plan.
func steps(p *plan.Plan) int {
	n := 0
	for _, c := range p.Changes {
		switch c.Action {
		case plan.Create, plan.Update, plan.Delete:
			n++
		case plan.Replace:
			n += 2
		}
	}
	return n
}

// Report tells what has become of the last apply of a saved plan; nil if it was never applied.
func (d *Deployment) Report(ctx context.Context, s *Saved) (*Report, error) {
	if !exists(filepath.Join(s.directory, "journal.jsonl")) {
		return nil, nil
	}
	_, recorded, err := d.state(ctx)
	if err != nil {
		return nil, err
	}
	return d.report(s, recorded)
}
