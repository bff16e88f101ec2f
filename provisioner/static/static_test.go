package static

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

var now = timestamp.Time(1_800_000_000_000)

func ref(id string) fleet.Ref {
	return fleet.Ref{WorkerPoolID: "rack/mac", WorkerGroup: "berlin", WorkerID: id}
}

func secret(s string) json.RawMessage { return json.RawMessage(`{"staticSecret":"` + s + `"}`) }

func TestAWorkerRegistersWithItsSecretAsOftenAsItLikes(t *testing.T) {
	mine, other := slugid.Token(), slugid.Token()
	facts, err := Provider{}.Accept(ref("m1"), secret(mine))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(facts, []byte(mine)) {
		t.Error("the secret itself is kept")
	}
	w := &fleet.Worker{Ref: ref("m1"), Facts: facts}
	for range 2 {
		if err := (Provider{}).Identify(t.Context(), now, w, secret(mine)); err != nil {
			t.Error(err)
		}
	}
	for name, proof := range map[string]json.RawMessage{
		"another secret": secret(other),
		"empty secret":   secret(""),
		"the hash":       facts,
		"shorter":        secret(mine[:43]),
		"nothing":        json.RawMessage(`{}`),
		"another proof":  json.RawMessage(`{"token":"` + mine + `"}`),
		"not JSON":       json.RawMessage(`{`),
	} {
		err := Provider{}.Identify(t.Context(), now, w, proof)
		if !errors.Is(err, fleet.ErrNotMe) {
			t.Errorf("%s: got %v", name, err)
		} else if strings.Contains(err.Error(), mine) || strings.Contains(err.Error(), other) {
			t.Errorf("%s: the error has a secret in it: %v", name, err)
		}
	}
	for name, w := range map[string]*fleet.Worker{
		"another worker with these facts": {Ref: ref("m2"), Facts: facts},
		"a worker of another provider":    {Ref: ref("m1"), Facts: json.RawMessage(`{"instanceId":"i-1"}`)},
		"a worker without facts":          {Ref: ref("m1")},
	} {
		if err := (Provider{}).Identify(t.Context(), now, w, secret(mine)); !errors.Is(err, fleet.ErrNotMe) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestARepetitionIsToldFromAConflict(t *testing.T) {
	s := slugid.Token()
	accept := func(id, s string) string {
		facts, err := Provider{}.Accept(ref(id), secret(s))
		if err != nil {
			t.Fatal(err)
		}
		return string(facts)
	}
	if accept("m1", s) != accept("m1", s) {
		t.Error("the same worker with the same secret is not the same")
	}
	if accept("m1", s) == accept("m1", slugid.Token()) {
		t.Error("the same worker with another secret is the same")
	}
	if accept("m1", s) == accept("m2", s) {
		t.Error("it shows that two workers have the same secret")
	}
	for _, info := range []string{``, `null`, `{}`, `[]`, `{"staticSecret":1}`, `{"staticSecret":"` + s[:43] + `"}`, `{"staticSecret":"` + s[:43] + `!"}`, `{"staticSecret":"` + s + `\n"}`} {
		if _, err := (Provider{}).Accept(ref("m1"), json.RawMessage(info)); err == nil || !strings.Contains(err.Error(), "staticSecret") || strings.Contains(err.Error(), s[:43]) {
			t.Errorf("%s: got %v", info, err)
		}
	}
}

func TestNothingIsStartedAndNothingIsSeen(t *testing.T) {
	p := Provider{}
	plan, err := p.Plan(t.Context(), now, fleet.Need{Capacity: 10, Room: 10})
	if err != nil || len(plan.Intents) != 0 {
		t.Errorf("plans %v, %v", plan, err)
	}
	answer := p.Launch(t.Context(), now, &fleet.Intent{ID: "i", Workers: 1})
	if len(answer.Started) != 0 || answer.Again || len(answer.Faults) != 1 || !strings.Contains(answer.Faults[0].Description, "createWorker") {
		t.Errorf("an intent is answered with %+v", answer)
	}
	sight, err := p.Look(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if s, there := sight.Of(ref("m1")); !there || s.State != fleet.Unknown || s.Ref != ref("m1") {
		t.Errorf("a worker of the books is seen as %+v, %v", s, there)
	}
	if all := slices.Collect(sight.All()); len(all) != 0 {
		t.Errorf("workers come out of nowhere: %v", all)
	}
}

func TestStoppingClosesRows(t *testing.T) {
	list := []fleet.Target{{Ref: ref("busy")}, {Ref: ref("idle"), Idle: true}}
	for how, want := range map[fleet.Manner][]fleet.Ref{fleet.Gracefully: {ref("idle")}, fleet.Now: {ref("busy"), ref("idle")}} {
		if gone, err := (Provider{}).Stop(t.Context(), now, list, how); err != nil || !slices.Equal(gone, want) {
			t.Errorf("manner %d: gone are %v, %v; want %v", how, gone, err, want)
		}
	}
}

func TestAChangedPoolKeepsItsWorkers(t *testing.T) {
	before, err := Provider{}.Parse(json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	after, err := Provider{}.Parse(json.RawMessage(`{"workerConfig":{"x":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 1 || len(after) != 1 || before[0].ID != after[0].ID {
		t.Errorf("workers of %v are not those of %v", before, after)
	}
	if string(after[0].WorkerConfig) != `{"x":1}` {
		t.Errorf("workers are told %s", after[0].WorkerConfig)
	}
}

// The published form of a pool's configuration and what is accepted are the
// same.
func TestTheSchemaSaysWhatIsAccepted(t *testing.T) {
	c := jsonschema.NewCompiler()
	for _, name := range []string{"config-static", "worker-lifecycle"} {
		text, err := os.ReadFile("../schemas/" + name + ".yml")
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
		if err := c.AddResource("test:///"+name+".json", doc); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := c.Compile("test:///config-static.json")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]bool{
		`{}`:                                    true,
		`{"lifecycle": {}, "workerConfig": {}}`: true,
		`{"workerConfig": {"a": [null]}}`:       true,
		`{"lifecycle": {"reregistrationTimeout": 1}}`:       true,
		`{"lifecycle": {"reregistrationTimeout": 2592000}}`: true,
		`[]`:                  false,
		`null`:                false,
		`1`:                   false,
		`{"maxCapacity": 1}`:  false,
		`{"LifeCycle": {}}`:   false,
		`{"lifecycle": null}`: false,
		`{"lifecycle": []}`:   false,
		`{"lifecycle": {"registrationTimeout": 60}}`:        false,
		`{"lifecycle": {"queueInactivityTimeout": 7200}}`:   false,
		`{"lifecycle": {"reregistrationTimeout": null}}`:    false,
		`{"lifecycle": {"reregistrationTimeout": 1.5}}`:     false,
		`{"lifecycle": {"reregistrationTimeout": "1"}}`:     false,
		`{"lifecycle": {"reregistrationTimeout": 2592001}}`: false,
		`{"workerConfig": null}`:                            false,
		`{"workerConfig": [] }`:                             false,
		`{"workerConfig": "x"}`:                             false,
	}
	for _, config := range slices.Sorted(maps.Keys(cases)) {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); (err == nil) != cases[config] {
			t.Errorf("%s: the schema says %v", config, err)
		}
		if _, err := (Provider{}).Parse(json.RawMessage(config)); (err == nil) != cases[config] {
			t.Errorf("%s: Parse says %v", config, err)
		}
	}
	// A schema published without a least value lets these pass.
	if _, err := (Provider{}).Parse(json.RawMessage(`{"lifecycle": {"reregistrationTimeout": 0}}`)); err == nil {
		t.Error("credentials may last no time")
	}
}
