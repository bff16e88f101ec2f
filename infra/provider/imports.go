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
			id := hclwrite.TokensForValue(cty.StringVal(d.Name)).Bytes()
			if _, err := fmt.Fprintf(w, "import {\n  to = %s.%s\n  id = %s\n}\n\n", k.typeName, label, id); err != nil {
				return err
			}
		}
	}
	return nil
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
