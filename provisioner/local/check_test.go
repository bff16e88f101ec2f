//go:build linux

package local

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"
)

// The published form of a pool's configuration and what is accepted are the
// same. (A schema cannot compare two fields; the conformance tests do that.)
func TestTheSchemaSaysWhatIsAccepted(t *testing.T) {
	text, err := os.ReadFile("../schemas/config-local.yml")
	if err != nil {
		t.Fatal(err)
	}
	if text, err = yaml.YAMLToJSONStrict(text); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("test:///config", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("test:///config")
	if err != nil {
		t.Fatal(err)
	}
	p := newStage(t, "obedient").open(t)
	for config, good := range map[string]bool{
		`{"maxCapacity": 0}`: true,
		`{"maxCapacity": 4, "minCapacity": 4, "scalingRatio": 0, "capacityPerInstance": 4}`: true,
		`{"maxCapacity": 64, "scalingRatio": 1, "capacityPerInstance": 32}`:                 true,
		`{"maxCapacity": 4, "lifecycle": {}, "workerConfig": {}}`:                           true,
		`{"maxCapacity": 4, "workerConfig": {"capacity": 1, "x": [null]}}`:                  true,
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": 1}}`:                       true,
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": 100000000}}`:               true,
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 1}}`:                     true,
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 2592000}}`:               true,

		`[]`:                                    false,
		`{}`:                                    false,
		`{"maxCapacity": -1}`:                   false,
		`{"maxCapacity": null}`:                 false,
		`{"maxCapacity": 1.5}`:                  false,
		`{"maxCapacity": 4, "MinCapacity": 1}`:  false,
		`{"maxCapacity": 4, "minCapacity": -1}`: false,
		`{"maxCapacity": 4, "scalingRatio": 1.1}`:                             false,
		`{"maxCapacity": 4, "scalingRatio": -0.1}`:                            false,
		`{"maxCapacity": 4, "capacityPerInstance": 0}`:                        false,
		`{"maxCapacity": 64, "capacityPerInstance": 33}`:                      false,
		`{"maxCapacity": 4, "workerConfig": null}`:                            false,
		`{"maxCapacity": 4, "workerConfig": []}`:                              false,
		`{"maxCapacity": 4, "lifecycle": null}`:                               false,
		`{"maxCapacity": 4, "lifecycle": {"queueInactivityTimeout": 7200}}`:   true,
		`{"maxCapacity": 4, "lifecycle": {"queueInactivityTimeout": 1199}}`:   false,
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": 0}}`:         false,
		`{"maxCapacity": 4, "lifecycle": {"registrationTimeout": null}}`:      false,
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 0}}`:       false,
		`{"maxCapacity": 4, "lifecycle": {"reregistrationTimeout": 2592001}}`: false,
	} {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(config)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); (err == nil) != good {
			t.Errorf("%s: the schema says %v", config, err)
		}
		if _, err := p.Parse(json.RawMessage(config)); (err == nil) != good {
			t.Errorf("%s: Parse says %v", config, err)
		}
	}
}

// Workers are told the capacity that their pool counts for them.
func TestWorkersAreToldTheirCapacity(t *testing.T) {
	p := newStage(t, "obedient").open(t)
	for config, want := range map[string]string{
		`{"maxCapacity": 4}`:                           `{"capacity":1}`,
		`{"maxCapacity": 4, "capacityPerInstance": 4}`: `{"capacity":4}`,
		`{"maxCapacity": 4, "capacityPerInstance": 4, "workerConfig": {"capacity": 4.0, "a": [1]}}`: `{"a":[1],"capacity":4.0}`,
		`{"maxCapacity": 4, "workerConfig": {"idleTimeoutSecs": 30}}`:                               `{"capacity":1,"idleTimeoutSecs":30}`,
	} {
		list, err := p.Parse(json.RawMessage(config))
		if err != nil || len(list) != 1 || string(list[0].WorkerConfig) != want {
			t.Errorf("%s: workers are told %s (%v), want %s", config, list[0].WorkerConfig, err, want)
		}
	}
}

// What only says how many workers there are makes no other ones of them.
func TestLimitsMakeNoOtherWorkers(t *testing.T) {
	p := newStage(t, "obedient").open(t)
	id := func(config string) string {
		list, err := p.Parse(json.RawMessage(config))
		if err != nil {
			t.Fatal(err)
		}
		return list[0].ID
	}
	plain := id(`{"maxCapacity": 4, "workerConfig": {"a": 1}}`)
	for _, same := range []string{
		`{"maxCapacity": 8, "minCapacity": 2, "scalingRatio": 0.5, "workerConfig": {"a": 1}}`,
		`{"maxCapacity": 4, "lifecycle": {"maxAge": 60}, "workerConfig": {"a": 1}, "sizing": {"policy": "reactive"}}`,
		`{"maxCapacity": 4, "schedule": [{"cron": "0 8 * * *", "duration": 60, "minCapacity": 1}], "workerConfig": {"a": 1}}`,
	} {
		if id(same) != plain {
			t.Errorf("%s makes other workers", same)
		}
	}
	if id(`{"maxCapacity": 4, "workerConfig": {"a": 2}}`) == plain || id(`{"maxCapacity": 4, "workerConfig": {"a": 1}, "capacityPerInstance": 2}`) == plain {
		t.Error("another configuration makes no other workers")
	}
}
