package provider

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	ephemeralschema "github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/taskfleet/taskfleet/plain"
)

// A source is a thing of a kind that somebody else has made. It has no lists but sets.
type source struct {
	*kind
	platform *platform
}

// Metadata implements datasource.DataSource.
func (x *source) Metadata(_ context.Context, _ datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = x.typeName
}

// Configure implements datasource.DataSourceWithConfigure.
func (x *source) Configure(_ context.Context, req datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	x.platform = configured(req.ProviderData)
}

// Schema implements datasource.DataSource.
func (x *source) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		Description: "As the resource, for what is there already. " + x.about,
		Attributes:  map[string]schema.Attribute{x.id.name: schema.StringAttribute{Required: true, Description: x.id.about}},
	}
	for _, a := range x.attributes {
		switch a.form {
		case flag:
			resp.Schema.Attributes[a.name] = schema.BoolAttribute{Computed: true, Description: a.about}
		case set:
			resp.Schema.Attributes[a.name] = schema.SetAttribute{ElementType: types.StringType, Computed: true, Description: a.about}
		default:
			resp.Schema.Attributes[a.name] = schema.StringAttribute{Computed: true, Description: a.about}
		}
	}
}

// Read implements datasource.DataSource.
func (x *source) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	c := x.platform.api(&resp.Diagnostics)
	out := attributesOf(req.Config.Raw, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	name := textOf(out[x.id.name])
	is, err := x.Kind.Read(ctx, c, name)
	if err == nil && is == nil {
		resp.Diagnostics.AddAttributeError(path.Root(x.id.name), plain.Text("There is no "+x.Noun()+" "+name), "Correct the name, or have it made before it is read.")
		return
	}
	if err == nil {
		err = x.take(is, out)
	}
	if err != nil {
		x.failed("read", name, err, &resp.Diagnostics)
		return
	}
	resp.State.Raw = tftypes.NewValue(req.Config.Raw.Type(), out)
}

// A secretValue is the value of a secret while Terraform runs: it is in no plan and no state.
type secretValue struct{ platform *platform }

// Metadata implements ephemeral.EphemeralResource.
func (x *secretValue) Metadata(_ context.Context, _ ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = secrets.typeName
}

// Configure implements ephemeral.EphemeralResourceWithConfigure.
func (x *secretValue) Configure(_ context.Context, req ephemeral.ConfigureRequest, _ *ephemeral.ConfigureResponse) {
	x.platform = configured(req.ProviderData)
}

// Schema implements ephemeral.EphemeralResource.
func (x *secretValue) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = ephemeralschema.Schema{
		Description: "The value of a secret, read each time that Terraform runs, and kept in no plan and no state.",
		Attributes: map[string]ephemeralschema.Attribute{
			"name":  ephemeralschema.StringAttribute{Required: true, Description: secrets.id.about},
			"value": ephemeralschema.StringAttribute{Computed: true, Sensitive: true, Description: "The value, a JSON object: jsondecode takes it apart."},
		},
	}
}

// Open implements ephemeral.EphemeralResource.
func (x *secretValue) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	c := x.platform.api(&resp.Diagnostics)
	var name types.String
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("name"), &name)...)
	if resp.Diagnostics.HasError() {
		return
	}
	is, err := secrets.Read(ctx, c, name.ValueString())
	var now map[string]json.RawMessage
	if err == nil && is != nil {
		now, err = members(is)
	}
	switch {
	case err != nil:
		secrets.failed("read", name.ValueString(), err, &resp.Diagnostics)
	case is == nil:
		resp.Diagnostics.AddAttributeError(path.Root("name"), plain.Text("There is no secret "+name.ValueString()), "Correct the name, or have it made before it is read.")
	default:
		resp.Diagnostics.Append(resp.Result.SetAttribute(ctx, path.Root("value"), string(now["value"]))...)
	}
}
