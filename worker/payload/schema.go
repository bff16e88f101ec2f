package payload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/worker/schemas"
)

// maxReasons bounds how many faults are named; a payload of the wrong kind has
// one in every corner.
const maxReasons = 20

// schema is compiled once, and is part of the program: it compiles or the
// tests fail.
var schema = sync.OnceValue(func() *jsonschema.Schema {
	text, err := schemas.FS.ReadFile("payload.yml")
	if err != nil {
		panic(err)
	}
	asJSON, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		panic(fmt.Errorf("schema payload.yml: %w", err))
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		panic(fmt.Errorf("schema payload.yml: %w", err))
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	if err := c.AddResource("taskfleet:///schemas/worker/v1/payload.json", document); err != nil {
		panic(err)
	}
	return c.MustCompile("taskfleet:///schemas/worker/v1/payload.json")
})

// violations lists where a payload departs from the schema, and how.
func violations(raw json.RawMessage) []string {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return []string{err.Error()}
	}
	if object, ok := document.(map[string]any); ok && object["image"] != nil {
		return []string{"image: this worker runs commands on its machine itself and has no container engine; " +
			"give commands as a list of lists and leave the image out, or use a worker pool whose workers run containers"}
	}
	err = schema().Validate(document)
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		if err != nil {
			return []string{err.Error()}
		}
		return nil
	}
	reasons := leaves(invalid, nil)
	slices.Sort(reasons)
	reasons = slices.Compact(reasons)
	if n := len(reasons); n > maxReasons {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", n-maxReasons))
	}
	return reasons
}

var english = message.NewPrinter(language.English)

// leaves are the faults themselves; what is above them only says where they are.
func leaves(e *jsonschema.ValidationError, reasons []string) []string {
	for _, cause := range e.Causes {
		reasons = leaves(cause, reasons)
	}
	if len(e.Causes) > 0 {
		return reasons
	}
	place := strings.Join(e.InstanceLocation, "/")
	if place == "" {
		place = "payload"
	}
	return append(reasons, cut(place, 200)+": "+cut(e.ErrorKind.LocalizedString(english), 500))
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
