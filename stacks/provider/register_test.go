package provider

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// engine is what programs talk to: it remembers the inputs, and answers with them and a URL.
type engine struct {
	mu     sync.Mutex
	inputs map[string]string
	t      *testing.T
}

func (*engine) Call(pulumi.MockCallArgs) (presource.PropertyMap, error) { return nil, nil }

func (e *engine) NewResource(a pulumi.MockResourceArgs) (string, presource.PropertyMap, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in := presource.FromResourcePropertyMap(a.Inputs)
	e.inputs[a.Name] = a.TypeToken + " " + text(e.t, plain(property.New(in)))
	out := in.Set("computed", property.New(map[string]property.Value{"url": property.New("https://boxes/" + a.Name)}))
	return a.Inputs["name"].StringValue(), presource.ToResourcePropertyMap(out), nil
}

func TestProgramsRegister(t *testing.T) {
	e := &engine{inputs: map[string]string{}, t: t}
	err := pulumi.RunErr(func(ctx *pulumi.Context) error {
		first, err := Register(ctx, boxToken, "first", "a", json.RawMessage(`{"size": 1, "none": null, "list": [null, {"a": null}], "text": "x", "yes": true}`))
		if err != nil {
			return err
		}
		if _, err := Register(ctx, boxToken, "second", "b", pulumi.Map{
			"of":    first.Computed.MapIndex(pulumi.String("url")),
			"token": pulumi.ToSecret(pulumi.String("hunter2")),
		}); err != nil {
			return err
		}
		_, err = Register(ctx, boxToken, "third", "c", box{Size: 3})
		for spec, want := range map[string]string{
			`{"config": {"big": 9007199254740993}}`: "taskfleet:test:Box bad: spec.config.big: is a number that Pulumi",
			`[1]`:                                   "its spec must be an object",
		} {
			if _, err := Register(ctx, boxToken, "bad", "d", json.RawMessage(spec)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error of %s is %v", spec, err)
			}
		}
		if _, err := Register(ctx, boxToken, "bad", "d", json.RawMessage(`{`)); err == nil {
			t.Error("what is no JSON is registered")
		}
		return err
	}, pulumi.WithMocks("project", "stack", e))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the first", e.inputs["first"], boxToken+` {"name":"a","spec":{"list":[null,{"a":null}],"none":null,"size":1,"text":"x","yes":true}}`)
	expect(t, "the second", e.inputs["second"], boxToken+` {"name":"b","spec":{"of":"https://boxes/first","token":"<\"hunter2\">"}}`)
	expect(t, "the third", e.inputs["third"], boxToken+` {"name":"c","spec":{"color":"","size":3,"tags":null}}`)
}
