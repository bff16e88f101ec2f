// Package plan reads what terraform says about a saved plan (`terraform show -json`) and tells it to people.
//
// Nothing of a [Plan] is secret: what the provider or the configuration has marked as sensitive, and what looks like a
// secret by its name or its form, is replaced when the plan is read, so that no text, no JSON and no error made from
// it can leak. The file it was read from does have the secrets.
//
// The format is Terraform's JSON output format, major version 1; OpenTofu writes the same.
package plan

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	tfjson "github.com/hashicorp/terraform-json"
)

// maxSize is the size of a plan's JSON that is read, in bytes. A deployment in three regions has 3 MiB.
const maxSize = 128 << 20

// An Action is what becomes of a resource or an output.
type Action string

// Actions. What does not change is counted (Plan.Unchanged), not listed.
const (
	Create   Action = "create"
	Update   Action = "update"
	Replace  Action = "replace" // destroyed, and created anew
	Delete   Action = "delete"
	ReadData Action = "read"   // of a data source, during apply
	Import   Action = "import" // into the state, without a change
	Forget   Action = "forget" // out of the state: it stays, and nobody manages it
	Move     Action = "move"   // to another address of the state, without a change
	NoOp     Action = "no-op"
)

// A Plan is what applying a saved plan would do.
type Plan struct {
	Terraform string   `json:"terraform"` // the version that made it
	Name      string   `json:"name"`      // of the deployment: its variable deployment, or name; "" without either
	Changes   []Change `json:"changes"`   // by module, then address
	Drift     []Change `json:"drift"`     // what has changed since the last apply, by other hands
	Outputs   []Output `json:"outputs"`   // those that change, by name
	Unchanged int      `json:"unchanged"` // resources that stay as they are
	Digest    string   `json:"digest"`    // see Seal; "" before
	content   [32]byte // of the JSON, normalised
	hide      func(string) string
}

// A Change is what becomes of one resource. Secrets in it are replaced.
type Change struct {
	Address  string `json:"address"`
	Module   string `json:"module"` // its address, "" for the root module
	Type     string `json:"type"`
	Name     string `json:"name"`
	Label    string `json:"label,omitempty"` // what AWS calls it, where that is known: an identifier, a name
	Action   Action `json:"action"`
	Reason   string `json:"reason,omitempty"`   // why it is deleted or replaced, for people
	Previous string `json:"previous,omitempty"` // address before a move
	ImportID string `json:"importId,omitempty"`

	Destructive bool   `json:"destructive"`     // what is there now is destroyed
	Protected   bool   `json:"protected"`       // it holds what cannot be made again
	Holds       string `json:"holds,omitempty"` // database, bucket, key or file system, if it is protected

	Before     any         `json:"before,omitempty"`
	After      any         `json:"after,omitempty"` // without what is known after apply only
	Attributes []Attribute `json:"attributes"`      // those that differ, by path
}

// An Attribute is a value of a resource that changes.
type Attribute struct {
	Path              string `json:"path"`             // such as tags.Name, ingress[0].from_port; also into JSON texts
	Before            any    `json:"before,omitempty"` // nil if it is secret
	After             any    `json:"after,omitempty"`  // nil if it is secret or unknown
	Secret            bool   `json:"secret,omitempty"`
	Unknown           bool   `json:"unknown,omitempty"` // until it was applied
	ForcesReplacement bool   `json:"forcesReplacement,omitempty"`

	steps []any
}

// An Output is an output of the root module that changes.
type Output struct {
	Name       string      `json:"name"`
	Action     Action      `json:"action"`
	Secret     bool        `json:"secret,omitempty"`
	Attributes []Attribute `json:"attributes"`
}

// protected are the types whose loss is the loss of data: those of the rule protected, in package policy, and one more kind of key.
var protected = map[string]string{
	"aws_db_instance":              "database",
	"aws_rds_cluster":              "database",
	"aws_rds_global_cluster":       "database",
	"aws_docdb_cluster":            "database",
	"aws_neptune_cluster":          "database",
	"aws_dynamodb_table":           "database",
	"aws_efs_file_system":          "file system",
	"aws_s3_bucket":                "bucket",
	"aws_s3_directory_bucket":      "bucket",
	"aws_kms_key":                  "key",
	"aws_kms_replica_key":          "key",
	"aws_kms_external_key":         "key",
	"aws_kms_replica_external_key": "key",
}

// Read reads the JSON of a plan, at most 128 MiB.
func Read(from io.Reader) (*Plan, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the plan: %w", err)
	}
	if len(text) > maxSize {
		return nil, fmt.Errorf("the plan's JSON is larger than %d MiB: split the deployment", maxSize>>20)
	}
	var raw tfjson.Plan
	raw.UseJSONNumber(true)
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("this is not a plan's JSON, as terraform show -json PLAN writes it: %w", err)
	}
	if n := len(raw.ActionInvocations) + len(raw.DeferredChanges); n > 0 {
		return nil, fmt.Errorf("the plan runs actions or defers changes (%d), which nobody would see here: take the action blocks out of the configuration", n)
	}
	p := &Plan{Terraform: raw.TerraformVersion, Changes: []Change{}, Drift: []Change{}, Outputs: []Output{}}
	if p.content, err = normal(text); err != nil {
		return nil, err
	}
	for _, name := range []string{"deployment", "name"} {
		if v := raw.Variables[name]; v != nil && p.Name == "" {
			p.Name, _ = v.Value.(string)
		}
	}
	r := secretsOf(&raw)
	p.hide = r.hide
	for _, rc := range raw.ResourceChanges {
		c, err := r.change(rc)
		if err != nil {
			return nil, err
		}
		if c.Action == NoOp {
			if rc.Mode == tfjson.ManagedResourceMode {
				p.Unchanged++
			}
			continue
		}
		p.Changes = append(p.Changes, c)
	}
	for _, rc := range raw.ResourceDrift {
		c, err := r.change(rc)
		if err != nil {
			return nil, err
		}
		if c.Action != NoOp && !c.foreign() {
			c.Destructive = false // that is what has happened, not what is to
			p.Drift = append(p.Drift, c)
		}
	}
	slices.SortStableFunc(p.Changes, byModule)
	slices.SortStableFunc(p.Drift, byModule)
	for _, name := range slices.Sorted(maps.Keys(raw.OutputChanges)) {
		rc := raw.OutputChanges[name]
		if rc == nil {
			return nil, fmt.Errorf("output %q of the plan says nothing", name)
		}
		action, err := actionOf(rc)
		if err != nil {
			return nil, fmt.Errorf("output %q of the plan: %w", name, err)
		}
		if action == NoOp {
			continue
		}
		o := Output{Name: name, Action: action, Secret: isTrue(rc.BeforeSensitive) || isTrue(rc.AfterSensitive)}
		o.Attributes = r.differences(rc)
		p.Outputs = append(p.Outputs, o)
	}
	return p, nil
}

// elsewhere are attributes that are others' to change, and that the modules have terraform ignore: no drift.
var elsewhere = map[string][]string{
	"aws_ecs_service":           {"desired_count", "task_definition"}, // autoscaling; releases by package stacks
	"aws_appautoscaling_target": {"max_capacity", "min_capacity"},     // package stacks
}

// foreign leaves out of what has changed what is others' to change, and tells whether that was all.
func (c *Change) foreign() bool {
	theirs := elsewhere[c.Type]
	if theirs == nil || c.Action != Update {
		return false
	}
	c.Attributes = slices.DeleteFunc(c.Attributes, func(a Attribute) bool { return slices.Contains(theirs, a.Path) })
	return len(c.Attributes) == 0
}

// secretsOf collects what is marked as sensitive anywhere in a plan.
func secretsOf(p *tfjson.Plan) *redactor {
	r := &redactor{}
	learn := func(c *tfjson.Change) {
		if c != nil {
			r.learn(c.Before, c.BeforeSensitive)
			r.learn(c.After, c.AfterSensitive)
		}
	}
	for _, rc := range slices.Concat(p.ResourceChanges, p.ResourceDrift) {
		if rc != nil {
			learn(rc.Change)
		}
	}
	for _, c := range p.OutputChanges {
		learn(c)
	}
	if p.Config != nil && p.Config.RootModule != nil {
		for name, v := range p.Config.RootModule.Variables {
			if value := p.Variables[name]; v != nil && v.Sensitive && value != nil {
				r.learn(value.Value, true)
			}
		}
	}
	// One may have another in it.
	slices.SortFunc(r.values, func(a, b string) int { return len(b) - len(a) })
	return r
}

// normal is the digest of JSON that says the same, whatever its order and spelling.
func normal(text []byte) ([32]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return [32]byte{}, fmt.Errorf("read the plan's JSON: %w", err)
	}
	again, err := json.Marshal(v)
	if err != nil {
		return [32]byte{}, fmt.Errorf("normalise the plan's JSON: %w", err)
	}
	return sha256.Sum256(again), nil
}

// Seal sets and returns the plan's digest, "sha256:" and 64 hexadecimal digits: over the bytes of the saved plan,
// which is what would be applied, and over the normalised JSON, which is what people and policies have judged. So
// whoever has approved a digest has approved both.
func (p *Plan) Seal(file []byte) string {
	h := sha256.New()
	sum := sha256.Sum256(file)
	h.Write(sum[:])
	h.Write(p.content[:])
	p.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	return p.Digest
}

// Hide replaces in a text what the plan knows as secret: what providers say of it has no marks.
func (p *Plan) Hide(text string) string { return p.hide(text) }

// Deposed is how the address of what a replacement has left behind ends.
func Deposed(key string) string { return " (deposed " + key + ")" }

// Destroys are the changes that destroy what is there; if onlyProtected, those of them that hold data.
func (p *Plan) Destroys(onlyProtected bool) []Change {
	var list []Change
	for _, c := range p.Changes {
		if c.Destructive && (c.Protected || !onlyProtected) {
			list = append(list, c)
		}
	}
	return list
}

// Empty tells whether applying the plan would change nothing.
func (p *Plan) Empty() bool { return len(p.Changes) == 0 && len(p.Outputs) == 0 }

func byModule(a, b Change) int {
	return cmp.Or(strings.Compare(a.Module, b.Module), strings.Compare(a.Address, b.Address))
}

func (r *redactor) change(rc *tfjson.ResourceChange) (Change, error) {
	if rc == nil || rc.Change == nil {
		return Change{}, errors.New("a resource of the plan has no change in it")
	}
	action, err := actionOf(rc.Change)
	if err != nil {
		return Change{}, fmt.Errorf("resource %q of the plan: %w", rc.Address, err)
	}
	c := Change{
		Address: rc.Address, Module: rc.ModuleAddress, Type: rc.Type, Name: rc.Name,
		Action: action, Reason: reasons[rc.ActionReason],
		Before: r.redact(rc.Change.Before, rc.Change.BeforeSensitive, ""), After: r.redact(rc.Change.After, rc.Change.AfterSensitive, ""),
	}
	if rc.DeposedKey != "" {
		c.Address += Deposed(rc.DeposedKey)
		c.Reason = "an earlier replacement has left it behind"
	}
	if rc.PreviousAddress != rc.Address {
		c.Previous = rc.PreviousAddress
	}
	if i := rc.Change.Importing; i != nil {
		c.ImportID = i.ID
		if action == NoOp {
			c.Action = Import
		}
	}
	if c.Action == NoOp && c.Previous != "" {
		c.Action = Move
	}
	if rc.Mode == tfjson.ManagedResourceMode {
		c.Destructive = action == Delete || action == Replace
		c.Holds = protected[rc.Type]
		c.Protected = c.Holds != ""
	}
	c.Label = label(c.After)
	if c.Label == "" || c.Destructive {
		c.Label = cmp.Or(label(c.Before), c.Label)
	}
	if c.Action != NoOp && c.Action != Move && c.Action != Import {
		c.Attributes = r.differences(rc.Change)
		forcing(&c, rc.Change.ReplacePaths)
	}
	return c, nil
}

func actionOf(c *tfjson.Change) (Action, error) {
	words := make([]string, len(c.Actions))
	for i, a := range c.Actions {
		words[i] = string(a)
	}
	switch strings.Join(words, " ") {
	case "no-op":
		return NoOp, nil
	case "create", "update", "delete", "read", "forget":
		return Action(words[0]), nil
	case "delete create", "create delete":
		return Replace, nil
	case "create forget", "forget create":
		return Create, nil // the old one stays, and nobody manages it
	}
	return "", fmt.Errorf("its actions are %q, which are not known: update taskfleet", words)
}

var reasons = map[tfjson.ActionReason]string{
	tfjson.ActionReasonReplaceBecauseCannotUpdate:    "it cannot be changed in place",
	tfjson.ActionReasonReplaceBecauseTainted:         "an earlier apply has left it unfinished (tainted)",
	tfjson.ActionReasonReplaceByRequest:              "it was asked for with --replace",
	tfjson.ActionReasonReplaceByTriggers:             "what it is bound to by replace_triggered_by changes",
	tfjson.ActionReasonDeleteBecauseNoResourceConfig: "its block is not in the configuration any more",
	tfjson.ActionReasonDeleteBecauseWrongRepetition:  "its block has got, or lost, count or for_each",
	tfjson.ActionReasonDeleteBecauseCountIndex:       "count is smaller than its index",
	tfjson.ActionReasonDeleteBecauseEachKey:          "its key is not in for_each any more",
	tfjson.ActionReasonDeleteBecauseNoModule:         "its module is not in the configuration any more",
	tfjson.ActionReasonDeleteBecauseNoMoveTarget:     "it was moved to where no block is",
	tfjson.ActionReasonReadBecauseConfigUnknown:      "what it reads is known after apply only",
	tfjson.ActionReasonReadBecauseDependencyPending:  "what it depends on changes",
}

// label finds what people know a resource by.
func label(v any) string {
	m, _ := v.(map[string]any)
	for _, key := range []string{"identifier", "bucket", "name", "function_name", "alarm_name", "dashboard_name", "cluster_identifier", "broker_name", "family", "cidr_block", "description", "id"} {
		if s, ok := m[key].(string); ok && s != "" && s != hidden {
			return s
		}
	}
	return ""
}

// forcing marks the attributes that make a resource be replaced.
func forcing(c *Change, paths []any) {
	for _, raw := range paths {
		path, _ := raw.([]any)
		if len(path) == 0 {
			continue
		}
		found := false
		for i := range c.Attributes {
			a := &c.Attributes[i]
			if under(a.steps, path) || under(path, a.steps) {
				a.ForcesReplacement, found = true, true
			}
		}
		if !found { // such as an element of a set, which has no path of its own
			c.Attributes = append(c.Attributes, Attribute{Path: join(path), Unknown: true, ForcesReplacement: true, steps: path})
		}
	}
}

// under tells whether the path is that of the parent, or of what is in it.
func under(path, parent []any) bool {
	if len(parent) > len(path) {
		return false
	}
	for i := range parent {
		if fmt.Sprint(parent[i]) != fmt.Sprint(path[i]) {
			return false
		}
	}
	return true
}
