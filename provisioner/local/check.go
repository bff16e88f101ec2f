package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

var (
	poolFields      = []string{"capacityPerInstance", "lifecycle", "maxCapacity", "minCapacity", "scalingRatio", "schedule", "scopes", "secrets", "sizing", "workerConfig"}
	lifecycleFields = []string{"maxAge", "queueInactivityTimeout", "registrationTimeout", "reregistrationTimeout"}
)

// mostTasks is how many tasks a worker of ours runs at once; it would refuse to
// come up with more.
const mostTasks = 32

type poolConfig struct {
	CapacityPerInstance int64           `json:"capacityPerInstance"`
	WorkerConfig        json.RawMessage `json:"workerConfig"`
}

// Parse refuses what fleet.ParseSettings refuses, what workers would refuse, and
// fields that would have no effect, so that a misspelt one is found at once.
// schemas/config-local.yml says the same. Workers are made from all of the
// configuration but what only says how many there are.
func (p *Provider) Parse(config json.RawMessage) ([]*fleet.LaunchConfig, error) {
	settings, err := fleet.ParseSettings(config)
	if err != nil {
		return nil, err
	}
	c := poolConfig{CapacityPerInstance: 1}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fleet.Explain(err)
	}
	switch most := *settings.MaxCapacity; {
	case c.CapacityPerInstance < 1:
		return nil, fmt.Errorf("config.capacityPerInstance is %d; it must be at least 1", c.CapacityPerInstance)
	case c.CapacityPerInstance > mostTasks:
		return nil, fmt.Errorf("config.capacityPerInstance is %d; a worker on this machine runs at most %d tasks at once, so let there be more workers", c.CapacityPerInstance, mostTasks)
	case most > 0 && c.CapacityPerInstance > most:
		return nil, fmt.Errorf("config.capacityPerInstance is %d, more than config.maxCapacity, which is %d: not one worker could start", c.CapacityPerInstance, most)
	}
	told, err := c.tell()
	if err != nil {
		return nil, err
	}
	var pool, lifecycle map[string]json.RawMessage
	if err := json.Unmarshal(config, &pool); err != nil {
		return nil, err
	}
	if text, ok := pool["lifecycle"]; ok {
		if err := json.Unmarshal(text, &lifecycle); err != nil {
			return nil, err
		}
	}
	if err := known("config", pool, poolFields); err != nil {
		return nil, err
	}
	if err := known("config.lifecycle", lifecycle, lifecycleFields); err != nil {
		return nil, err
	}
	if n, ok := lifecycle["registrationTimeout"]; ok && string(n) == "0" {
		return nil, errors.New("config.lifecycle.registrationTimeout is 0; it must be at least 1 second")
	}
	for _, name := range []string{"minCapacity", "maxCapacity", "scalingRatio", "lifecycle", "sizing", "schedule", "scopes", "secrets"} {
		delete(pool, name)
	}
	id, err := fleet.NameLaunchConfig(pool)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(pool)
	return []*fleet.LaunchConfig{{ID: id, Config: text, WorkerConfig: told, Capacity: c.CapacityPerInstance}}, err
}

// tell is what workers are told: their configuration with the capacity that the
// pool counts for them, so that they run as many tasks. A pool that tells its
// workers another one would have too many or too few of them.
func (c poolConfig) tell() (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if text := bytes.TrimSpace(c.WorkerConfig); len(text) > 0 && string(text) != "null" {
		if text[0] != '{' {
			return nil, errors.New("config.workerConfig must be an object")
		}
		if err := json.Unmarshal(text, &fields); err != nil {
			return nil, err
		}
	}
	told, explicit := fields["capacity"]
	if !explicit {
		fields["capacity"] = strconv.AppendInt(nil, c.CapacityPerInstance, 10)
		return json.Marshal(fields)
	}
	var number *float64
	if err := json.Unmarshal(told, &number); err != nil || number == nil || *number != float64(c.CapacityPerInstance) {
		return nil, fmt.Errorf("config.workerConfig.capacity is %s, but config.capacityPerInstance is %d (1 if it is left out), which is what the pool counts for each worker; leave workerConfig.capacity out, workers are told capacityPerInstance", told, c.CapacityPerInstance)
	}
	return json.Marshal(fields)
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
