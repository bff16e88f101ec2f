// Package provider is the Terraform provider taskfleet: roles, clients, secrets, worker pools, hooks and denylist addresses of
// a platform, for those who describe these in HCL.
//
// Nothing here knows how a thing is read, written or checked, or what its defaults are: that is package resource. This package
// says which attributes there are (kinds.go), and turns their values into members of documents and back (values.go). All
// resources are one type, thing (thing.go), over a resource.Kind. So a thing is the same whether it comes from Terraform,
// from Pulumi or from YAML, and what is wrong with it is told in the same words.
//
// An attribute is judged by itself: its value in an otherwise empty document. So a mistake is told at its attribute, also
// while others are not known yet. By the same way two values are compared: they are the same if their documents are. JSON that is
// spelled otherwise, a date in another zone and a mail address in capitals are no change then: what was there before is planned.
//
// Creation looks first whether the thing is there: what somebody else has made is not taken over, but imported, as is Terraform's
// way. A change looks first whether the thing is as the plan was made from. A creation that fails but may have made something
// leaves it in the state, tainted: the next one would only find it there.
//
// What may be left out on purpose (a client's disabled, a secret's value) is in the state only if it is said, so that nobody has
// to be allowed to read it, and no state has a secret that nobody has put there.
package provider

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// Address is where Terraform knows the provider from.
const Address = "registry.terraform.io/taskfleet/taskfleet"

// Serve serves the provider to the terraform that has started the process, until that ends. With debug it waits for one to be
// told of it, and prints what to tell.
func Serve(ctx context.Context, version string, debug bool) error {
	return providerserver.Serve(ctx, func() provider.Provider { return New(version) }, providerserver.ServeOpts{Address: Address, Debug: debug})
}

// New returns the provider.
func New(version string) provider.Provider { return &taskfleet{version} }

type taskfleet struct{ version string }

// A platform is what Terraform's configuration says of it.
type platform struct {
	client  *client.Client // nil: not known yet
	unknown string         // the argument that is the reason
}

// settings are the arguments of the provider block, each with the variable that is read where there is none.
var settings = []struct {
	name, variable, about string
	secret                bool
}{
	{"root_url", "TASKCLUSTER_ROOT_URL", "URL of the platform, such as https://taskfleet.example.com.", false},
	{"client_id", "TASKCLUSTER_CLIENT_ID", "Client to act as. Without one, calls are not signed.", false},
	{"access_token", "TASKCLUSTER_ACCESS_TOKEN", "Access token of the client. It is in no state, and may be ephemeral.", true},
	{"certificate", "TASKCLUSTER_CERTIFICATE", "Certificate of temporary credentials, in JSON. Where access_token is set here, the variable is not read.", true},
}

// Metadata implements provider.Provider.
func (p *taskfleet) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName, resp.Version = "taskfleet", p.version
}

// Schema implements provider.Provider.
func (p *taskfleet) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		Description: "What a Taskfleet platform has: roles, clients, secrets, worker pools, hooks and denylist addresses.",
		Attributes:  map[string]schema.Attribute{},
	}
	for _, s := range settings {
		resp.Schema.Attributes[s.name] = schema.StringAttribute{Optional: true, Sensitive: s.secret, Description: s.about + " The variable " + s.variable + " is read where it is not set."}
	}
}

// Configure implements provider.Provider. It calls nobody: what is planned to be created needs no platform.
func (p *taskfleet) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	out := &platform{}
	resp.ResourceData, resp.DataSourceData, resp.EphemeralResourceData = out, out, out
	value := map[string]string{}
	for _, s := range settings {
		var v types.String
		resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root(s.name), &v)...)
		if v.IsUnknown() {
			out.unknown = s.name
		}
		value[s.name] = v.ValueString()
	}
	if resp.Diagnostics.HasError() || out.unknown != "" {
		return
	}
	hasToken := value["access_token"] != ""
	for _, s := range settings {
		// A certificate belongs to a token, so it comes from where that comes from.
		if s.name != "certificate" || !hasToken {
			value[s.name] = cmp.Or(value[s.name], os.Getenv(s.variable))
		}
	}
	wrong := func(name, detail string) {
		resp.Diagnostics.AddAttributeError(path.Root(name), "The provider is not configured", detail)
	}
	switch with := (cred.Credentials{ClientID: value["client_id"], AccessToken: value["access_token"], Certificate: value["certificate"]}); {
	case value["root_url"] == "":
		wrong("root_url", "root_url is not set, and neither is TASKCLUSTER_ROOT_URL. Set one to the URL of the platform, such as https://taskfleet.example.com.")
	case with.ClientID == "" && (with.AccessToken != "" || with.Certificate != ""):
		wrong("client_id", "There is an access token or a certificate, but no client_id, and no TASKCLUSTER_CLIENT_ID. Set one.")
	case with.ClientID != "" && with.AccessToken == "":
		wrong("access_token", "There is a client_id, but no access_token, and no TASKCLUSTER_ACCESS_TOKEN. Set one; the variable leaves it out of files.")
	default:
		c, err := client.New(client.Options{RootURL: value["root_url"], Credentials: with})
		if err != nil {
			wrong("root_url", strings.TrimPrefix(err.Error(), "client: "))
			return
		}
		if _, err := cred.NewSigner(with, nil); err != nil {
			wrong("certificate", err.Error())
			return
		}
		out.client = c
	}
}

// Resources implements provider.Provider.
func (p *taskfleet) Resources(context.Context) (all []func() resource.Resource) {
	for _, k := range kinds {
		all = append(all, func() resource.Resource { return &thing{kind: k} })
	}
	return all
}

// DataSources implements provider.Provider.
func (p *taskfleet) DataSources(context.Context) (all []func() datasource.DataSource) {
	for _, k := range []*kind{roles, workerPools} {
		all = append(all, func() datasource.DataSource { return &source{kind: k} })
	}
	return all
}

// EphemeralResources implements provider.ProviderWithEphemeralResources.
func (p *taskfleet) EphemeralResources(context.Context) []func() ephemeral.EphemeralResource {
	return []func() ephemeral.EphemeralResource{func() ephemeral.EphemeralResource { return &secretValue{} }}
}

// configured is what Configure has made. It is nil while Terraform only validates.
func configured(data any) *platform {
	p, _ := data.(*platform)
	return p
}

// api is the client. Without one diags says why.
func (p *platform) api(diags *diag.Diagnostics) *client.Client {
	switch {
	case p == nil:
		diags.AddError("The provider is not configured", "Terraform has not configured it before this call; this is a mistake in Terraform or in the provider.")
		return nil
	case p.client == nil:
		diags.AddError("The platform is not known yet", "The provider's "+p.unknown+" comes from what is not made yet. Make that first: "+
			"terraform apply -target=..., or a configuration of its own.")
	}
	return p.client
}

var (
	errGone    = errors.New("it is not there any more: somebody has deleted it since the plan. Plan again")
	errChanged = errors.New("somebody has changed it since the plan, so it was left as it is. Plan again, and look at the difference")
)
