package stub

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-log/tfsdklog"
	"google.golang.org/grpc/stats"
)

// server answers terraform. All of terraform's provider blocks talk to the same one, each by a connection of its own.
type server struct {
	unsupported
	schemas *schemas
	account *account
}

// configuration is what matters of a provider block.
type configuration struct {
	region      string
	defaultTags map[string]string
}

// connections remembers the configuration with the connection that it came by.
type connections struct{}

type connectionKey struct{}

type connection struct {
	mu            sync.Mutex
	configuration configuration
}

// TagConn also keeps the protocol's log quiet, which terraform would sort out of the output of a provider that it had
// started itself.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	ctx = tfsdklog.ContextWithTestLogging(ctx, "stub")
	return context.WithValue(ctx, connectionKey{}, &connection{})
}
func (connections) HandleConn(context.Context, stats.ConnStats)                     {}
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (connections) HandleRPC(context.Context, stats.RPCStats)                       {}

func configured(ctx context.Context) configuration {
	c, ok := ctx.Value(connectionKey{}).(*connection)
	if !ok {
		return configuration{region: "us-east-1"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.configuration
}

func (s *server) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	r := &tfprotov5.GetMetadataResponse{ServerCapabilities: capabilities}
	for name := range s.schemas.resources {
		r.Resources = append(r.Resources, tfprotov5.ResourceMetadata{TypeName: name})
	}
	for name := range s.schemas.data {
		r.DataSources = append(r.DataSources, tfprotov5.DataSourceMetadata{TypeName: name})
	}
	return r, nil
}

// With this terraform asks for the schema once in a command, not once for each provider block.
var capabilities = &tfprotov5.ServerCapabilities{GetProviderSchemaOptional: true}

func (s *server) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	return &tfprotov5.GetProviderSchemaResponse{
		ServerCapabilities: capabilities,
		Provider:           s.schemas.provider, ResourceSchemas: s.schemas.resources, DataSourceSchemas: s.schemas.data,
	}, nil
}

func (s *server) GetResourceIdentitySchemas(context.Context, *tfprotov5.GetResourceIdentitySchemasRequest) (*tfprotov5.GetResourceIdentitySchemasResponse, error) {
	return &tfprotov5.GetResourceIdentitySchemasResponse{}, nil
}

func (s *server) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (s *server) ConfigureProvider(ctx context.Context, r *tfprotov5.ConfigureProviderRequest) (*tfprotov5.ConfigureProviderResponse, error) {
	v, err := r.Config.Unmarshal(s.schemas.provider.ValueType())
	if err != nil {
		return nil, err
	}
	arguments, _ := plain(v).(map[string]any)
	c := configuration{region: "us-east-1", defaultTags: map[string]string{}}
	if region, _ := arguments["region"].(string); region != "" {
		c.region = region
	}
	for _, block := range blocks(arguments["default_tags"]) {
		given, _ := block["tags"].(map[string]any)
		for k, v := range given {
			c.defaultTags[k], _ = v.(string)
		}
	}
	if at, ok := ctx.Value(connectionKey{}).(*connection); ok {
		at.mu.Lock()
		at.configuration = c
		at.mu.Unlock()
	}
	return &tfprotov5.ConfigureProviderResponse{}, nil
}

func (s *server) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func (s *server) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}

func (s *server) ValidateDataSourceConfig(context.Context, *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	return &tfprotov5.ValidateDataSourceConfigResponse{}, nil
}

func (s *server) UpgradeResourceState(_ context.Context, r *tfprotov5.UpgradeResourceStateRequest) (*tfprotov5.UpgradeResourceStateResponse, error) {
	schema, err := s.resource(r.TypeName)
	if err != nil {
		return nil, err
	}
	v, err := r.RawState.Unmarshal(schema.ValueType())
	if err != nil {
		return nil, err
	}
	state, err := dynamic(v)
	return &tfprotov5.UpgradeResourceStateResponse{UpgradedState: state}, err
}

func (s *server) ReadResource(_ context.Context, r *tfprotov5.ReadResourceRequest) (*tfprotov5.ReadResourceResponse, error) {
	schema, err := s.resource(r.TypeName)
	if err != nil {
		return nil, err
	}
	current, err := r.CurrentState.Unmarshal(schema.ValueType())
	if err != nil {
		return nil, err
	}
	state, err := dynamic(s.account.read(r.TypeName, string(r.Private), current))
	return &tfprotov5.ReadResourceResponse{NewState: state, Private: r.Private}, err
}

// read gives an object as it is now; null if it is gone. Of what another process has made it believes the state.
func (a *account) read(kind, key string, current tftypes.Value) tftypes.Value {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch o := a.objects[key]; {
	case o != nil:
		return o.value
	case a.gone[key]:
		return tftypes.NewValue(current.Type(), nil)
	}
	a.objects[key] = &object{key: key, kind: kind, value: current}
	return current
}

func (s *server) PlanResourceChange(ctx context.Context, r *tfprotov5.PlanResourceChangeRequest) (*tfprotov5.PlanResourceChangeResponse, error) {
	schema, err := s.resource(r.TypeName)
	if err != nil {
		return nil, err
	}
	t := schema.ValueType()
	proposed, err := r.ProposedNewState.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	prior, err := r.PriorState.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	response := &tfprotov5.PlanResourceChangeResponse{PlannedPrivate: r.PriorPrivate, UnsafeToUseLegacyTypeSystem: true}
	if proposed.IsNull() {
		response.PlannedState = r.ProposedNewState
		return response, nil
	}
	planned := unknowns(schema.Block, r.TypeName, proposed, configured(ctx))
	if !prior.IsNull() {
		before, after := fields(prior), fields(planned)
		for _, name := range append([]string{"region"}, replacing[r.TypeName]...) {
			if v, ok := after[name]; ok && !v.Equal(before[name]) {
				response.RequiresReplace = append(response.RequiresReplace, tftypes.NewAttributePath().WithAttributeName(name))
			}
		}
	}
	response.PlannedState, err = dynamic(planned)
	return response, err
}

// unknowns plans a resource: what it computes is not known, except for what follows from the configuration alone.
func unknowns(b *tfprotov5.SchemaBlock, kind string, proposed tftypes.Value, c configuration) tftypes.Value {
	top := fields(proposed)
	return fill(b, kind, proposed, func(path string, a *tfprotov5.SchemaAttribute, v tftypes.Value) tftypes.Value {
		switch {
		case a.WriteOnly:
			return tftypes.NewValue(a.Type, nil)
		case path == kind+".tags_all":
			return allTags(top["tags"], c)
		case !a.Computed || !v.IsNull():
			return v
		case path == kind+".region":
			return str(c.region)
		case path == "aws_acm_certificate.domain_validation_options":
			return validations(a.Type, top)
		}
		return tftypes.NewValue(a.Type, tftypes.UnknownValue)
	})
}

// allTags are those of a resource over those of the provider block.
func allTags(own tftypes.Value, c configuration) tftypes.Value {
	if !own.IsFullyKnown() {
		return tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, tftypes.UnknownValue)
	}
	all := map[string]string{}
	for k, v := range c.defaultTags {
		all[k] = v
	}
	for k, v := range fields(own) {
		all[k] = text(v)
	}
	return tags(all)
}

// validations are the records that prove that a certificate's names are ours. Which names they are for is known before,
// since configurations make a resource for each.
func validations(t tftypes.Type, certificate map[string]tftypes.Value) tftypes.Value {
	if !certificate["domain_name"].IsFullyKnown() || !certificate["subject_alternative_names"].IsFullyKnown() {
		return tftypes.NewValue(t, tftypes.UnknownValue)
	}
	names := []string{text(certificate["domain_name"])}
	for _, name := range texts(plain(certificate["subject_alternative_names"])) {
		if name != names[0] {
			names = append(names, name)
		}
	}
	var result []tftypes.Value
	for _, name := range names {
		option := map[string]tftypes.Value{}
		for field, ft := range element(t).(tftypes.Object).AttributeTypes {
			option[field] = tftypes.NewValue(ft, tftypes.UnknownValue)
		}
		option["domain_name"] = str(name)
		result = append(result, tftypes.NewValue(element(t), option))
	}
	return tftypes.NewValue(t, result)
}

func (s *server) ApplyResourceChange(ctx context.Context, r *tfprotov5.ApplyResourceChangeRequest) (*tfprotov5.ApplyResourceChangeResponse, error) {
	schema, err := s.resource(r.TypeName)
	if err != nil {
		return nil, err
	}
	t := schema.ValueType()
	planned, err := r.PlannedState.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	prior, err := r.PriorState.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	response := &tfprotov5.ApplyResourceChangeResponse{Private: r.PlannedPrivate, UnsafeToUseLegacyTypeSystem: true}
	fail := func(err error) (*tfprotov5.ApplyResourceChangeResponse, error) {
		response.NewState = r.PriorState
		response.Diagnostics = failure(fmt.Sprintf("%s: the change failed", r.TypeName), err)
		return response, nil
	}
	switch {
	case planned.IsNull():
		if err := s.account.about(ctx, r.TypeName, "delete", prior); err != nil {
			return fail(err)
		}
		s.account.delete(string(r.PlannedPrivate))
		response.NewState = r.PlannedState
		return response, nil
	case prior.IsNull():
		if err := s.account.about(ctx, r.TypeName, "create", planned); err != nil {
			return fail(err)
		}
		o, err := s.account.create(r.TypeName, planned, configured(ctx))
		if err != nil {
			return fail(err)
		}
		response.Private = []byte(o.key)
		response.NewState, err = dynamic(o.value)
		return response, err
	default:
		if err := s.account.about(ctx, r.TypeName, "update", planned); err != nil {
			return fail(err)
		}
		response.NewState, err = dynamic(s.account.update(r.TypeName, string(r.PlannedPrivate), planned, configured(ctx)))
		return response, err
	}
}

// delete removes what terraform destroys.
func (a *account) delete(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.objects[key]; o != nil {
		a.remove(o)
	}
}

// update makes an object what was planned.
func (a *account) update(kind, key string, planned tftypes.Value, c configuration) tftypes.Value {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[key]
	if o == nil {
		o = &object{key: key, kind: kind}
		a.objects[key] = o
	}
	if o.seed == "" {
		o.seed = fingerprint(kind, c.region, planned)
	}
	o.value = invent(a.schemas.resources[kind].Block, kind, o.seed, planned, c)
	return o.value
}

func (s *server) ImportResourceState(_ context.Context, r *tfprotov5.ImportResourceStateRequest) (*tfprotov5.ImportResourceStateResponse, error) {
	if _, err := s.resource(r.TypeName); err != nil {
		return nil, err
	}
	s.account.mu.Lock()
	defer s.account.mu.Unlock()
	o, err := s.account.find(r.TypeName, r.ID)
	if err != nil {
		return &tfprotov5.ImportResourceStateResponse{Diagnostics: failure("Cannot import what does not exist", err)}, nil
	}
	state, err := dynamic(o.value)
	return &tfprotov5.ImportResourceStateResponse{ImportedResources: []*tfprotov5.ImportedResource{
		{TypeName: r.TypeName, State: state, Private: []byte(o.key)},
	}}, err
}

func (s *server) ReadDataSource(ctx context.Context, r *tfprotov5.ReadDataSourceRequest) (*tfprotov5.ReadDataSourceResponse, error) {
	schema, ok := s.schemas.data[r.TypeName]
	if !ok {
		return nil, fmt.Errorf("there is no data source %q in types.txt", r.TypeName)
	}
	config, err := r.Config.Unmarshal(schema.ValueType())
	if err != nil {
		return nil, err
	}
	v, err := answer(schema.Block, r.TypeName, config, configured(ctx))
	if err != nil {
		return &tfprotov5.ReadDataSourceResponse{Diagnostics: failure(fmt.Sprintf("%s: invalid", r.TypeName), err)}, nil
	}
	state, err := dynamic(v)
	return &tfprotov5.ReadDataSourceResponse{State: state}, err
}

func (s *server) resource(name string) (*tfprotov5.Schema, error) {
	schema, ok := s.schemas.resources[name]
	if !ok {
		return nil, fmt.Errorf("there is no resource %q in types.txt", name)
	}
	return schema, nil
}

func dynamic(v tftypes.Value) (*tfprotov5.DynamicValue, error) {
	d, err := tfprotov5.NewDynamicValue(v.Type(), v)
	return &d, err
}

func failure(summary string, err error) []*tfprotov5.Diagnostic {
	return []*tfprotov5.Diagnostic{{Severity: tfprotov5.DiagnosticSeverityError, Summary: summary, Detail: err.Error()}}
}
