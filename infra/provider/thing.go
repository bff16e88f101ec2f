package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"golang.org/x/text/unicode/norm"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/plain"
)

// A thing is a resource of any kind.
type thing struct {
	*kind
	platform *platform
}

// Metadata implements resource.Resource.
func (x *thing) Metadata(_ context.Context, _ resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = x.typeName
}

// Configure implements resource.ResourceWithConfigure.
func (x *thing) Configure(_ context.Context, req resource.ConfigureRequest, _ *resource.ConfigureResponse) {
	x.platform = configured(req.ProviderData)
}

// Schema implements resource.Resource. Defaults are those of package resource.
func (x *thing) Schema(_ context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	defaults, err := x.defaults()
	if err != nil {
		resp.Diagnostics.AddError("The provider has a mistake", err.Error())
		return
	}
	resp.Schema = schema.Schema{
		Description: x.about,
		Attributes:  map[string]schema.Attribute{x.id.name: schema.StringAttribute{Required: true, Description: x.id.about + " Another one makes another " + x.Noun() + "."}},
	}
	for _, a := range x.attributes {
		raw, usual := defaults[a.member]
		usual = usual && !a.required
		if resp.Schema.Attributes[a.name], err = a.schema(raw, usual); err != nil {
			resp.Diagnostics.AddError("The provider has a mistake", a.name+": "+err.Error())
		}
	}
}

// schema is how Terraform sees an attribute. raw is its default, if there is one.
func (a attribute) schema(raw json.RawMessage, usual bool) (schema.Attribute, error) {
	var value attr.Value
	if usual {
		v, err := a.form.decode(raw)
		if err != nil {
			return nil, err
		}
		if value, err = a.form.attrType().ValueFromTerraform(context.Background(), v); err != nil {
			return nil, err
		}
	}
	optional := !a.required
	switch a.form {
	case flag:
		s := schema.BoolAttribute{Required: a.required, Optional: optional, Computed: usual, Description: a.about}
		if usual {
			s.Default = booldefault.StaticBool(value.(types.Bool).ValueBool())
		}
		return s, nil
	case number:
		return schema.Int64Attribute{Required: a.required, Optional: optional, Description: a.about}, nil
	case set:
		return schema.SetAttribute{ElementType: types.StringType, Optional: true, Computed: true, Default: setdefault.StaticValue(value.(types.Set)), Description: a.about}, nil
	case list:
		return schema.ListAttribute{ElementType: types.StringType, Optional: true, Computed: true, Default: listdefault.StaticValue(value.(types.List)), Description: a.about}, nil
	case bindings:
		return schema.ListNestedAttribute{
			Optional: true, Computed: true, Default: listdefault.StaticValue(value.(types.List)), Description: a.about,
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"exchange":            schema.StringAttribute{Required: true, Description: "Exchange of the messages, such as exchange/taskcluster-queue/v1/task-completed."},
				"routing_key_pattern": schema.StringAttribute{Required: true, Description: "Pattern of their routing keys; # is all."},
			}},
		}, nil
	}
	s := schema.StringAttribute{Required: a.required, Optional: optional, Computed: usual, Sensitive: a.secret, WriteOnly: a.writeOnly, Description: a.about}
	if usual {
		s.Default = stringdefault.StaticString(value.(types.String).ValueString())
	}
	return s, nil
}

// ValidateConfig implements resource.ResourceWithValidateConfig: it judges what is known.
func (x *thing) ValidateConfig(_ context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	config := attributesOf(req.Config.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if id := config[x.id.name]; id.IsKnown() && !id.IsNull() {
		if _, err := x.judgeName(textOf(id)); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root(x.id.name), "Invalid "+x.id.name, plain.Text(err.Error()))
		}
	}
	for _, a := range x.attributes {
		v := config[a.name]
		if v.IsNull() || !v.IsFullyKnown() {
			continue
		}
		if other := config[a.not]; a.not != "" && other.IsKnown() && !other.IsNull() {
			resp.Diagnostics.AddAttributeError(path.Root(a.name), "Invalid "+a.name, "There are both "+a.name+" and "+a.not+": leave one out.")
		}
		if a.version != "" && config[a.version].IsNull() {
			resp.Diagnostics.AddAttributeError(path.Root(a.name), "Invalid "+a.name, a.name+" needs "+a.version+", any number: when that changes, "+a.name+" is written again.")
		}
		if a.member == "" {
			continue
		}
		if _, err := x.judgeMember(a, v); err != nil {
			resp.Diagnostics.AddAttributeError(path.Root(a.name), "Invalid "+a.name, plain.Text(err.Error()))
		}
	}
}

// ModifyPlan implements resource.ResourceWithModifyPlan. What means the same as before is planned as it was before, and
// another name is another thing.
func (x *thing) ModifyPlan(_ context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.State.Raw.IsNull() || req.Plan.Raw.IsNull() {
		return // it is created, or destroyed
	}
	state, plan := attributesOf(req.State.Raw, &resp.Diagnostics), attributesOf(req.Plan.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	for _, a := range x.attributes {
		if a.member != "" && x.same(a, state[a.name], plan[a.name]) {
			plan[a.name] = state[a.name]
		}
	}
	if x.sameName(state[x.id.name], plan[x.id.name]) {
		plan[x.id.name] = state[x.id.name]
	} else {
		resp.RequiresReplace = append(resp.RequiresReplace, path.Root(x.id.name))
	}
	resp.Plan.Raw = tftypes.NewValue(req.Plan.Raw.Type(), plan)
}

func (x *thing) sameName(a, b tftypes.Value) bool {
	if !a.IsKnown() || !b.IsKnown() {
		return false
	}
	one, err := x.judgeName(textOf(a))
	other, err2 := x.judgeName(textOf(b))
	return err == nil && err2 == nil && one == other
}

// Create implements resource.Resource.
func (x *thing) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	c := x.platform.api(&resp.Diagnostics)
	name, doc := x.document(req.Plan.Raw, req.Config.Raw, nil, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	is, err := x.is(ctx, c, name, nil)
	if err == nil && is != nil {
		resp.Diagnostics.AddAttributeError(path.Root(x.id.name), plain.Text(fmt.Sprintf("The %s %s is there already", x.Noun(), name)),
			"It is left as it is. To have Terraform manage it, import it, by this, with the name that the resource has here:\n\n"+x.importBlock("NAME", name))
		return
	}
	if err != nil {
		x.failed("created", name, err, &resp.Diagnostics)
		return
	}
	// From here on whoever interrupts Terraform waits: of a call that is cut off nobody knows what it has done.
	ctx = context.WithoutCancel(ctx)
	if err := x.Kind.Create(ctx, c, name, doc); err != nil {
		if x.halfMade(ctx, c, name, err) {
			resp.State.Raw = req.Plan.Raw
			err = fmt.Errorf("%w\nSomething of it may be made. So it is in the state, as tainted: the next apply makes it anew", err)
		}
		x.failed("created", name, err, &resp.Diagnostics)
		return
	}
	resp.State.Raw = req.Plan.Raw
}

// halfMade tells whether a creation that failed has made something, which is lost if no state has it: a client that could not be
// disabled, or what a broken connection told nothing of. A conflict is somebody else's creation.
func (x *thing) halfMade(ctx context.Context, c *client.Client, name string, failed error) bool {
	if client.IsConflict(failed) {
		return false
	}
	is, err := x.is(ctx, c, name, nil)
	return is != nil || err != nil && !client.IsRefusal(failed)
}

// Read implements resource.Resource. What agrees with the state stays as it is spelled there.
func (x *thing) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	c := x.platform.api(&resp.Diagnostics)
	state := attributesOf(req.State.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	name := textOf(state[x.id.name])
	is, err := x.is(ctx, c, name, state)
	if err != nil {
		x.failed("read", name, err, &resp.Diagnostics)
		return
	}
	if is == nil {
		resp.State.RemoveResource(ctx)
		return
	}
	if err := x.take(is, state); err != nil {
		x.failed("read", name, err, &resp.Diagnostics)
		return
	}
	resp.State.Raw = tftypes.NewValue(req.State.Raw.Type(), state)
}

// Update implements resource.Resource.
func (x *thing) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	c := x.platform.api(&resp.Diagnostics)
	name, doc := x.document(req.Plan.Raw, req.Config.Raw, &req.State.Raw, &resp.Diagnostics)
	state := attributesOf(req.State.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if err := x.update(ctx, c, name, doc, state); err != nil {
		x.failed("changed", name, err, &resp.Diagnostics)
		return
	}
	resp.State.Raw = req.Plan.Raw
}

// update changes a thing that is as the state has it. What somebody else has made of it since the plan is left alone: nobody
// was shown what would become of that.
func (x *thing) update(ctx context.Context, c *client.Client, name string, doc json.RawMessage, state map[string]tftypes.Value) error {
	is, err := x.is(ctx, c, name, state)
	if err != nil {
		return err
	}
	if is == nil {
		return errGone
	}
	want, err := x.Complete(doc, is)
	if err != nil || bytes.Equal(is, want) {
		return err // by an apply that was not told that it had done it
	}
	now := maps.Clone(state)
	if err := x.take(is, now); err != nil {
		return err
	}
	for name := range now {
		if !now[name].Equal(state[name]) {
			return errChanged
		}
	}
	if err = x.Kind.Update(ctx, c, name, doc); client.IsNotFound(err) {
		err = errGone
	}
	return err
}

// Delete implements resource.Resource.
func (x *thing) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	c := x.platform.api(&resp.Diagnostics)
	state := attributesOf(req.State.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	name := textOf(state[x.id.name])
	if err := x.Kind.Delete(ctx, c, name); err != nil {
		x.failed("deleted", name, err, &resp.Diagnostics)
	}
}

// ImportState implements resource.ResourceWithImportState. Read does the rest.
func (x *thing) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	if _, err := x.judgeName(req.ID); err != nil {
		resp.Diagnostics.AddError("Not the id of a "+x.Noun(), plain.Text(err.Error()))
		return
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root(x.id.name), req.ID)...)
}

// document is what there should be, in its form. before is the state, nil if it is to be created.
func (x *thing) document(planned, configured tftypes.Value, before *tftypes.Value, diags *diag.Diagnostics) (name string, doc json.RawMessage) {
	plan, config := attributesOf(planned, diags), attributesOf(configured, diags)
	var state map[string]tftypes.Value
	if before != nil {
		state = attributesOf(*before, diags)
	}
	name = textOf(plan[x.id.name])
	all := map[string]json.RawMessage{}
	for _, a := range x.attributes {
		v := plan[a.name]
		if a.writeOnly {
			if before != nil && plan[a.version].Equal(state[a.version]) {
				continue
			}
			v = config[a.name]
		}
		if a.member == "" || v.IsNull() {
			continue
		}
		var err error
		if all[a.member], err = x.judgeMember(a, v); err != nil {
			diags.AddAttributeError(path.Root(a.name), "Invalid "+a.name, plain.Text(err.Error()))
		}
	}
	if diags.HasError() {
		return name, nil
	}
	_, doc, err := x.judge(name, all)
	if err != nil {
		diags.AddAttributeError(path.Root(x.id.name), "Invalid "+x.Noun(), plain.Text(err.Error()))
	}
	return name, doc
}

// is is the thing as it is, nil if it is not there. Where nothing is to be compared it is enough that it is listed, for which
// nobody has to be allowed to read it: that is so of secrets without a value.
func (x *thing) is(ctx context.Context, c *client.Client, name string, state map[string]tftypes.Value) (json.RawMessage, error) {
	defaults, err := x.defaults()
	if err != nil {
		return nil, err
	}
	listed := len(defaults) == 0
	for _, a := range x.attributes {
		listed = listed && (a.member == "" || state[a.name].IsNull())
	}
	if !listed {
		return x.Kind.Read(ctx, c, name)
	}
	canonical, err := x.judgeName(name)
	if err != nil {
		return nil, err
	}
	all, err := x.List(ctx, c)
	return all[canonical], err
}

// take puts what there is into a state. What the state does not speak of, and need not, is left out.
func (k *kind) take(is json.RawMessage, state map[string]tftypes.Value) error {
	defaults, err := k.defaults()
	if err != nil {
		return err
	}
	now, err := members(is)
	if err != nil {
		return err
	}
	for _, a := range k.attributes {
		_, usual := defaults[a.member]
		if a.member == "" || a.writeOnly || state[a.name].IsNull() && !usual {
			continue
		}
		if !state[a.name].IsNull() {
			// Terraform composes the characters of all text.
			if was, err := k.judgeMember(a, state[a.name]); err == nil && bytes.Equal(was, norm.NFC.Bytes(now[a.member])) {
				continue
			}
		}
		if state[a.name], err = a.form.decode(now[a.member]); err != nil {
			return fmt.Errorf("%s: the platform says what the provider does not understand", a.name)
		}
	}
	return nil
}

func (k *kind) failed(done, name string, err error, diags *diag.Diagnostics) {
	diags.AddError(plain.Text(fmt.Sprintf("The %s %s cannot be %s", k.Noun(), name, done)), plain.Text(err.Error()))
}

// attributesOf are those of a resource.
func attributesOf(raw tftypes.Value, diags *diag.Diagnostics) (all map[string]tftypes.Value) {
	if err := raw.As(&all); err != nil {
		diags.AddError("The provider has a mistake", "What Terraform sent is not of the provider's schema.")
	}
	return all
}

func textOf(v tftypes.Value) string {
	var s string
	if err := v.As(&s); err != nil {
		return ""
	}
	return s
}
