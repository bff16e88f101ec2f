package aws

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// poolConfig is the part of a pool's configuration that says what its workers
// are made from. It comes in two forms, which may be mixed: launchConfigs, the
// form of worker-manager, and the form of the provisioner before it, regions by
// availability zones by instance types over what they have in common. The second
// is turned into the first, one launch configuration for each region.
type poolConfig struct {
	LaunchConfigs []json.RawMessage `json:"launchConfigs"`
	Regions       []region          `json:"regions"`
	common
}

// region is a region of the second form: what is special about it.
type region struct {
	Region string `json:"region"`
	common
	WorkerManager workerManager `json:"workerManager"`
}

// common is what launch configurations, regions and pools have alike.
type common struct {
	Account            string         `json:"account,omitempty"` // "": the provider's first
	LaunchConfig       map[string]any `json:"launchConfig,omitempty"`
	ImageParameter     string         `json:"imageParameter,omitempty"` // of SSM, that has the image's id
	AdditionalUserData map[string]any `json:"additionalUserData,omitempty"`
	WorkerConfig       map[string]any `json:"workerConfig,omitempty"`

	AvailabilityZones []zone         `json:"availabilityZones,omitempty"`
	InstanceTypes     []instanceType `json:"instanceTypes,omitempty"`
	CanUseSpot        *bool          `json:"canUseSpot,omitempty"`     // nil: true
	CanUseOndemand    *bool          `json:"canUseOndemand,omitempty"` // nil: true
	MinPrice          float64        `json:"minPrice,omitempty"`       // dollars an hour for a unit of utility
	MaxPrice          float64        `json:"maxPrice,omitempty"`       // likewise; 0: any
	OndemandAfter     *int64         `json:"ondemandAfter,omitempty"`  // seconds that a task may have waited for spot; nil: 300
}

type zone struct {
	AvailabilityZone   string         `json:"availabilityZone"`
	Region             string         `json:"region,omitempty"`
	LaunchConfig       map[string]any `json:"launchConfig,omitempty"`
	AdditionalUserData map[string]any `json:"additionalUserData,omitempty"`
}

type instanceType struct {
	InstanceType       string         `json:"instanceType"`
	Capacity           int64          `json:"capacity,omitempty"` // 0: 1
	Utility            float64        `json:"utility,omitempty"`  // 0: 1
	LaunchConfig       map[string]any `json:"launchConfig,omitempty"`
	AdditionalUserData map[string]any `json:"additionalUserData,omitempty"`
}

type workerManager struct {
	LaunchConfigID      string   `json:"launchConfigId,omitempty"`
	CapacityPerInstance int64    `json:"capacityPerInstance,omitempty"`
	InitialWeight       *float64 `json:"initialWeight,omitempty"`
	MaxCapacity         *int64   `json:"maxCapacity,omitempty"`
}

// launchConfig is one launch configuration by itself.
type launchConfig struct {
	Region string `json:"region"`
	common
	WorkerManager workerManager `json:"workerManager"`

	CapacityPerInstance int64 `json:"capacityPerInstance,omitempty"` // where it was once, instead of in workerManager
}

// canary is how many workers are started from a configuration before one has
// proven it.
const canary = 3

// Parse reads a pool's configuration.
func (p *Provider) Parse(config json.RawMessage) ([]*fleet.LaunchConfig, error) {
	list, err := split(config)
	if err != nil {
		return nil, err
	}
	var all []*fleet.LaunchConfig
	seen := map[string]string{}
	for _, c := range list {
		spec, err := p.compile(c.at, c.launchConfig)
		if err != nil {
			return nil, err
		}
		if other := seen[spec.id]; other != "" {
			return nil, fmt.Errorf("%s is the same launch configuration as %s (%s); leave one out, or give each workerManager.launchConfigId a value of its own", c.at, other, spec.id)
		}
		seen[spec.id] = c.at
		named := c.WorkerManager.LaunchConfigID != ""
		c.WorkerManager.LaunchConfigID = spec.id
		text, err := json.Marshal(c.launchConfig)
		if err != nil {
			return nil, err
		}
		told, err := c.told(spec)
		if err != nil {
			return nil, err
		}
		all = append(all, &fleet.LaunchConfig{ID: spec.id, Named: named, Config: text, Capacity: spec.capacity, WorkerConfig: told, Canary: canary})
	}
	return all, nil
}

// told is the configuration that workers get: the pool's, with the capacity that
// is counted for them if that is the same for all. The worker-runner takes what
// is under genericWorker for generic-worker's only if nothing is beside it, so
// there nothing is added.
func (c *launchConfig) told(s *spec) (json.RawMessage, error) {
	m := merge(nil, c.WorkerConfig)
	_, generic := m["genericWorker"]
	if !generic && !slices.ContainsFunc(s.offers, func(o offer) bool { return o.capacity != s.capacity }) {
		m["capacity"] = s.capacity
	}
	return json.Marshal(m)
}

// A placed launch configuration knows where in the pool's configuration it is.
type placed struct {
	launchConfig
	at string
}

// split brings a pool's configuration into the form of worker-manager.
func split(config json.RawMessage) ([]placed, error) {
	var c poolConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, explain("config", err)
	}
	var all []placed
	for i, text := range c.LaunchConfigs {
		at := fmt.Sprintf("config.launchConfigs[%d]", i)
		lc, err := readLaunchConfig(at, text)
		if err != nil {
			return nil, err
		}
		all = append(all, placed{lc, at})
	}
	for _, z := range c.AvailabilityZones {
		if !slices.ContainsFunc(c.Regions, func(r region) bool { return r.Region == z.inRegion() }) {
			return nil, fmt.Errorf("config.availabilityZones has %s, and config.regions does not have its region %s: add the region or take the zone out", z.AvailabilityZone, z.inRegion())
		}
	}
	for i, r := range c.Regions {
		lc := launchConfig{Region: r.Region, WorkerManager: r.WorkerManager}
		lc.common = c.common.with(r.common, r.Region)
		at := fmt.Sprintf("config.regions[%d]", i)
		if len(lc.InstanceTypes) == 0 {
			return nil, fmt.Errorf("%s has no instance types: list them in config.instanceTypes or in the region", at)
		}
		all = append(all, placed{lc, at})
	}
	if len(all) == 0 {
		return nil, errors.New("config says nothing about what workers are made from: it needs launchConfigs, or regions and instanceTypes")
	}
	return all, nil
}

func readLaunchConfig(at string, text json.RawMessage) (c launchConfig, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, explain(at, err)
	}
	if n := c.CapacityPerInstance; n != 0 {
		if m := c.WorkerManager.CapacityPerInstance; m != 0 && m != n {
			return c, fmt.Errorf("%s.capacityPerInstance is %d and %s.workerManager.capacityPerInstance is %d; leave the first out", at, n, at, m)
		}
		c.WorkerManager.CapacityPerInstance, c.CapacityPerInstance = n, 0
	}
	return c, nil
}

// explain says which field has the wrong type, or is not known.
func explain(at string, err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field != "" {
			at += "." + e.Field
		}
		return fmt.Errorf("%s is a JSON %s, where %s is needed", at, e.Value, kindOf(e.Type))
	}
	if name, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return fmt.Errorf("%s has a field %s, which is not known; fields of RunInstances belong into launchConfig", at, name)
	}
	return fmt.Errorf("%s is not a JSON object: %w", at, err)
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// with lays what is special about a region over what is common.
func (c common) with(r common, name string) common {
	c.LaunchConfig = merge(c.LaunchConfig, r.LaunchConfig)
	c.AdditionalUserData = merge(c.AdditionalUserData, r.AdditionalUserData)
	c.WorkerConfig = merge(c.WorkerConfig, r.WorkerConfig)
	if r.ImageParameter != "" {
		c.ImageParameter = r.ImageParameter
		delete(c.LaunchConfig, "ImageId")
	}
	if r.LaunchConfig["ImageId"] != nil && r.ImageParameter == "" {
		c.ImageParameter = ""
	}
	var zones []zone
	for _, z := range slices.Concat(c.AvailabilityZones, r.AvailabilityZones) {
		if z.inRegion() == name {
			zones = append(zones, z)
		}
	}
	c.AvailabilityZones = zones
	if r.Account != "" {
		c.Account = r.Account
	}
	if r.InstanceTypes != nil {
		c.InstanceTypes = r.InstanceTypes
	}
	if r.CanUseSpot != nil {
		c.CanUseSpot = r.CanUseSpot
	}
	if r.CanUseOndemand != nil {
		c.CanUseOndemand = r.CanUseOndemand
	}
	if r.MinPrice != 0 {
		c.MinPrice = r.MinPrice
	}
	if r.MaxPrice != 0 {
		c.MaxPrice = r.MaxPrice
	}
	if r.OndemandAfter != nil {
		c.OndemandAfter = r.OndemandAfter
	}
	return c
}

// inRegion is the region that the zone says it is in, or that its name does.
func (z zone) inRegion() string {
	if z.Region != "" {
		return z.Region
	}
	return strings.TrimRight(z.AvailabilityZone, "abcdefghijklmnopqrstuvwxyz")
}

// merge lays one object over another: fields of the second replace those of the
// first, as a whole.
func merge(a, b map[string]any) map[string]any {
	m := make(map[string]any, len(a)+len(b))
	maps.Copy(m, a)
	maps.Copy(m, b)
	return m
}

var launchConfigID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,38}$`)

// id is the launch configuration's: the one that it is given, or one that
// follows from all that makes a difference to a machine.
func (c *launchConfig) id(at string) (string, error) {
	if id := c.WorkerManager.LaunchConfigID; id != "" {
		if !launchConfigID.MatchString(id) {
			return "", fmt.Errorf("%s.workerManager.launchConfigId is %q; it must have from 1 to 38 letters, digits, hyphens and underscores", at, id)
		}
		return id, nil
	}
	what := *c
	what.CanUseSpot, what.CanUseOndemand, what.OndemandAfter, what.MinPrice, what.MaxPrice = nil, nil, nil, 0, 0
	what.WorkerManager = workerManager{CapacityPerInstance: c.WorkerManager.CapacityPerInstance}
	what.InstanceTypes = slices.Clone(c.InstanceTypes)
	for i := range what.InstanceTypes {
		what.InstanceTypes[i].Utility = 0
	}
	text, err := json.Marshal(what) // map keys are sorted
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "lc-" + hex.EncodeToString(sum[:10]), nil
}
