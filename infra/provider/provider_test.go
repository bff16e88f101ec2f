package provider

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/taskfleet/taskfleet/client"
	platformresource "github.com/taskfleet/taskfleet/resource"
)

// What stands for a value that Terraform does not know yet, and for none.
const unknown, null = "\x00unknown", "\x00null"

// values are attributes of a resource as Terraform sends them, null where nothing is said.
func (x *thing) values(t *testing.T, said map[string]any) tftypes.Value {
	t.Helper()
	var schema resource.SchemaResponse
	x.Schema(t.Context(), resource.SchemaRequest{}, &schema)
	if schema.Diagnostics.HasError() {
		t.Fatal(schema.Diagnostics)
	}
	object := schema.Schema.Type().TerraformType(t.Context()).(tftypes.Object)
	all := map[string]tftypes.Value{}
	for name, of := range object.AttributeTypes {
		v := said[name]
		switch x := v.(type) {
		case string:
			if x == unknown {
				v = tftypes.UnknownValue
			}
		case []string:
			elements := []tftypes.Value{}
			for _, s := range x {
				var element any = s
				if s == null {
					element = nil
				}
				elements = append(elements, tftypes.NewValue(tftypes.String, element))
			}
			v = elements
		case []map[string]string:
			elements := []tftypes.Value{}
			for _, b := range x {
				elements = append(elements, tftypes.NewValue(bindingType, map[string]tftypes.Value{
					"exchange": tftypes.NewValue(tftypes.String, b["exchange"]), "routing_key_pattern": tftypes.NewValue(tftypes.String, b["routing_key_pattern"]),
				}))
			}
			v = elements
		}
		all[name] = tftypes.NewValue(of, v)
	}
	return tftypes.NewValue(object, all)
}

// of is values as a state, a plan or a configuration has them.
func (x *thing) of(t *testing.T, said map[string]any) tfsdk.State {
	t.Helper()
	var schema resource.SchemaResponse
	x.Schema(t.Context(), resource.SchemaRequest{}, &schema)
	return tfsdk.State{Raw: x.values(t, said), Schema: schema.Schema}
}

// at is where something is told.
func at(d diag.Diagnostic) string {
	if d, ok := d.(diag.DiagnosticWithPath); ok {
		return d.Path().String()
	}
	return ""
}

// A mistake is told where it is, while other attributes are not known yet.
func TestMistakesAreToldAtTheirAttribute(t *testing.T) {
	for _, test := range []struct {
		kind *kind
		said map[string]any
		want map[string]string // nothing: nothing is wrong
	}{
		{roles, map[string]any{"role_id": "", "scopes": []string{"\n"}, "description": strings.Repeat("x", 10241)},
			map[string]string{"role_id": "the id of a role has 1 to", "scopes": `scopes has "\n"; scopes are of printable`, "description": "description has 10241 bytes"}},
		{roles, map[string]any{"role_id": unknown, "scopes": unknown, "description": unknown}, nil},
		{clients, map[string]any{"client_id": "static/x", "expires": "tomorrow"}, map[string]string{"client_id": "are defined by the configuration", "expires": `"tomorrow" is not a time`}},
		{clients, map[string]any{"client_id": "a b", "expires": "2030-01-01T00:00:00+02:00", "disabled": true}, map[string]string{"client_id": "ids of clients match"}},
		{secrets, map[string]any{"name": "x", "value": "hunter2", "value_wo": "{}"}, map[string]string{"value": "not JSON", "value_wo": "value_wo needs value_wo_version, any number"}},
		{secrets, map[string]any{"name": "x", "value": "[\"hunter2\"]"}, map[string]string{"value": "the value of a secret must be a JSON object"}},
		{secrets, map[string]any{"name": "x", "value": "{} hunter2"}, map[string]string{"value": "not JSON, as byte 4 tells"}},
		{secrets, map[string]any{"name": "x", "value": "{}", "value_wo": "{}", "value_wo_version": 1}, map[string]string{"value": "leave one out"}},
		{secrets, map[string]any{"name": "x", "value": "{}", "value_wo": unknown}, nil}, // which may become null
		{secrets, map[string]any{"name": "x", "value": "null"}, map[string]string{"value": "value says nothing"}},
		{workerPools, map[string]any{"worker_pool_id": "x", "provider_id": "null-provider", "owner": "x", "config": "[]", "description": unknown},
			map[string]string{"worker_pool_id": "PROVISIONER/TYPE", "provider_id": `provider_id is "null-provider"`, "owner": `owner is "x"; it must be a mail address`, "config": "config must be a mapping"}},
		{hooks, map[string]any{"hook_id": "x", "name": "", "owner": unknown, "task": "{}", "schedule": []string{"0 0 3 * * *", "often"}, "trigger_schema": "1",
			"bindings": []map[string]string{{"exchange": "x"}}},
			map[string]string{"hook_id": "GROUP/HOOK", "name": "it has no name", "schedule": `schedule[1]: "often"`, "trigger_schema": "trigger_schema must be a mapping", "bindings": "bindings[0] needs both: exchange and routing_key_pattern"}},
		{roles, map[string]any{"role_id": "a", "scopes": []string{"b", null}}, map[string]string{"scopes": "element 2 is null"}},
		{denylist, map[string]any{"address": "nobody@example.com"}, map[string]string{"address": "TYPE/ADDRESS"}},
	} {
		x := &thing{kind: test.kind}
		var resp resource.ValidateConfigResponse
		x.ValidateConfig(t.Context(), resource.ValidateConfigRequest{Config: tfsdk.Config(x.of(t, test.said))}, &resp)
		told := map[string]string{}
		for _, d := range resp.Diagnostics {
			told[at(d)] += d.Detail()
		}
		if len(told) != len(test.want) {
			t.Errorf("of %s %v it is told %v", test.kind.typeName, test.said, told)
		}
		for name, part := range test.want {
			if !strings.Contains(told[name], part) || strings.Contains(told[name], "hunter2") {
				t.Errorf("of %s of %s it is told %q, want %q", name, test.kind.typeName, told[name], part)
			}
		}
	}
}

// The page has every resource, with all its attributes.
func TestDocumentationIsComplete(t *testing.T) {
	page, err := os.ReadFile("../../docs/terraform-provider.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		for _, a := range append([]attribute{{name: k.typeName}, k.id}, k.attributes...) {
			if !strings.Contains(string(page), "`"+a.name+"`") {
				t.Errorf("docs/terraform-provider.md lacks %s of %s", a.name, k.typeName)
			}
		}
	}
}

// Terraform's own rules for schemas hold, and everything is described.
func TestSchemaIsSound(t *testing.T) {
	server, err := providerserver.NewProtocol6WithError(New("test"))()
	if err != nil {
		t.Fatal(err)
	}
	all, err := server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil || len(all.Diagnostics) > 0 {
		t.Fatalf("%v %+v", err, all.Diagnostics)
	}
	if names := slices.Sorted(maps.Keys(all.ResourceSchemas)); len(names) != len(kinds) {
		t.Errorf("there are the resources %s", names)
	}
	schemas := []*tfprotov6.Schema{all.Provider}
	for _, of := range []map[string]*tfprotov6.Schema{all.ResourceSchemas, all.DataSourceSchemas, all.EphemeralResourceSchemas} {
		schemas = slices.AppendSeq(schemas, maps.Values(of))
	}
	for _, s := range schemas {
		for _, a := range s.Block.Attributes {
			if s.Block.Description == "" || a.Description == "" {
				t.Errorf("%s is not described", a.Name)
			}
		}
	}
}

func TestProviderIsConfiguredByArgumentsAndVariables(t *testing.T) {
	const certificate = `{"version": 1}`
	for _, test := range []struct {
		arguments, variables map[string]string
		want                 string // root URL, client id, access token and certificate, or where what is wrong is
	}{
		{nil, map[string]string{"ROOT_URL": "http://a", "CLIENT_ID": "c", "ACCESS_TOKEN": "t", "CERTIFICATE": certificate}, "http://a c t " + certificate},
		{map[string]string{"root_url": "http://b/", "client_id": "d"}, map[string]string{"ROOT_URL": "http://a", "CLIENT_ID": "c", "ACCESS_TOKEN": "t"}, "http://b d t "},
		{map[string]string{"client_id": "d", "access_token": "u"}, map[string]string{"ROOT_URL": "http://a", "CERTIFICATE": "x"}, "http://a d u "},
		{map[string]string{"root_url": "http://b"}, nil, "http://b   "},
		{nil, nil, "root_url"},
		{map[string]string{"root_url": "nowhere"}, nil, "root_url"},
		{map[string]string{"root_url": "http://b", "access_token": "u"}, nil, "client_id"},
		{map[string]string{"root_url": "http://b", "client_id": "d"}, nil, "access_token"},
		{map[string]string{"root_url": "http://b", "client_id": "d", "access_token": "u", "certificate": "{"}, nil, "certificate"},
		{map[string]string{"root_url": unknown}, map[string]string{"ROOT_URL": "http://a"}, "root_url is unknown"},
	} {
		for _, s := range settings {
			t.Setenv(s.variable, test.variables[strings.TrimPrefix(s.variable, "TASKCLUSTER_")])
		}
		p := New("test")
		var schema provider.SchemaResponse
		p.Schema(t.Context(), provider.SchemaRequest{}, &schema)
		of := schema.Schema.Type().TerraformType(t.Context())
		all := map[string]tftypes.Value{}
		for _, s := range settings {
			var v any
			if text, ok := test.arguments[s.name]; ok && text == unknown {
				v = tftypes.UnknownValue
			} else if ok {
				v = text
			}
			all[s.name] = tftypes.NewValue(tftypes.String, v)
		}
		var resp provider.ConfigureResponse
		p.Configure(t.Context(), provider.ConfigureRequest{Config: tfsdk.Config{Raw: tftypes.NewValue(of, all), Schema: schema.Schema}}, &resp)
		got := ""
		for _, d := range resp.Diagnostics {
			got += at(d)
		}
		if out := configured(resp.ResourceData); out.client != nil {
			with := out.client.Credentials()
			got = strings.Join([]string{out.client.RootURL(), with.ClientID, with.AccessToken, with.Certificate}, " ")
		} else if out.unknown != "" {
			got += out.unknown + " is unknown"
			var diags diag.Diagnostics
			if out.api(&diags) != nil || !strings.Contains(diags[0].Detail(), "-target") {
				t.Errorf("of a platform that is not known it is told %v", diags)
			}
		}
		if got != test.want {
			t.Errorf("%v and %v are %q, want %q", test.arguments, test.variables, got, test.want)
		}
	}
}

// answering is a platform that gives the answers, one after the other, and what is asked of it. Each is a status and a body; without one it is an error.
func answering(t *testing.T, answers ...string) (p *platform, asked func() string) {
	t.Helper()
	var calls []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method)
		if len(answers) < len(calls) {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		status, body, _ := strings.Cut(answers[len(calls)-1], " ")
		code, err := strconv.Atoi(status)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		w.Write([]byte(cmp.Or(body, `{"code": "Some", "message": "there is an \u001b[31merror"}`)))
	}))
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{RootURL: server.URL, Retry: client.Retry{For: -1}})
	if err != nil {
		t.Fatal(err)
	}
	return &platform{client: c}, func() string { return strings.Join(calls, " ") }
}

// What a creation that failed has made is in the state, so that the next one finds it. What others have made is not: it would
// be deleted.
func TestWhatIsHalfMadeIsInTheState(t *testing.T) {
	const made = `200 {"clientId": "a", "description": "", "scopes": [], "expires": "3000-01-01T00:00:00Z", "disabled": false}`
	for _, test := range []struct {
		answers []string
		asked   string
		kept    bool
	}{
		{[]string{"404", made, "403", made}, "GET PUT POST GET", true},
		{[]string{"404", made, "500", "500"}, "GET PUT POST GET", true},
		{[]string{"404", "500", "404"}, "GET PUT GET", false},
		{[]string{"404", "500", "500"}, "GET PUT GET", true},
		{[]string{"404", "403", "404"}, "GET PUT GET", false},
		{[]string{"404", "403", "500"}, "GET PUT GET", false},
		{[]string{"404", "409"}, "GET PUT", false},
		{[]string{"500"}, "GET", false},
	} {
		p, asked := answering(t, test.answers...)
		x := &thing{kind: clients, platform: p}
		plan := x.of(t, map[string]any{"client_id": "a", "description": "", "scopes": []string{}, "expires": "3000-01-01T00:00:00Z", "delete_on_expiration": false, "disabled": true})
		resp := resource.CreateResponse{State: tfsdk.State{Schema: plan.Schema, Raw: tftypes.NewValue(plan.Raw.Type(), nil)}}
		x.Create(t.Context(), resource.CreateRequest{Plan: tfsdk.Plan(plan), Config: tfsdk.Config(plan)}, &resp)
		d := resp.Diagnostics
		if asked() != test.asked || resp.State.Raw.IsNull() == test.kept || len(d) != 1 || strings.Contains(d[0].Detail(), "tainted") != test.kept || strings.Contains(d[0].Detail(), "\x1b") {
			t.Errorf("with %s it is asked for %s, told %v, and the state is %v", test.answers, asked(), d, resp.State.Raw)
		}
	}
}

// Who interrupts Terraform has what was begun ended, not cut off.
func TestCreationIsNotCutOff(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch calls.Add(1) {
		case 1:
			w.WriteHeader(http.StatusNotFound)
		case 2:
			interrupt()
		}
		w.Write([]byte(`{"code": "ResourceNotFound", "message": "there is none"}`))
	}))
	defer server.Close()
	c, err := client.New(client.Options{RootURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	x := &thing{kind: clients, platform: &platform{client: c}}
	plan := x.of(t, map[string]any{"client_id": "a", "disabled": true})
	resp := resource.CreateResponse{State: tfsdk.State{Schema: plan.Schema, Raw: tftypes.NewValue(plan.Raw.Type(), nil)}}
	x.Create(ctx, resource.CreateRequest{Plan: tfsdk.Plan(plan), Config: tfsdk.Config(plan)}, &resp)
	if resp.Diagnostics.HasError() || resp.State.Raw.IsNull() || calls.Load() != 3 {
		t.Errorf("after %d calls there are %v, and the state is %v", calls.Load(), resp.Diagnostics, resp.State.Raw)
	}
}

// What somebody has made of a thing since the plan is left alone; but what an apply has done whose answer was lost is no such.
func TestWhatIsChangedSinceThePlanIsLeftAlone(t *testing.T) {
	for description, want := range map[string]string{"before \u00e9": "GET POST", "before e\u0301": "GET POST", "after": "GET", "other": "GET and an error"} {
		is := fmt.Sprintf(`200 {"roleId": "a", "description": %q, "scopes": ["b", "c"]}`, description)
		p, asked := answering(t, is, is)
		x := &thing{kind: roles, platform: p}
		state := x.of(t, map[string]any{"role_id": "a", "description": "before \u00e9", "scopes": []string{"c", "b"}})
		plan := x.of(t, map[string]any{"role_id": "a", "description": "after", "scopes": []string{"c", "b"}})
		resp := resource.UpdateResponse{State: state}
		x.Update(t.Context(), resource.UpdateRequest{State: state, Plan: tfsdk.Plan(plan), Config: tfsdk.Config(plan)}, &resp)
		got, then := asked(), plan
		if d := resp.Diagnostics; d.HasError() && strings.Contains(d[0].Detail(), "changed it since the plan") {
			got, then = got+" and an error", state
		}
		if got != want || !resp.State.Raw.Equal(then.Raw) {
			t.Errorf("with %q there: %s, want %s; %v, and the state is %v", description, got, want, resp.Diagnostics, resp.State.Raw)
		}
	}
}

// Somebody was quicker: to delete what is not there is no error, to change it is one, and to read it makes it be forgotten.
func TestWhatIsGoneIsGone(t *testing.T) {
	p, _ := answering(t, "404", "404", "404")
	x := &thing{kind: roles, platform: p}
	state := x.of(t, map[string]any{"role_id": "a", "description": "", "scopes": []string{}})
	deleted := resource.DeleteResponse{State: state}
	x.Delete(t.Context(), resource.DeleteRequest{State: state}, &deleted)
	updated := resource.UpdateResponse{State: state}
	x.Update(t.Context(), resource.UpdateRequest{State: state, Plan: tfsdk.Plan(state), Config: tfsdk.Config(state)}, &updated)
	read := resource.ReadResponse{State: state}
	x.Read(t.Context(), resource.ReadRequest{State: state}, &read)
	if deleted.Diagnostics.HasError() || read.Diagnostics.HasError() || !read.State.Raw.IsNull() {
		t.Errorf("deleting it: %v; reading it: %v, and the state is %v", deleted.Diagnostics, read.Diagnostics, read.State.Raw)
	}
	if d := updated.Diagnostics; len(d) != 1 || !strings.Contains(d[0].Detail(), "Plan again") {
		t.Errorf("changing it: %v", d)
	}
	imported := resource.ImportStateResponse{State: state}
	x.ImportState(t.Context(), resource.ImportStateRequest{ID: ""}, &imported)
	if d := imported.Diagnostics; len(d) != 1 || !strings.Contains(d[0].Detail(), "the id of a role") {
		t.Errorf("importing it by a name that none can have: %v", d)
	}
}

// Nobody has to be allowed to read a secret that is only to be there.
func TestASecretWithoutValueIsNotRead(t *testing.T) {
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked += r.Method + " " + r.URL.Path + "\n"
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"secrets": ["a", "b"]}`))
	}))
	defer server.Close()
	c, err := client.New(client.Options{RootURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	x := &thing{kind: secrets, platform: &platform{client: c}}
	for name, there := range map[string]bool{"b": true, "c": false} {
		state := x.of(t, map[string]any{"name": name, "value_wo_version": 1})
		resp := resource.ReadResponse{State: state}
		x.Read(t.Context(), resource.ReadRequest{State: state}, &resp)
		if resp.Diagnostics.HasError() || resp.State.Raw.IsNull() == there {
			t.Errorf("%s: %v, and the state is %v", name, resp.Diagnostics, resp.State.Raw)
		}
	}
	if asked != strings.Repeat("GET /api/secrets/v1/secrets\n", 2) {
		t.Errorf("it was asked for\n%s", asked)
	}
}

// What agrees with the platform is left as it is spelled, so that a refresh tells of real changes alone.
func TestWhatAgreesStaysAsItIsSpelled(t *testing.T) {
	spelled := map[string]any{"worker_pool_id": "a/b", "provider_id": "local", "owner": "a@b", "description": "", "email_on_error": false, "config": `{"b": 1.0, "a": "\u003c"}`}
	for doc, config := range map[string]string{`{"a":"<","b":1}`: spelled["config"].(string), `{"a":"<","b":2}`: `{"a":"<","b":2}`} {
		var diags diag.Diagnostics
		x := &thing{kind: workerPools}
		state := attributesOf(x.values(t, spelled), &diags)
		if err := x.take([]byte(`{"providerId":"local","description":"","owner":"a@b","emailOnError":false,"config":`+doc+`}`), state); err != nil || textOf(state["config"]) != config {
			t.Errorf("with %s there, it is %s, want %s, %v", doc, textOf(state["config"]), config, err)
		}
	}
}

func TestImportBlocks(t *testing.T) {
	s := &platformresource.Set{}
	for _, name := range []string{"a/b", "a:b", "1 \"${x}\"", "*"} {
		if err := s.Add(platformresource.Roles, name, []byte("{}"), ""); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	if err := WriteImports(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"to = taskfleet_role.a_b\n  id = \"a/b\"", "to = taskfleet_role.a_b_2\n  id = \"a:b\"", `to = taskfleet_role._1____x` + "\n" + `  id = "1 \"$${x}\""`, "to = taskfleet_role._\n  id = \"*\""} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("there is no %s in\n%s", part, out.String())
		}
	}
}

// Values go to documents and back.
func TestFormsOfValues(t *testing.T) {
	for _, test := range []struct {
		form form
		raw  string
	}{
		{text, `"a<b"`}, {flag, `true`}, {set, `["a","b"]`}, {list, `["b","a"]`}, {list, `[]`}, {document, `{"a":[1,null]}`},
		{bindings, `[{"exchange":"x","routingKeyPattern":"#"}]`}, {bindings, `[]`},
	} {
		v, err := test.form.decode([]byte(test.raw))
		if err != nil {
			t.Fatal(err)
		}
		got, err := test.form.attrType().ValueFromTerraform(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.ToTerraformValue(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		back, err := test.form.encode(again)
		if err != nil || strings.ReplaceAll(string(back), `\u003c`, "<") != test.raw {
			t.Errorf("%s is %s, and that is %s, %v", test.raw, v, back, err)
		}
	}
}
