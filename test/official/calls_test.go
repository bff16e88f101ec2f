package official

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// calls are the record that the suites keep of their calls: how they ended, by service and method, for every method that
// the clients know.
type calls map[string]map[string]outcome

type outcome struct {
	Succeeded int            `json:"succeeded"`
	Refused   map[string]int `json:"refused"` // by status code
}

// neverSucceed are the methods that can only be refused here, and why.
var neverSucceed = map[string]string{
	"queue.declareProvisioner":   "an old client knows it, and the API has it no more",
	"queue.declareWorkerType":    "likewise",
	"queue.taskQueueCountsBatch": "a client knows it that is newer than the API",
	"auth.sentryDSN":             "this server has no Sentry",
}

// monitoring are the methods that every service has and that refuse nothing.
var monitoring = []string{"ping", "version", "heartbeat", "lbheartbeat"}

// readCalls reads the record of one language, which each of its processes has left a part of.
func readCalls(t *testing.T, directory, language string) calls {
	files, err := filepath.Glob(filepath.Join(directory, language+"-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the suite in %s has left no record of its calls: %v", language, err)
	}
	all := calls{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var part calls
		if err := json.Unmarshal(text, &part); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all.add(part)
	}
	return all
}

func (c calls) add(part calls) {
	for service, methods := range part {
		if c[service] == nil {
			c[service] = map[string]outcome{}
		}
		for method, o := range methods {
			sum := c[service][method]
			if sum.Refused == nil {
				sum.Refused = map[string]int{}
			}
			sum.Succeeded += o.Succeeded
			for status, n := range o.Refused {
				sum.Refused[status] += n
			}
			c[service][method] = sum
		}
	}
}

// checkComplete fails for each method that a client knows and that its suite does not call, and for each that no suite has
// seen succeed, or be refused.
func checkComplete(t *testing.T, directory string) {
	all := calls{}
	for _, language := range []string{"javascript", "python"} {
		own := readCalls(t, directory, language)
		own.each(func(method string, o outcome) {
			if o.Succeeded == 0 && len(o.Refused) == 0 {
				t.Errorf("no test in %s calls %s", language, method)
			}
		})
		all.add(own)
	}
	all.each(func(method string, o outcome) {
		_, never := neverSucceed[method]
		if never == (o.Succeeded > 0) {
			t.Errorf("%s has succeeded %d times; neverSucceed says %t", method, o.Succeeded, never)
		}
		if len(o.Refused) == 0 && !slices.Contains(monitoring, filepath.Ext(method)[1:]) {
			t.Errorf("no test sees %s refuse anything", method)
		}
	})
}

// each calls f with every method, as service.method.
func (c calls) each(f func(method string, o outcome)) {
	for _, service := range slices.Sorted(maps.Keys(c)) {
		for _, method := range slices.Sorted(maps.Keys(c[service])) {
			f(service+"."+method, c[service][method])
		}
	}
}
