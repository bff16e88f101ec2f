package provisioner

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Every message fits the schema of its exchange, and its key has the elements
// that the reference says.
func TestMessagesAreAsDeclared(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db)
		play(t, s, "testdata/stories/events.txt")
		list, err := s.bus.Read(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		compiler := compiled(t)
		seen := map[string]bool{}
		for _, m := range list {
			for _, x := range API.Exchanges {
				if m.Exchange == event.Topic(API.Name, API.Version, x) {
					seen[x.Name] = true
					checkMessage(t, compiler, x, m)
				}
			}
		}
		if len(seen) != len(API.Exchanges) {
			t.Errorf("messages on %d of %d exchanges: %v", len(seen), len(API.Exchanges), seen)
		}
	})
}

const schemaBase = "test:///"

func compiled(t *testing.T) *jsonschema.Compiler {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	files, err := fs.Glob(schemaFiles, "schemas/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := schemaFiles.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		asJSON, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(f, "schemas/"), ".yml") + ".json"
		if err := c.AddResource(schemaBase+name, doc); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func checkMessage(t *testing.T, c *jsonschema.Compiler, x api.Exchange, m event.Message) {
	t.Helper()
	schema, err := c.Compile(schemaBase + strings.TrimPrefix(x.Schema, "v1/"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Payload))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(doc); err != nil {
		t.Errorf("%s: %v\n%s", x.Name, err, m.Payload)
	}
	key := strings.Split(m.RoutingKey, ".")
	if len(key) != len(x.RoutingKey) {
		t.Errorf("%s: the key %s has %d elements, want %d", x.Name, m.RoutingKey, len(key), len(x.RoutingKey))
		return
	}
	for i, k := range x.RoutingKey {
		if k.Required && key[i] == "_" || k.Constant != "" && key[i] != k.Constant {
			t.Errorf("%s: %s in the key %s", x.Name, k.Name, m.RoutingKey)
		}
	}
}
