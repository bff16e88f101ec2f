package local

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner"
)

var (
	poolFields      = []string{"capacityPerInstance", "lifecycle", "maxCapacity", "minCapacity", "scalingRatio", "workerConfig"}
	lifecycleFields = []string{"registrationTimeout", "reregistrationTimeout"}
)

// Check refuses what provisioner.ParseConfig refuses, and fields that would
// have no effect, so that a misspelt one is found at once.
func (p *Provider) Check(config json.RawMessage) error {
	if _, err := provisioner.ParseConfig(config); err != nil {
		return err
	}
	var pool, lifecycle map[string]json.RawMessage
	if err := json.Unmarshal(config, &pool); err != nil {
		return err
	}
	if text, ok := pool["lifecycle"]; ok {
		if err := json.Unmarshal(text, &lifecycle); err != nil {
			return err
		}
	}
	if err := known("config", pool, poolFields); err != nil {
		return err
	}
	return known("config.lifecycle", lifecycle, lifecycleFields)
}

func known(where string, fields map[string]json.RawMessage, names []string) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s.%s means nothing to the local provider; %s may have %s", where, name, where, strings.Join(names, ", "))
		}
	}
	return nil
}
