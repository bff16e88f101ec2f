package stub

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// The provider's schema in the form of `terraform providers schema -json`, made by extract.mjs.
//
//go:embed schema.json.gz
var compressed []byte

const address = "registry.terraform.io/hashicorp/aws"

type schemas struct {
	provider  *tfprotov5.Schema
	resources map[string]*tfprotov5.Schema
	data      map[string]*tfprotov5.Schema
}

type schemaJSON struct {
	Block blockJSON `json:"block"`
}

type blockJSON struct {
	Attributes map[string]struct {
		Type     json.RawMessage `json:"type"`
		Computed bool            `json:"computed"`
		Optional bool            `json:"optional"`
		Required bool            `json:"required"`
	} `json:"attributes"`
	BlockTypes map[string]struct {
		NestingMode string    `json:"nesting_mode"`
		Block       blockJSON `json:"block"`
		MinItems    int64     `json:"min_items"`
		MaxItems    int64     `json:"max_items"`
	} `json:"block_types"`
}

// load reads the embedded schema, once.
var load = sync.OnceValues(func() (*schemas, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("schema.json.gz: %w", err)
	}
	var document struct {
		Providers map[string]struct {
			Provider  schemaJSON            `json:"provider"`
			Resources map[string]schemaJSON `json:"resource_schemas"`
			Data      map[string]schemaJSON `json:"data_source_schemas"`
		} `json:"provider_schemas"`
	}
	if err := json.NewDecoder(unpacked).Decode(&document); err != nil {
		return nil, fmt.Errorf("schema.json.gz: %w", err)
	}
	aws, ok := document.Providers[address]
	if !ok {
		return nil, fmt.Errorf("schema.json.gz: no schema of %s", address)
	}
	result := &schemas{resources: map[string]*tfprotov5.Schema{}, data: map[string]*tfprotov5.Schema{}}
	if result.provider, err = aws.Provider.schema("provider"); err != nil {
		return nil, err
	}
	for name, s := range aws.Resources {
		if result.resources[name], err = s.schema(name); err != nil {
			return nil, err
		}
	}
	for name, s := range aws.Data {
		if result.data[name], err = s.schema("data." + name); err != nil {
			return nil, err
		}
	}
	return result, nil
})

func (s schemaJSON) schema(path string) (*tfprotov5.Schema, error) {
	block, err := s.Block.schema(path)
	return &tfprotov5.Schema{Block: block}, err
}

func (b blockJSON) schema(path string) (*tfprotov5.SchemaBlock, error) {
	block := &tfprotov5.SchemaBlock{}
	for _, name := range slices.Sorted(maps.Keys(b.Attributes)) {
		a := b.Attributes[name]
		// It is deprecated for whoever is not the protocol itself, but there is no other way to read a type.
		t, err := tftypes.ParseJSONType(a.Type) //nolint:staticcheck
		if err != nil {
			return nil, fmt.Errorf("schema.json.gz: %s.%s: %w", path, name, err)
		}
		attribute := &tfprotov5.SchemaAttribute{
			Name: name, Type: t, Computed: a.Computed, Optional: a.Optional, Required: a.Required,
			Sensitive: sensitive[path+"."+name], WriteOnly: writeOnly(b, name),
		}
		attribute.Sensitive = attribute.Sensitive || attribute.WriteOnly
		block.Attributes = append(block.Attributes, attribute)
	}
	for _, name := range slices.Sorted(maps.Keys(b.BlockTypes)) {
		n := b.BlockTypes[name]
		inner, err := n.Block.schema(path + "." + name)
		if err != nil {
			return nil, err
		}
		nested := &tfprotov5.SchemaNestedBlock{TypeName: name, Block: inner, MinItems: n.MinItems, MaxItems: n.MaxItems}
		switch n.NestingMode {
		case "single":
			nested.Nesting = tfprotov5.SchemaNestedBlockNestingModeSingle
		case "list":
			nested.Nesting = tfprotov5.SchemaNestedBlockNestingModeList
		case "set":
			nested.Nesting = tfprotov5.SchemaNestedBlockNestingModeSet
		default:
			return nil, fmt.Errorf("schema.json.gz: %s.%s: nesting mode %q", path, name, n.NestingMode)
		}
		block.BlockTypes = append(block.BlockTypes, nested)
	}
	return block, nil
}

// writeOnly tells whether nothing of an attribute is kept. The provider names all of these alike, and gives each an
// attribute with a version, by which a new value is noticed.
func writeOnly(b blockJSON, name string) bool {
	_, versioned := b.Attributes[name+"_version"]
	return versioned && strings.HasSuffix(name, "_wo")
}
