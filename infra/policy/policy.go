// Package policy judges plans of Terraform before they are applied.
//
// A rule is a file of Rego, in rules/ or of a deployment's own, in its folder policies: package taskfleet.policy.NAME,
// whose deny is a set of what is wrong and whose unknown is a set of what only the apply will tell. NAME is the rule's
// id. The title, the reason and the severity are in the METADATA of the package. The input is the plan's JSON as
// terraform show -json prints it (https://developer.hashicorp.com/terraform/internals/json-format), with one key more,
// taskfleet: see prepared. What rules ask of a plan is in lib/, and own rules may import it too.
//
// All resources of a plan are judged, those too that do not change: the account is judged, not the difference. What is
// not known before the apply is told as a warning, where the answer matters, and is never a violation.
//
// An [Exception] accepts what a rule finds of a resource, for a reason and until a date. One that is not used, or is
// over, is told.
//
// Own rules cannot reach the network, the environment or the clock, and are limited in size and in time. They are
// compiled apart, so that they cannot change what the rules here mean.
package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Limits of what is judged.
const (
	MaxPlan       = 64 << 20         // bytes of a plan's JSON
	MaxViolations = 10_000           // of all rules together
	MaxTime       = 20 * time.Second // of the evaluation of own rules, and of ours
)

// Severities. An error refuses a plan, a warning does not.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
)

// Options are what a deployment adds to the rules. [Load] reads them.
type Options struct {
	Rules      fs.FS       // own rules: the *.rego files at its root; nil for none
	Exceptions []Exception // what is accepted
	// Development is a deployment that may be lost: what is asked of production alone, such as a standby, is not asked
	// of it.
	Development bool
	Now         time.Time // decides which exceptions are over; zero is the clock's
}

// A Violation is something of a plan that breaks a rule, or that cannot be told before the apply.
type Violation struct {
	Rule      string     `json:"rule"`
	Severity  string     `json:"severity"`
	Address   string     `json:"address"`             // of the resource
	Attribute string     `json:"attribute,omitempty"` // of the resource, or what it lacks
	Message   string     `json:"message"`
	Fix       string     `json:"fix,omitempty"`
	Unknown   bool       `json:"unknown,omitempty"` // cannot be judged before the apply; always a warning
	Excepted  *Exception `json:"excepted,omitempty"`
}

// A Verdict is what all rules together say of a plan.
type Verdict struct {
	Rules      int         `json:"rules"`      // how many have judged
	Resources  int         `json:"resources"`  // how many were judged
	Violations []Violation `json:"violations"` // errors first; those that are excepted too
	Expired    []Exception `json:"expired"`    // exceptions that are over
	Unused     []Exception `json:"unused"`     // exceptions that accept nothing
}

// Errors are the violations that refuse the plan: errors that no exception accepts.
func (v Verdict) Errors() []Violation {
	return v.which(func(x Violation) bool { return x.Severity == SeverityError && x.Excepted == nil })
}

// Warnings are the warnings that no exception accepts, without what cannot be judged.
func (v Verdict) Warnings() []Violation {
	return v.which(func(x Violation) bool { return x.Severity != SeverityError && x.Excepted == nil && !x.Unknown })
}

// Unjudged are what only the apply will tell.
func (v Verdict) Unjudged() []Violation {
	return v.which(func(x Violation) bool { return x.Unknown && x.Excepted == nil })
}

// Excepted are the violations that an exception accepts.
func (v Verdict) Excepted() []Violation {
	return v.which(func(x Violation) bool { return x.Excepted != nil })
}

func (v Verdict) which(f func(Violation) bool) (out []Violation) {
	for _, x := range v.Violations {
		if f(x) {
			out = append(out, x)
		}
	}
	return out
}

// Refused reports whether the plan must not be applied.
func (v Verdict) Refused() bool { return len(v.Errors()) > 0 }

// Judge judges a plan, given as terraform show -json prints it. The error says that it could not: the plan is none, a
// rule of the deployment is wrong or takes too long, an exception names a rule that there is not.
func Judge(ctx context.Context, planJSON []byte, o Options) (Verdict, error) {
	input, resources, err := prepared(planJSON, o)
	if err != nil {
		return Verdict{}, err
	}
	ours, err := builtin()
	if err != nil {
		return Verdict{}, err
	}
	own, err := compileOwn(ctx, o.Rules)
	if err != nil {
		return Verdict{}, err
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	v := Verdict{Rules: len(ours.rules) + len(own.rules), Resources: resources, Violations: []Violation{}}
	for _, e := range o.Exceptions {
		if err := e.check(func(rule string) bool { return ours.has(rule) || own.has(rule) }, now); err != nil {
			return Verdict{}, err
		}
	}
	for _, set := range []*rules{ours, own} {
		found, err := set.judge(ctx, input)
		if err != nil {
			return Verdict{}, err
		}
		v.Violations = append(v.Violations, found...)
	}
	if len(v.Violations) > MaxViolations {
		return Verdict{}, fmt.Errorf("the rules find %d violations, and %d at most are told; mend what they have in common first, such as %s of %s",
			len(v.Violations), MaxViolations, v.Violations[0].Rule, v.Violations[0].Address)
	}
	slices.SortFunc(v.Violations, func(a, b Violation) int {
		return cmp.Or(
			cmp.Compare(weight(a), weight(b)), strings.Compare(a.Rule, b.Rule),
			strings.Compare(a.Address, b.Address), strings.Compare(a.Attribute, b.Attribute), strings.Compare(a.Message, b.Message),
		)
	})
	v.Expired, v.Unused = except(v.Violations, o.Exceptions, now)
	return v, nil
}

func weight(v Violation) int {
	switch {
	case v.Severity == SeverityError:
		return 0
	case !v.Unknown:
		return 1
	}
	return 2
}

// prepared is the input of the rules: the plan, and beside it the key taskfleet with production, whether the rules for
// it apply, and configuration, what the files say of each resource, by its address without indices. In a plan, that is a
// tree of modules, which Rego cannot descend.
func prepared(planJSON []byte, o Options) (input map[string]any, resources int, err error) {
	if len(planJSON) > MaxPlan {
		return nil, 0, fmt.Errorf("the plan's JSON has %d bytes, and %d at most are judged; split the deployment", len(planJSON), MaxPlan)
	}
	d := json.NewDecoder(bytes.NewReader(planJSON))
	d.UseNumber()
	if err := d.Decode(&input); err != nil {
		return nil, 0, fmt.Errorf("the plan is not JSON: %w; make it with terraform show -json PLANFILE", err)
	}
	version, _ := input["format_version"].(string)
	changes, has := input["resource_changes"].([]any)
	_, planned := input["planned_values"].(map[string]any)
	switch {
	case !strings.HasPrefix(version, "1."):
		return nil, 0, fmt.Errorf("this is no plan, or one of another format: format_version is %q, and should be 1.x; make it with terraform show -json PLANFILE", version)
	case !has && !planned:
		return nil, 0, errors.New("this is a state and no plan: it has no resource_changes; make it with terraform show -json PLANFILE")
	case input["errored"] == true:
		return nil, 0, errors.New("the plan was not finished: terraform met an error while it planned; mend that and plan again")
	}
	for _, c := range changes {
		change, ok := c.(map[string]any)
		if _, address := change["address"].(string); !ok || !address {
			return nil, 0, errors.New("the plan's resource_changes has something without an address; make it with terraform show -json PLANFILE")
		}
		if change["mode"] == "managed" {
			resources++
		}
	}
	configuration := map[string]any{}
	whole, _ := input["configuration"].(map[string]any)
	root, _ := whole["root_module"].(map[string]any)
	collect(configuration, root, "")
	input["taskfleet"] = map[string]any{"production": !o.Development, "configuration": configuration}
	return input, resources, nil
}

// collect notes what the files say of the resources of a module, and of those that it calls.
func collect(into, module map[string]any, prefix string) {
	list, _ := module["resources"].([]any)
	for _, item := range list {
		r, _ := item.(map[string]any)
		if address, ok := r["address"].(string); ok {
			into[prefix+address] = r
		}
	}
	calls, _ := module["module_calls"].(map[string]any)
	for name, c := range calls {
		call, _ := c.(map[string]any)
		if called, ok := call["module"].(map[string]any); ok {
			collect(into, called, prefix+"module."+name+".")
		}
	}
}
