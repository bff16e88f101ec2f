package provider

import (
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/taskfleet/taskfleet/resource"
)

// WriteImports writes an import block for each thing of a set. From those, terraform plan -generate-config-out writes the
// configuration of what a platform has.
func WriteImports(w io.Writer, s *resource.Set) error {
	for _, k := range kinds {
		taken := map[string]bool{}
		for _, d := range s.Only(k.Kind).Definitions {
			label := labelOf(d.Name)
			for n := 2; taken[label]; n++ {
				label = fmt.Sprintf("%s_%d", labelOf(d.Name), n)
			}
			taken[label] = true
			if _, err := io.WriteString(w, k.importBlock(label, d.Name)+"\n"); err != nil {
				return err
			}
		}
	}
	return nil
}

// importBlock is that of a thing, in HCL.
func (k *kind) importBlock(label, name string) string {
	id := hclwrite.TokensForValue(cty.StringVal(name)).Bytes()
	return fmt.Sprintf("import {\n  to = %s.%s\n  id = %s\n}\n", k.typeName, label, id)
}

// labelOf makes of a name what HCL takes as one.
func labelOf(name string) string {
	label := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name), "_")
	if label == "" || label[0] <= '9' {
		return "_" + label
	}
	return label
}
