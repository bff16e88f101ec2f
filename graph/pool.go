package graph

import (
	"errors"
	"fmt"
	"io/fs"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/client/workermanager"
)

// A Pool is a worker pool as a file defines it: workerPoolId, providerId,
// description, owner, emailOnError and config as the API has them, and
// parameters as a graph has them.
type Pool struct {
	ID         string
	Parameters []Parameter
	Definition workermanager.CreateWorkerPoolRequest
}

// LoadPool reads the definition of a worker pool.
func LoadPool(path string, o Options) (*Pool, error) {
	text, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no pool definition at %s", path)
	} else if err != nil {
		return nil, err
	}
	if o, err = o.at(path); err != nil {
		return nil, err
	}
	return ParsePool(path, text, o)
}

// ParsePool reads the definition of a worker pool. File is its name in
// messages. What the API adds when it shows a pool is passed over, so that a
// pool can be shown, edited and applied again.
func ParsePool(file string, text []byte, o Options) (*Pool, error) {
	r := &reader{file: file}
	top := r.document(text)
	if top == nil {
		return nil, r.err()
	}
	p := &Pool{}
	var parameters *yaml.Node
	fields := map[string]*yaml.Node{}
	known := table{"parameters": func(n *yaml.Node) { parameters = n }}
	for _, name := range []string{"workerPoolId", "providerId", "description", "owner", "emailOnError", "config"} {
		known[name] = func(n *yaml.Node) { fields[name] = n }
	}
	for _, name := range []string{"created", "lastModified", "currentCapacity", "requestedCount", "runningCount", "stoppingCount", "stoppedCount",
		"requestedCapacity", "runningCapacity", "stoppingCapacity", "stoppedCapacity"} {
		known[name] = func(*yaml.Node) {}
	}
	r.top(top, known)
	p.Parameters = r.parameters(parameters, o.withDefaults())
	vars := &variables{values: valuesOf(p.Parameters)}
	str := func(name string, required bool) string {
		n := fields[name]
		if n == nil {
			if required {
				r.fail(top, "the pool has no %s", name)
			}
			return ""
		}
		return r.text(n, name, vars)
	}
	p.ID = str("workerPoolId", true)
	if p.ID != "" && !queueForm.MatchString(p.ID) {
		r.fail(fields["workerPoolId"], "workerPoolId is %q; it must be PROVISIONER/TYPE, such as local/build", p.ID)
	}
	p.Definition = workermanager.CreateWorkerPoolRequest{
		ProviderID:  str("providerId", true),
		Description: str("description", false),
		Owner:       str("owner", true),
	}
	if n := fields["emailOnError"]; n != nil {
		yes, ok := r.value(n, "emailOnError", vars).(bool)
		if !ok {
			r.fail(n, "emailOnError must be true or false")
		}
		p.Definition.EmailOnError = yes
	}
	config, ok := map[string]any{}, true
	if n := fields["config"]; n != nil {
		if config, ok = r.value(n, "config", vars).(map[string]any); !ok {
			r.fail(n, "config must be a mapping of names to values, not %s", kindOf(n))
		}
	} else {
		r.fail(top, "the pool has no config; its provider says what must be in it, such as maxCapacity")
	}
	p.Definition.Config = compact(config)
	if err := r.err(); err != nil {
		return nil, err
	}
	return p, nil
}
