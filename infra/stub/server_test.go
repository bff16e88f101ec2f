package stub

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// terraform is as much of it as talks to a provider about one resource.
type terraform struct {
	*testing.T
	*server
	ctx   context.Context
	kind  string
	state tftypes.Value
	key   []byte
}

func attach(t *testing.T, p *Provider, kind string) *terraform {
	s := loaded(t)
	f := &terraform{T: t, server: &server{schemas: s, account: p.account}, kind: kind, state: tftypes.NewValue(s.resources[kind].ValueType(), nil)}
	f.ctx = connections{}.TagConn(t.Context(), nil)
	arguments, err := typed(s.provider.ValueType(), map[string]any{
		"region": "us-west-2", "default_tags": []any{map[string]any{"tags": map[string]any{"Deployment": "test"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ConfigureProvider(f.ctx, &tfprotov5.ConfigureProviderRequest{Config: f.wire(arguments)}); err != nil {
		t.Fatal(err)
	}
	return f
}

func provider(t *testing.T) *Provider {
	p, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func (f *terraform) wire(v tftypes.Value) *tfprotov5.DynamicValue {
	d, err := dynamic(v)
	if err != nil {
		f.Fatal(err)
	}
	return d
}

func (f *terraform) unwire(d *tfprotov5.DynamicValue) tftypes.Value {
	v, err := d.Unmarshal(f.state.Type())
	if err != nil {
		f.Fatal(err)
	}
	return v
}

// plan proposes attributes, over the state's computed ones; nil to destroy.
func (f *terraform) plan(attributes map[string]any) (tftypes.Value, *tfprotov5.PlanResourceChangeResponse) {
	f.Helper()
	proposed := tftypes.NewValue(f.state.Type(), nil)
	if attributes != nil {
		var err error
		if proposed, err = typed(f.state.Type(), attributes); err != nil {
			f.Fatal(err)
		}
		values, before := fields(proposed), fields(f.state)
		for _, a := range f.schemas.resources[f.kind].Block.Attributes {
			if old, ok := before[a.Name]; ok && a.Computed && values[a.Name].IsNull() {
				values[a.Name] = old
			}
		}
		proposed = tftypes.NewValue(f.state.Type(), values)
	}
	r, err := f.PlanResourceChange(f.ctx, &tfprotov5.PlanResourceChangeRequest{
		TypeName: f.kind, PriorState: f.wire(f.state), ProposedNewState: f.wire(proposed), PriorPrivate: f.key,
	})
	if err != nil {
		f.Fatal(err)
	}
	return f.unwire(r.PlannedState), r
}

// apply plans and applies, and tells what terraform would as an error.
func (f *terraform) apply(attributes map[string]any) error {
	f.Helper()
	_, plan := f.plan(attributes)
	r, err := f.ApplyResourceChange(f.ctx, &tfprotov5.ApplyResourceChangeRequest{
		TypeName: f.kind, PriorState: f.wire(f.state), PlannedState: plan.PlannedState, PlannedPrivate: plan.PlannedPrivate,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.state, f.key = f.unwire(r.NewState), r.Private
	if len(r.Diagnostics) > 0 {
		return errors.New(r.Diagnostics[0].Detail)
	}
	return nil
}

func (f *terraform) refresh() {
	f.Helper()
	r, err := f.ReadResource(f.ctx, &tfprotov5.ReadResourceRequest{TypeName: f.kind, CurrentState: f.wire(f.state), Private: f.key})
	if err != nil {
		f.Fatal(err)
	}
	f.state = f.unwire(r.NewState)
}

func (f *terraform) attribute(name string) any { return plain(fields(f.state)[name]) }

func TestLife(t *testing.T) {
	p := provider(t)
	f := attach(t, p, "aws_sqs_queue")
	planned, _ := f.plan(map[string]any{"name": "q", "tags": map[string]any{"Name": "n"}})
	for name, known := range map[string]bool{"arn": false, "url": false, "id": false, "tags_all": true, "region": true, "name": true} {
		if fields(planned)[name].IsKnown() != known {
			t.Errorf("in the plan, %s is %s", name, fields(planned)[name])
		}
	}
	if err := f.apply(map[string]any{"name": "q", "tags": map[string]any{"Name": "n"}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"arn": "arn:aws:sqs:us-west-2:123456789012:q", "url": "https://sqs.us-west-2.amazonaws.com/123456789012/q", "region": "us-west-2",
	} {
		if got := f.attribute(name); got != want {
			t.Errorf("%s is %v, want %s", name, got, want)
		}
	}
	if all := f.attribute("tags_all").(map[string]any); len(all) != 2 || all["Deployment"] != "test" || all["Name"] != "n" {
		t.Errorf("tags_all is %v", all)
	}

	// What is changed in place keeps its identity, what cannot be is replaced.
	before := f.attribute("id")
	if _, plan := f.plan(map[string]any{"name": "q", "visibility_timeout_seconds": 60}); len(plan.RequiresReplace) > 0 {
		t.Errorf("a timeout replaces a queue: %v", plan.RequiresReplace)
	}
	if err := f.apply(map[string]any{"name": "q", "visibility_timeout_seconds": 60}); err != nil {
		t.Fatal(err)
	}
	if f.attribute("id") != before || f.attribute("visibility_timeout_seconds") != 60.0 {
		t.Errorf("after the change: %v", plain(f.state))
	}
	if _, plan := f.plan(map[string]any{"name": "r"}); len(plan.RequiresReplace) != 1 || plan.RequiresReplace[0].String() != `AttributeName("name")` {
		t.Errorf("another name replaces: %v", plan.RequiresReplace)
	}

	// Names are taken while there is something with the name.
	other := attach(t, p, "aws_sqs_queue")
	if err := other.apply(map[string]any{"name": "q"}); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("a second queue of the name: %v", err)
	}
	if err := f.apply(nil); err != nil {
		t.Fatal(err)
	}
	if left := p.Objects(""); len(left) != 0 {
		t.Errorf("left after the end: %v", left)
	}
	if err := other.apply(map[string]any{"name": "q"}); err != nil {
		t.Error(err)
	}
}

// TestAlike makes two that differ in nothing: they get identifiers of their own, and the same in another account.
func TestAlike(t *testing.T) {
	var ids [2][2]any
	for i := range ids {
		p := provider(t)
		for j := range ids[i] {
			f := attach(t, p, "aws_eip")
			if err := f.apply(map[string]any{"domain": "vpc"}); err != nil {
				t.Fatal(err)
			}
			ids[i][j] = f.attribute("id")
		}
	}
	if ids[0] != ids[1] || ids[0][0] == ids[0][1] {
		t.Errorf("identifiers are %v", ids)
	}
}

func TestBehindTheBack(t *testing.T) {
	p := provider(t)
	f := attach(t, p, "aws_s3_bucket")
	if err := f.apply(map[string]any{"bucket": "b"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Change("aws_s3_bucket", "b", map[string]any{"force_destroy": true, "tags": map[string]any{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	f.refresh()
	if f.attribute("force_destroy") != true || f.attribute("tags").(map[string]any)["a"] != "b" {
		t.Errorf("the change is not seen: %v", plain(f.state))
	}
	for _, wrong := range []map[string]any{{"colour": "red"}, {"bucket": 7}} {
		if err := p.Change("aws_s3_bucket", "b", wrong); err == nil {
			t.Errorf("%v was accepted", wrong)
		}
	}
	if err := p.Delete("aws_s3_bucket", "b"); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete("aws_s3_bucket", "b"); err == nil {
		t.Error("deleted twice")
	}
	f.refresh()
	if !f.state.IsNull() {
		t.Errorf("it is still there: %v", plain(f.state))
	}
}

func TestImport(t *testing.T) {
	p := provider(t)
	id, err := p.Add("aws_vpc", "us-west-2", map[string]any{"cidr_block": "10.1.0.0/16"})
	if err != nil {
		t.Fatal(err)
	}
	f := attach(t, p, "aws_vpc")
	r, err := f.ImportResourceState(f.ctx, &tfprotov5.ImportResourceStateRequest{TypeName: "aws_vpc", ID: id})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.ImportedResources) != 1 {
		t.Fatalf("imported: %v", r)
	}
	f.state, f.key = f.unwire(r.ImportedResources[0].State), r.ImportedResources[0].Private
	f.refresh()
	if f.attribute("cidr_block") != "10.1.0.0/16" || f.attribute("id") != id {
		t.Errorf("imported: %v", plain(f.state))
	}
	if r, err := f.ImportResourceState(f.ctx, &tfprotov5.ImportResourceStateRequest{TypeName: "aws_vpc", ID: "vpc-1"}); err != nil || len(r.Diagnostics) != 1 {
		t.Errorf("import of what does not exist: %v, %v", r, err)
	}
}

func TestBefore(t *testing.T) {
	p := provider(t)
	f := attach(t, p, "aws_db_instance")
	p.Before(func(_ context.Context, o Operation) error {
		if o.Type == "aws_db_instance" && o.Attributes["identifier"] == "d" {
			return errors.New("InsufficientDBInstanceCapacity on " + o.Action)
		}
		return nil
	})
	if err := f.apply(map[string]any{"instance_class": "db.t4g.micro", "identifier": "d"}); err == nil || !strings.Contains(err.Error(), "InsufficientDBInstanceCapacity on create") {
		t.Errorf("error %v", err)
	}
	if !f.state.IsNull() || len(p.Objects("")) != 0 {
		t.Errorf("it was made: %v", plain(f.state))
	}
	p.Before(nil)
	if err := f.apply(map[string]any{"instance_class": "db.t4g.micro", "identifier": "d", "password_wo": "secret", "password_wo_version": 1}); err != nil {
		t.Fatal(err)
	}
	if f.attribute("password_wo") != nil {
		t.Error("a write-only attribute is in the state")
	}
	if endpoint := f.attribute("endpoint").(string); !strings.HasSuffix(endpoint, ".us-west-2.rds.amazonaws.com:5432") {
		t.Errorf("endpoint is %s", endpoint)
	}
}

// TestCertificate plans records for names that are known before the certificate is made.
func TestCertificate(t *testing.T) {
	f := attach(t, provider(t), "aws_acm_certificate")
	attributes := map[string]any{"domain_name": "a.example.com", "subject_alternative_names": []any{"a.example.com", "b.example.com"}}
	planned, _ := f.plan(attributes)
	var options []tftypes.Value
	if err := fields(planned)["domain_validation_options"].As(&options); err != nil || len(options) != 2 {
		t.Fatalf("planned: %v, %v", options, err)
	}
	for _, o := range options {
		if !fields(o)["domain_name"].IsKnown() || fields(o)["resource_record_name"].IsKnown() {
			t.Errorf("planned: %s", o)
		}
	}
	if err := f.apply(attributes); err != nil {
		t.Fatal(err)
	}
	records := map[any]bool{}
	for _, o := range blocks(f.attribute("domain_validation_options")) {
		records[o["resource_record_name"]] = true
	}
	if len(records) != 2 {
		t.Errorf("records: %v", records)
	}
}
