package provisioner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"
)

// PoolConfig is what pools of every provider have in their configuration.
type PoolConfig struct {
	MinCapacity         int64           `json:"minCapacity"`
	MaxCapacity         *int64          `json:"maxCapacity"`
	ScalingRatio        float64         `json:"scalingRatio"`
	CapacityPerInstance int64           `json:"capacityPerInstance"`
	WorkerConfig        json.RawMessage `json:"workerConfig"` // as workers get it: with their capacity
	Lifecycle           Lifecycle       `json:"lifecycle"`
}

// Lifecycle says how many seconds a worker may take over things.
type Lifecycle struct {
	RegistrationTimeout   int64 `json:"registrationTimeout"`
	ReregistrationTimeout int64 `json:"reregistrationTimeout"`
}

const (
	defaultRegistrationTimeout   = 10 * time.Minute
	defaultReregistrationTimeout = 96 * time.Hour
	longestReregistrationTimeout = 30 * 24 * time.Hour // credentials last 31 days at most
)

// ParseConfig reads a pool's configuration, with defaults, and says what is
// wrong with it. Fields that it does not know are the provider's affair.
func ParseConfig(raw json.RawMessage) (PoolConfig, error) {
	c := PoolConfig{ScalingRatio: 1, CapacityPerInstance: 1, Lifecycle: Lifecycle{
		RegistrationTimeout:   int64(defaultRegistrationTimeout / time.Second),
		ReregistrationTimeout: int64(defaultReregistrationTimeout / time.Second),
	}}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, explain(err)
	}
	c.WorkerConfig = bytes.TrimSpace(c.WorkerConfig)
	if len(c.WorkerConfig) == 0 || string(c.WorkerConfig) == "null" {
		c.WorkerConfig = json.RawMessage("{}")
	}
	l := &c.Lifecycle
	switch {
	case c.MaxCapacity == nil:
		return c, errors.New("config.maxCapacity is missing; say how many tasks the pool may run at once")
	case *c.MaxCapacity < 0:
		return c, fmt.Errorf("config.maxCapacity is %d; it must not be negative", *c.MaxCapacity)
	case c.MinCapacity < 0:
		return c, fmt.Errorf("config.minCapacity is %d; it must not be negative", c.MinCapacity)
	case c.MinCapacity > *c.MaxCapacity:
		return c, fmt.Errorf("config.minCapacity is %d, more than config.maxCapacity, which is %d; lower the one or raise the other", c.MinCapacity, *c.MaxCapacity)
	case c.ScalingRatio < 0 || c.ScalingRatio > 1:
		return c, fmt.Errorf("config.scalingRatio is %g; it must be from 0 to 1", c.ScalingRatio)
	case c.CapacityPerInstance < 1:
		return c, fmt.Errorf("config.capacityPerInstance is %d; it must be at least 1", c.CapacityPerInstance)
	case *c.MaxCapacity > 0 && c.CapacityPerInstance > *c.MaxCapacity:
		return c, fmt.Errorf("config.capacityPerInstance is %d, more than config.maxCapacity, which is %d: not one worker could start", c.CapacityPerInstance, *c.MaxCapacity)
	case c.WorkerConfig[0] != '{':
		return c, errors.New("config.workerConfig must be an object")
	case l.RegistrationTimeout < 1:
		return c, fmt.Errorf("config.lifecycle.registrationTimeout is %d; it must be at least 1 second", l.RegistrationTimeout)
	case l.ReregistrationTimeout < 1 || seconds(l.ReregistrationTimeout) > longestReregistrationTimeout:
		return c, fmt.Errorf("config.lifecycle.reregistrationTimeout is %d; it must be from 1 to %d seconds", l.ReregistrationTimeout, longestReregistrationTimeout/time.Second)
	}
	return c, c.tellCapacity()
}

// tellCapacity puts the capacity that the pool counts for a worker into what
// the worker is told, so that it runs as many tasks. A pool that tells its
// workers another one would have too many or too few of them.
func (c *PoolConfig) tellCapacity() error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.WorkerConfig, &fields); err != nil {
		return err
	}
	told, explicit := fields["capacity"]
	if !explicit {
		fields["capacity"] = strconv.AppendInt(nil, c.CapacityPerInstance, 10)
		var err error
		c.WorkerConfig, err = json.Marshal(fields)
		return err
	}
	var number *float64
	if err := json.Unmarshal(told, &number); err != nil || number == nil || *number != float64(c.CapacityPerInstance) {
		return fmt.Errorf("config.workerConfig.capacity is %s, but config.capacityPerInstance is %d (1 if it is left out), which is what the pool counts for each worker; leave workerConfig.capacity out, workers are told capacityPerInstance", told, c.CapacityPerInstance)
	}
	return nil
}

func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(n, most)) * time.Second
}

func (c PoolConfig) registrationTimeout() time.Duration {
	return seconds(c.Lifecycle.RegistrationTimeout)
}

func (c PoolConfig) reregistrationTimeout() time.Duration {
	return seconds(c.Lifecycle.ReregistrationTimeout)
}

// explain says which field of a configuration has the wrong type.
func explain(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("config.%s is a JSON %s, where a %s is needed", e.Field, e.Value, kindName(e.Type.Kind().String()))
	}
	return fmt.Errorf("config is not a JSON object: %w", err)
}

func kindName(kind string) string {
	switch kind {
	case "int64":
		return "whole number"
	case "float64":
		return "number"
	case "struct":
		return "object"
	}
	return kind
}

// nameLaunchConfig names what workers are made from: the configuration without
// the parts that only say how many there are. Workers made from another one
// than the pool has now are replaced.
func nameLaunchConfig(providerID string, config json.RawMessage) (string, error) {
	var fields map[string]any
	if err := json.Unmarshal(config, &fields); err != nil {
		return "", explain(err)
	}
	maps.DeleteFunc(fields, func(name string, _ any) bool {
		switch name {
		case "minCapacity", "maxCapacity", "scalingRatio", "lifecycle":
			return true
		}
		return false
	})
	text, err := json.Marshal([]any{providerID, fields}) // map keys are sorted
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "lc-" + hex.EncodeToString(sum[:10]), nil
}
