package stub

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

func loaded(t *testing.T) *schemas {
	t.Helper()
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// schemaOf finds the schema of aws_x, or of data.aws_x.
func schemaOf(s *schemas, kind string) *tfprotov5.Schema {
	if name, data := strings.CutPrefix(kind, "data."); data {
		return s.data[name]
	}
	return s.resources[kind]
}

// TestTypes compares types.txt with what was extracted.
func TestTypes(t *testing.T) {
	s := loaded(t)
	f, err := os.Open("types.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		kind, _, _ := strings.Cut(lines.Text(), "#")
		if kind = strings.TrimSpace(kind); kind == "" {
			continue
		}
		n++
		if schemaOf(s, kind) == nil {
			t.Errorf("%s is in types.txt and not in schema.json.gz: run extract.mjs", kind)
		}
	}
	if have := len(s.resources) + len(s.data); n != have {
		t.Errorf("types.txt has %d types, schema.json.gz %d: run extract.mjs, and see that none is named twice", n, have)
	}
}

// TestKnown looks for all that the tables name in the schema, since a name that is wrong there would do nothing.
func TestKnown(t *testing.T) {
	s := loaded(t)
	exists := func(table, path string) {
		parts := strings.Split(strings.TrimPrefix(path, "data."), ".")
		if strings.HasPrefix(path, "data.") {
			parts[0] = "data." + parts[0]
		}
		schema := schemaOf(s, parts[0])
		if schema == nil {
			t.Errorf("%s: %s: no such type", table, path)
			return
		}
		var at tftypes.Type = schema.ValueType()
		for _, name := range parts[1:] {
			if at.Is(tftypes.List{}) || at.Is(tftypes.Set{}) {
				at = element(at)
			}
			object, _ := at.(tftypes.Object)
			if at = object.AttributeTypes[name]; at == nil {
				t.Errorf("%s: %s: no such attribute", table, path)
				return
			}
		}
	}
	for path := range sensitive {
		exists("sensitive", path)
	}
	for kind, names := range replacing {
		for _, name := range names {
			exists("replacing", kind+"."+name)
		}
	}
	for path := range templates {
		exists("templates", path)
	}
	for kind := range named {
		exists("named", kind)
	}
	for kind := range services {
		exists("services", kind)
	}
}

// TestInvent makes one of each type: everything is known then, and templates name attributes that there are.
func TestInvent(t *testing.T) {
	s := loaded(t)
	c := configuration{region: "eu-central-1", defaultTags: map[string]string{"Deployment": "test"}}
	for kind, schema := range s.resources {
		none, err := typed(schema.ValueType(), map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		made := invent(schema.Block, kind, "seed", unknowns(schema.Block, kind, none, c), c)
		if !made.IsFullyKnown() {
			t.Errorf("%s: not all is known: %s", kind, made)
		}
		if again := invent(schema.Block, kind, "seed", unknowns(schema.Block, kind, none, c), c); !made.Equal(again) {
			t.Errorf("%s: another time it is different", kind)
		}
		values := fields(made)
		if v, ok := values["tags_all"]; ok && !v.Equal(tags(c.defaultTags)) {
			t.Errorf("%s: tags_all is %s", kind, v)
		}
		if v, ok := values["region"]; ok && text(v) != c.region {
			t.Errorf("%s: region is %s", kind, v)
		}
		// Some are those of what the resource belongs to, which here is nothing.
		if arn := text(values["arn"]); !strings.HasPrefix(arn, "arn:aws:") && !strings.HasPrefix(templates[kind+".arn"], "{") && !values["arn"].IsNull() {
			t.Errorf("%s: arn is %q", kind, arn)
		}
	}
	for kind, schema := range s.data {
		none, err := typed(schema.ValueType(), map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		made, err := answer(schema.Block, kind, none, c)
		if err != nil {
			t.Errorf("data.%s: %v", kind, err)
		} else if !made.IsFullyKnown() {
			t.Errorf("data.%s: not all is known: %s", kind, made)
		}
	}
}
