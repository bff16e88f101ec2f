package infra

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-exec/tfexec"

	"github.com/taskfleet/taskfleet/infra/plan"
)

// Drift looks at everything there is at AWS, and returns a plan whose Drift is what other hands have changed since the
// last apply. Nothing is changed, not even the state.
func (d *Deployment) Drift(ctx context.Context, varFiles []string) (*plan.Plan, error) {
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	directory, err := d.scratch(".drift-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	options := []tfexec.PlanOption{tfexec.RefreshOnly(true)}
	for _, f := range varFiles {
		if f, err = filepath.Abs(f); err != nil {
			return nil, err
		}
		options = append(options, tfexec.VarFile(f))
	}
	text, err := d.planTo(ctx, filepath.Join(directory, "plan.tfplan"), "look for drift", options...)
	if err != nil {
		return nil, err
	}
	return plan.Read(strings.NewReader(string(text)))
}

// An Output is an output of a deployment.
type Output struct {
	Name   string          `json:"name"`
	Secret bool            `json:"secret"`
	Value  json.RawMessage `json:"value,omitempty"` // nil if it is secret
}

// Outputs are those of the state, by name.
func (d *Deployment) Outputs(ctx context.Context) ([]Output, error) {
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	all, err := d.tf.Output(ctx)
	if err != nil {
		return nil, d.fail("read the outputs", err, nil)
	}
	var list []Output
	for _, name := range slices.Sorted(maps.Keys(all)) {
		o := Output{Name: name, Secret: all[name].Sensitive}
		if !o.Secret {
			o.Value = all[name].Value
		}
		list = append(list, o)
	}
	return list, nil
}

// Import takes a resource that is there into the state, at an address that the configuration has.
func (d *Deployment) Import(ctx context.Context, address, id string, varFiles []string) error {
	for _, s := range []string{address, id} {
		if s == "" || strings.HasPrefix(s, "-") {
			return fmt.Errorf("%q is no address, and no id: import module.network.aws_vpc.this vpc-0123456789abcdef0", s)
		}
	}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	var options []tfexec.ImportOption
	if d.reattach != nil {
		options = append(options, tfexec.Reattach(d.reattach))
	}
	for _, f := range varFiles {
		f, err := filepath.Abs(f)
		if err != nil {
			return err
		}
		options = append(options, tfexec.VarFile(f))
	}
	return d.fail("import "+address, d.tf.Import(ctx, address, id, options...), nil)
}

// Unlock looks who holds the lock of the state, and takes it away if confirm has no error. The result is nil if nobody
// holds it. Whoever is at work with it would go on and spoil the state: confirm has to be somebody who knows.
func (d *Deployment) Unlock(ctx context.Context, confirm func(*LockedError) error) (*LockedError, error) {
	// Not prepare: the lock may be what keeps errored.tfstate from being pushed.
	if err := d.init(ctx); err != nil {
		return nil, err
	}
	// What takes the lock and changes nothing: of a resource that is not there, a mark is taken away.
	err := d.fail("look for the lock", d.tf.Untaint(ctx, "terraform_data.taskfleet_looks_for_the_lock", tfexec.AllowMissing(true)), nil)
	if err == nil {
		return nil, nil
	}
	held, ok := err.(*LockedError)
	if !ok {
		return nil, err
	}
	if err := confirm(held); err != nil {
		return held, err
	}
	if held.ID == "" {
		return held, fmt.Errorf("the lock has no id, so it cannot be taken away: %s", held.Holder())
	}
	err = d.fail("unlock", d.tf.ForceUnlock(ctx, held.ID), nil)
	if err != nil && localLock.MatchString(err.Error()) {
		return held, fmt.Errorf("this state is a file, and its lock ends with the process that holds it: end that process, %s", held.Holder())
	}
	return held, err
}

var localLock = regexp.MustCompile(`(?i)local ?state (cannot be unlocked|not locked)`)

// Obstacles are what makes AWS refuse to destroy what a plan destroys: first those that are certain, then those that
// depend on what is in there, as what to do about them.
func (s *Saved) Obstacles() (certain, possible []string) {
	for _, c := range s.Plan.Destroys(false) {
		before, _ := c.Before.(map[string]any)
		is := func(name string) bool { b, _ := before[name].(bool); return b }
		switch c.Type {
		case "aws_db_instance", "aws_rds_cluster":
			if is("deletion_protection") {
				certain = append(certain, fmt.Sprintf("%s is protected against deletion: set deletion_protection = false for it, plan, apply, and then destroy", c.Address))
			}
		case "aws_lb":
			if is("enable_deletion_protection") {
				certain = append(certain, fmt.Sprintf("%s is protected against deletion: set enable_deletion_protection = false for it, plan, apply, and then destroy", c.Address))
			}
		case "aws_s3_bucket":
			if !is("force_destroy") {
				possible = append(possible, fmt.Sprintf("%s %q is deleted only if it is empty: delete its objects and all their versions, or set force_destroy = true for it, plan, apply, and then destroy", c.Address, c.Label))
			}
		}
	}
	return certain, possible
}
