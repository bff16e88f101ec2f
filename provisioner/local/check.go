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

// mostTasks is how many tasks a worker of ours runs at once; it would refuse to
// come up with more.
const mostTasks = 32

// Check refuses what provisioner.ParseConfig refuses, what workers would refuse,
// and fields that would have no effect, so that a misspelt one is found at once.
// schemas/config-local.yml says the same.
func (p *Provider) Check(config json.RawMessage) error {
	c, err := provisioner.ParseConfig(config)
	if err != nil {
		return err
	}
	if c.CapacityPerInstance > mostTasks {
		return fmt.Errorf("config.capacityPerInstance is %d; a worker on this machine runs at most %d tasks at once, so let there be more workers", c.CapacityPerInstance, mostTasks)
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
		switch {
		case !slices.Contains(names, name):
			return fmt.Errorf("%s.%s means nothing to the local provider; %s may have %s", where, name, where, strings.Join(names, ", "))
		case string(fields[name]) == "null":
			return fmt.Errorf("%s.%s is null; give it a value or leave it out", where, name)
		}
	}
	return nil
}
