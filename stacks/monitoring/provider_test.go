package monitoring

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	ptokens "github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"

	"github.com/taskfleet/taskfleet/stacks/provider"
)

// With the provider itself: made, no difference, read, none again, imported, deleted; and the secret of a
// token is a secret to Pulumi.
func TestThroughTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		var kinds []provider.Kind
		for _, k := range w.kinds {
			kinds = append(kinds, k)
		}
		prov, err := provider.New("1.0.0", kinds...)
		if err != nil {
			t.Fatal(err)
		}
		type made struct {
			urn           presource.URN
			inputs, state property.Map
		}
		var list []made
		for _, x := range all {
			var spec any
			if err := json.Unmarshal([]byte(x.spec), &spec); err != nil {
				t.Fatal(err)
			}
			value := presource.FromResourcePropertyValue(presource.NewPropertyValue(spec))
			urn := presource.NewURN("prod", "taskfleet-monitoring", "", ptokens.Type(x.token), x.name)
			checked, err := prov.Check(t.Context(), p.CheckRequest{Urn: urn, Inputs: property.NewMap(map[string]property.Value{"name": property.New(x.name), "spec": value})})
			if err != nil || len(checked.Failures) > 0 {
				t.Fatal(x.name, err, checked.Failures)
			}
			created, err := prov.Create(t.Context(), p.CreateRequest{Urn: urn, Properties: checked.Inputs})
			if err != nil || created.ID != x.name {
				t.Fatal(x.name, created.ID, err)
			}
			read, err := prov.Read(t.Context(), p.ReadRequest{ID: x.name, Urn: urn, Properties: created.Properties, Inputs: checked.Inputs})
			if err != nil {
				t.Fatal(err)
			}
			imported, err := prov.Read(t.Context(), p.ReadRequest{ID: x.name, Urn: urn})
			if err != nil || imported.ID != x.name {
				t.Fatal(x.name, imported.ID, err)
			}
			for how, is := range map[string]property.Map{"created": created.Properties, "read": read.Properties, "imported": imported.Properties} {
				diff, err := prov.Diff(t.Context(), p.DiffRequest{ID: x.name, Urn: urn, State: is, Inputs: checked.Inputs})
				if err != nil || diff.HasChanges {
					t.Errorf("%s, %s: %v, %v", x.name, how, diff.DetailedDiff, err)
				}
			}
			if x.token == TokenToken {
				if s := created.Properties.Get("computed").AsMap().Get("secret"); !s.Secret() || !strings.HasPrefix(s.AsString(), "secret-of") {
					t.Error("the secret of a token is no secret")
				}
			}
			list = append(list, made{urn, checked.Inputs, created.Properties})
		}
		for i, x := range slices.Backward(list) {
			if err := prov.Delete(t.Context(), p.DeleteRequest{ID: all[i].name, Urn: x.urn, Properties: x.state, OldInputs: x.inputs}); err != nil {
				t.Error(err)
			}
		}
		if got := w.count(); got != "0 0 0 0 0" {
			t.Errorf("there are %s left", got)
		}
	})
}
