// Package stacks is the deployment above the foundation: the servers' configuration and release, roles, clients, worker
// pools, hooks, dashboards, each group of them a stack of Pulumi.
//
// An environment is a directory: environment.yml, and beside it files with definitions in the form of package resource
// and sections of the server's configuration (environment.go). For each section there is a stack, which is a function
// that registers resources, grouped by components (platform.go and the files named like the others). It needs no Pulumi
// project, language host or plugin: the programs run in this process, and so does the provider that they use
// (package provider); Pulumi's engine, which is the program pulumi, calls both through sockets (engine.go).
//
// A change goes in two steps. Preview works out what would be done, by the engine and by a look at the platform, and saves it
// with the engine's plans (preview.go). Up does what was saved, if states, files, manifest and program are what they were,
// and the engine holds it to the plan (up.go). Drift and Refresh compare states with what there is (drift.go).
//
// What may be deleted from the platform is said by the managed patterns of the definitions, and by nothing else: what none of them matches
// stays on the platform when it leaves the files, and also when everything is destroyed. That is not left to the engine: the
// provider's kinds themselves are asked (guard.go).
//
// A state never says less than what is there for long. The engine writes it after every step, a creation finds what an
// earlier one has left, and operations that were cut off are cleared before the next Up, which does the rest.
package stacks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
	"github.com/taskfleet/taskfleet/stacks/platform"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// A stack is one of an environment's.
type stack struct {
	name      string
	described func(*Environment) bool // whether an environment has it
	program   func(*pulumi.Context, *inputs) error
}

// all are the stacks there are, in the order in which they depend on each other.
var all = []stack{
	{"platform", func(e *Environment) bool { return e.Platform != nil }, platformProgram},
	{"mirror", func(e *Environment) bool { return e.Mirror != nil }, mirrorProgram},
	{"access", func(e *Environment) bool { return e.Access != nil }, accessProgram},
	{"pools", func(e *Environment) bool { return e.Pools != nil }, poolsProgram},
	{"schedules", func(e *Environment) bool { return e.Schedules != nil }, schedulesProgram},
	{"monitoring", func(e *Environment) bool { return e.Monitoring != nil }, monitoringProgram},
}

// Names are those of all stacks that there can be, in their order.
func Names() []string {
	var names []string
	for _, s := range all {
		names = append(names, s.name)
	}
	return names
}

func stackNamed(name string) stack {
	return all[slices.IndexFunc(all, func(s stack) bool { return s.name == name })]
}

// inputs are what programs make their resources of.
type inputs struct {
	environment *Environment
	rootURL     string
	manifest    *infra.Manifest // nil: there is none
	sets        map[string]*resource.Set
	documents   map[string]string // sections of the server's configuration, by stack
	things      []monitoring.Thing
}

// A component groups resources.
type component struct{ pulumi.ResourceState }

func newComponent(ctx *pulumi.Context, kind, name string, opts ...pulumi.ResourceOption) (*component, error) {
	c := &component{}
	return c, ctx.RegisterComponentResource("taskfleet:stacks:"+kind, name, c, opts...)
}

// Options are what a Driver needs of others.
type Options struct {
	Pulumi    string // path of the program; "": the one on PATH
	Install   bool   // download it, and terraform, if there is none
	Terraform string // for environments that name a deployment of package infra
	Version   string // of this program: a preview is for it alone

	// Client is a client of the platform, once that is needed.
	Client func(rootURL string) (*client.Client, error)

	// Check and Secrets are as those of platform.Options.
	Check   func(document []byte) error
	Secrets func() (text []byte, taken func(), err error)

	Notice   func(line string) // is told what people should know; nil: nobody is
	Progress func(Progress)    // is told what happens to resources; nil: nobody is
}

// A Driver works on stacks of an environment. Close has to be called.
type Driver struct {
	Environment *Environment

	names   []string // of the stacks that it is for
	options Options
	engine  *engine

	// By start:
	inputs *inputs
	guard  *guard
	client *client.Client // nil: nothing that is selected needs one
	stops  []func()       // of the providers

	working atomic.Value // the name of the stack that is brought up or destroyed
}

// Names are the stacks that it is for, in order.
func (d *Driver) Names() []string { return d.names }

// Open reads an environment and finds Pulumi, for the stacks that are named; for all if none is.
func Open(ctx context.Context, directory string, names []string, o Options) (d *Driver, err error) {
	if o.Notice == nil {
		o.Notice = func(string) {}
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	e, err := Load(directory)
	if err != nil {
		return nil, err
	}
	names, err = e.Select(names)
	if err != nil {
		return nil, err
	}
	d = &Driver{Environment: e, names: names, options: o}
	d.engine, err = newEngine(ctx, e, o)
	return d, err
}

// Close ends the providers and removes the work files.
func (d *Driver) Close() {
	for _, stop := range d.stops {
		stop()
	}
	d.engine.close()
}

// start reads what the programs need, and starts the providers. What works on states alone does without.
func (d *Driver) start(ctx context.Context) (err error) {
	if d.inputs != nil {
		return nil
	}
	if d.inputs, err = d.read(ctx, d.names); err != nil {
		return err
	}
	return d.serve(ctx, d.names)
}

// read reads what the programs of the stacks need.
func (d *Driver) read(ctx context.Context, names []string) (*inputs, error) {
	e := d.Environment
	in := &inputs{environment: e, rootURL: e.RootURL, sets: map[string]*resource.Set{}, documents: map[string]string{}}
	var wrong []error
	for _, name := range names {
		set, err := e.definitions(name)
		if err == nil && set != nil {
			in.sets[name] = set
			err = set.ReadValues(os.LookupEnv)
		}
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	for stack, file := range e.configurations() { // of all stacks, as each may not have the sections of the others
		text, err := readFile(e.path(file))
		if err == nil && d.options.Check != nil {
			if err = d.options.Check(text); err != nil {
				err = fmt.Errorf("%s: %w", e.path(file), err)
			}
		}
		if err != nil {
			wrong = append(wrong, err)
		}
		in.documents[stack] = string(text)
	}
	if e.Monitoring != nil && slices.Contains(names, "monitoring") {
		things, err := e.Monitoring.Things(e.Name)
		if err != nil {
			wrong = append(wrong, err)
		}
		in.things = things
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	if e.Manifest != "" || e.Infra != "" {
		m, err := d.manifest(ctx)
		if err != nil {
			return nil, err
		}
		in.manifest, in.rootURL = m, m.RootURL
	}
	return in, in.checkManifest(names)
}

// checkManifest tells which members of the manifest the stacks need and the foundation does not give.
func (in *inputs) checkManifest(names []string) error {
	if in.environment.Platform == nil || in.environment.Platform.Files != "" {
		return nil
	}
	m := in.manifest
	missing := map[string]bool{}
	for _, stack := range names {
		if in.documents[stack] != "" && m.ConfigurationSecretARNs[stack] == "" {
			missing["configuration_secret_arns."+stack] = true
		}
		if stack == "platform" || in.documents[stack] != "" {
			for member, value := range map[string]string{"service_region": m.ServiceRegion, "cluster_name": m.ClusterName, "service_name": m.ServiceName,
				"task_definition_arn": m.TaskDefinitionARN, "server_secret_arn": m.ServerSecretARN, "metrics_secret_arn": m.MetricsSecretARN} {
				if value == "" {
					missing[member] = true
				}
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("the manifest of %s lacks %s, which the stacks need: take the outputs of the example that comes with this version (taskfleet infra init), apply, and write the manifest anew: "+
		"taskfleet infra output --manifest", m.Deployment, strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
}

// configurations are the files with sections of the server's configuration, by stack.
func (e *Environment) configurations() map[string]string {
	out := map[string]string{}
	if e.Platform != nil && e.Platform.Configuration != "" {
		out["platform"] = e.Platform.Configuration
	}
	if e.Mirror != nil {
		out["mirror"] = e.Mirror.Configuration
	}
	if e.Schedules != nil && e.Schedules.Configuration != "" {
		out["schedules"] = e.Schedules.Configuration
	}
	return out
}

// serve starts a provider for each stack, with the kinds that the stacks use. They do not share one: an engine that comes to
// its end cancels what its provider has under way, and several engines work at the same time.
func (d *Driver) serve(ctx context.Context, names []string) error {
	e := d.Environment
	var kinds []provider.Kind
	if slices.ContainsFunc(names, func(n string) bool { return n == "access" || n == "pools" || n == "schedules" }) {
		c, err := d.options.Client(d.inputs.rootURL)
		if err != nil {
			return err
		}
		d.client, d.guard = c, newGuard(d.inputs.sets)
		for _, k := range provider.Resources(c) {
			kinds = append(kinds, d.guard.kind(k))
		}
	}
	if e.Platform != nil {
		kinds = append(kinds, platform.Kinds(platform.Options{Check: d.options.Check, Secrets: d.options.Secrets, Progress: d.note})...)
	}
	if e.Monitoring != nil && slices.Contains(names, "monitoring") {
		more, err := e.Monitoring.Kinds(e.Name, nil)
		if err != nil {
			return err
		}
		kinds = append(kinds, more...)
	}
	for _, name := range names {
		p, err := provider.New(providerVersion, kinds...)
		if err != nil {
			return err
		}
		// It outlives ctx: what is under way when that ends is waited for.
		port, stop, err := provider.Serve(context.WithoutCancel(ctx), p)
		if err != nil {
			return err
		}
		d.stops = append(d.stops, stop)
		d.engine.ports[name] = port
	}
	return nil
}

// note tells what long work is at.
func (d *Driver) note(_ context.Context, name, text string) {
	stack, _ := d.working.Load().(string)
	d.options.Progress(Progress{Time: time.Now(), Stack: stack, What: "note", ID: name, Text: text})
}

// providerVersion is that of the provider as states have it.
const providerVersion = "1.0.0"

// manifest is what the foundation hands over.
func (d *Driver) manifest(ctx context.Context) (*infra.Manifest, error) {
	e := d.Environment
	directory := e.Infra
	var m *infra.Manifest
	if e.Manifest != "" {
		var err error
		if m, err = infra.ReadManifest(e.path(e.Manifest)); err != nil {
			return nil, err
		}
		// One that lies in its deployment can be compared with it; others came from elsewhere.
		directory = filepath.Dir(e.Manifest)
		if _, err := os.Stat(filepath.Join(e.path(directory), "main.tf")); err != nil {
			return m, nil
		}
	}
	deployment, err := infra.Open(ctx, e.path(directory), infra.Options{Terraform: d.options.Terraform, Install: d.options.Install, Notice: d.options.Notice})
	switch {
	case err != nil && m != nil:
		d.options.Notice(fmt.Sprintf("whether the manifest is stale is not known: %v", err))
		return m, nil
	case err != nil:
		return nil, fmt.Errorf("infra: %s: %w", e.Infra, err)
	case m != nil:
		return m, deployment.CheckManifest(ctx, m)
	}
	return deployment.Manifest(ctx)
}

// workDirectory is where previews are kept.
func (e *Environment) workDirectory() string { return filepath.Join(e.Directory, ".stacks") }

// RootURL is where the platform of the environment is.
func (d *Driver) RootURL(ctx context.Context) (string, error) {
	if d.Environment.RootURL != "" {
		return d.Environment.RootURL, nil
	}
	m, err := d.manifest(ctx)
	if err != nil {
		return "", err
	}
	return m.RootURL, nil
}
