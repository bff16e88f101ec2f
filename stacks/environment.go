package stacks

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// An Environment is what environment.yml says. Paths in it are relative to the directory that it is in.
type Environment struct {
	Name string `json:"name"` // of the Pulumi stacks; and the word that destroy asks for

	// What the stacks stand on: a manifest, a deployment of package infra that has one, or no more than a root URL.
	Manifest string `json:"manifest"`
	Infra    string `json:"infra"`
	RootURL  string `json:"rootUrl"`

	Backend string `json:"backend"` // where states are: s3://bucket/prefix?region=…, or file://./directory
	Secrets string `json:"secrets"` // what secrets in states are encrypted with: passphrase, or awskms://…

	Platform   *Platform          `json:"platform"`
	Mirror     *Mirror            `json:"mirror"`
	Access     *Definitions       `json:"access"`
	Pools      *Definitions       `json:"pools"`
	Schedules  *Schedules         `json:"schedules"`
	Monitoring *monitoring.Config `json:"monitoring"`
	Smoke      *Smoke             `json:"smoke"`

	Directory string `json:"-"` // absolute
}

// Platform is the servers: at AWS if there is an image, else on machines of somebody's own, by files.
type Platform struct {
	Image         string    `json:"image"`
	Replicas      *Replicas `json:"replicas"`
	Configuration string    `json:"configuration"` // file with sections of the server's configuration
	Files         string    `json:"files"`         // directory that the sections are written into
	Restart       []string  `json:"restart"`       // command that is run when something in it has changed
	Migrate       *bool     `json:"migrate"`       // whether a release migrates the database first; default true
}

// Replicas bound how many servers there are.
type Replicas struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// Definitions are files in the form of package resource.
type Definitions struct {
	Files []string `json:"files"`
}

// Schedules are hooks, and the sections of the server's configuration that run things by the clock.
type Schedules struct {
	Files         []string `json:"files"`
	Configuration string   `json:"configuration"`
}

// Mirror is the section mirror of the server's configuration, in a file of its own.
type Mirror struct {
	Configuration string `json:"configuration"`
}

// Smoke says what a task is to run on that shows whether the platform works.
type Smoke struct {
	TaskQueueID string `json:"taskQueueId"`
}

// EnvironmentFile is the name of the file that describes an environment.
const EnvironmentFile = "environment.yml"

// largestFile bounds what is read.
const largestFile = 4 << 20

// Load reads the environment in a directory. What is wrong with it is told all at once, by line.
func Load(directory string) (*Environment, error) {
	directory, err := filepath.Abs(directory)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(directory, EnvironmentFile)
	text, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s in %s: name the directory with --dir, or write a new one with taskfleet stacks init", EnvironmentFile, directory)
	} else if err != nil {
		return nil, err
	}
	e := &Environment{Directory: directory}
	shown := file
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, file); err == nil && !strings.HasPrefix(rel, "..") {
			shown = rel
		}
	}
	if err := e.parse(shown, text); err != nil {
		return nil, err
	}
	return e, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, largestFile+1))
	if err == nil && len(text) > largestFile {
		err = fmt.Errorf("%s has more than %d MiB", name, largestFile>>20)
	}
	return text, err
}

// parse reads the text of an environment. file is for messages.
func (e *Environment) parse(file string, text []byte) error {
	r := &reader{file: file, lines: map[string]int{}}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var n, more yaml.Node
	if err := d.Decode(&n); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s is not YAML: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if !errors.Is(d.Decode(&more), io.EOF) {
		return fmt.Errorf("%s: there is something after the first document; one is all that is read", file)
	}
	if len(n.Content) == 1 {
		r.read(n.Content[0], e, "")
	}
	e.check(r)
	return r.err()
}

var (
	environmentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,62}$`)
	digest          = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
)

// ByDigest tells whether a reference names one image, and no other tomorrow.
func ByDigest(image string) bool { return digest.MatchString(image) }

// check tells what is wrong with values that have the right form.
func (e *Environment) check(r *reader) {
	if !environmentName.MatchString(e.Name) {
		r.fail("name", "name is %q; it is 1 to 63 letters, digits and dashes, such as prod", e.Name)
	}
	e.RootURL = strings.TrimRight(e.RootURL, "/")
	given := 0
	for _, s := range []string{e.Manifest, e.Infra, e.RootURL} {
		if s != "" {
			given++
		}
	}
	switch {
	case given == 0:
		r.fail("", "one of infra, manifest and rootUrl is missing: what the platform stands on, or where it is")
	case given > 1:
		r.fail(cmp.Or(r.has("rootUrl"), r.has("manifest")), "infra, manifest and rootUrl exclude each other: the manifest of the foundation has the root URL")
	case e.RootURL != "":
		if u, err := url.Parse(e.RootURL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			r.fail("rootUrl", "rootUrl is %q; it is a URL such as https://taskfleet.example.com", e.RootURL)
		}
	}
	switch {
	case e.Backend == "":
		r.fail("", "backend is missing: where states are kept, such as s3://bucket/stacks?region=eu-central-1, or file://./.stacks/state")
	case strings.HasPrefix(e.Backend, "s3://") && len(e.Backend) > len("s3://"):
	case strings.HasPrefix(e.Backend, "file://") && len(e.Backend) > len("file://"):
	default:
		r.fail("backend", "backend is %q; it begins with s3:// or file://, such as s3://bucket/stacks?region=eu-central-1", e.Backend)
	}
	switch {
	case e.Secrets == "passphrase", strings.HasPrefix(e.Secrets, "awskms://") && len(e.Secrets) > len("awskms://"):
	case e.Secrets == "":
		r.fail("", "secrets is missing: passphrase, or a key such as awskms://alias/taskfleet-stacks?region=eu-central-1")
	default:
		r.fail("secrets", "secrets is %q; it is passphrase, or begins with awskms://", e.Secrets)
	}
	if len(e.Stacks()) == 0 {
		r.fail("", "no stack is described: there are %s", strings.Join(Names(), ", "))
	}
	e.checkPlatform(r)
	if e.Mirror != nil {
		e.checkFile(r, "mirror.configuration", e.Mirror.Configuration, true)
	}
	e.checkDefinitions(r, "access", e.Access)
	e.checkDefinitions(r, "pools", e.Pools)
	if e.Schedules != nil {
		if e.Schedules.Files == nil && e.Schedules.Configuration == "" {
			r.fail("schedules", "schedules needs files, configuration, or both")
		}
		for i, file := range e.Schedules.Files {
			e.checkFile(r, fmt.Sprintf("schedules.files[%d]", i), file, true)
		}
		e.checkFile(r, "schedules.configuration", e.Schedules.Configuration, false)
	}
	if e.Platform == nil {
		for member, has := range map[string]bool{"mirror.configuration": e.Mirror != nil, "schedules.configuration": e.Schedules != nil && e.Schedules.Configuration != ""} {
			if has {
				r.fail(member, "%s is configuration of the servers, which needs the section platform: it says where that is written to", member)
			}
		}
	}
	if e.Monitoring != nil {
		r.problems("monitoring", e.Monitoring.Check())
		e.Monitoring.In(e.Directory)
	}
	if e.Smoke != nil && e.Smoke.TaskQueueID == "" {
		r.fail("smoke", "smoke.taskQueueId is missing, such as built-in/succeed")
	}
}

func (e *Environment) checkPlatform(r *reader) {
	p := e.Platform
	if p == nil {
		return
	}
	e.checkFile(r, "platform.configuration", p.Configuration, false)
	switch {
	case p.Files == "" && e.RootURL != "":
		r.fail("platform", "platform.files is missing: without a manifest the configuration is written into a directory")
	case p.Files != "":
		if info, err := os.Stat(e.path(p.Files)); err != nil || !info.IsDir() {
			r.fail("platform.files", "platform.files: there is no directory %s: make it, for the user of the servers, who read it by taskfleet serve --config", e.path(p.Files))
		}
		for member, given := range map[string]bool{"image": p.Image != "", "replicas": p.Replicas != nil, "migrate": p.Migrate != nil} {
			if given {
				r.fail("platform."+member, "platform.%s is for AWS, and platform.files for machines of your own: give one of them", member)
			}
		}
	case p.Restart != nil:
		r.fail("platform.restart", "platform.restart is for machines of your own, with platform.files: at AWS a changed configuration is rolled out")
	case p.Image != "" && !ByDigest(p.Image):
		r.fail("platform.image", "platform.image is %q; it ends with a digest, @sha256:…, so that what runs is what was looked at", p.Image)
	}
	if p.Replicas != nil && (p.Replicas.Min < 1 || p.Replicas.Max < p.Replicas.Min) {
		r.fail("platform.replicas", "platform.replicas is %d to %d; min is at least 1, and max at least min", p.Replicas.Min, p.Replicas.Max)
	}
}

func (e *Environment) checkDefinitions(r *reader, section string, d *Definitions) {
	if d == nil {
		return
	}
	if len(d.Files) == 0 {
		r.fail(section, "%s.files is missing: files or directories with definitions", section)
	}
	for i, file := range d.Files {
		e.checkFile(r, fmt.Sprintf("%s.files[%d]", section, i), file, true)
	}
}

func (e *Environment) checkFile(r *reader, member, file string, required bool) {
	if file == "" {
		if required {
			r.fail(member, "%s is missing: the path of a file", member)
		}
		return
	}
	if _, err := os.Stat(e.path(file)); err != nil {
		r.fail(member, "%s: %v", member, pathError(err))
	}
}

// pathError is the error without what the call was.
func pathError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

// path is a path of the environment as one that can be opened.
func (e *Environment) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(e.Directory, name)
}

// Stacks are the names of those that the environment describes, in the order in which they depend on each other.
func (e *Environment) Stacks() []string {
	var out []string
	for _, s := range all {
		if s.described(e) {
			out = append(out, s.name)
		}
	}
	return out
}

// Select is the environment's stacks that are named, in order; all of them if none is named.
func (e *Environment) Select(names []string) ([]string, error) {
	have := e.Stacks()
	if len(names) == 0 {
		return have, nil
	}
	for _, n := range names {
		switch {
		case !slices.Contains(Names(), n):
			return nil, fmt.Errorf("there is no stack %q; %s", n, resource.Suggest(n, Names()))
		case !slices.Contains(have, n):
			return nil, fmt.Errorf("%s has no section %s, so there is no such stack; there are %s", EnvironmentFile, n, strings.Join(have, ", "))
		}
	}
	return slices.DeleteFunc(have, func(s string) bool { return !slices.Contains(names, s) }), nil
}

// definitions reads the definitions of a stack; nil if it has none.
func (e *Environment) definitions(stack string) (*resource.Set, error) {
	var files []string
	switch {
	case stack == "access" && e.Access != nil:
		files = e.Access.Files
	case stack == "pools" && e.Pools != nil:
		files = e.Pools.Files
	case stack == "schedules" && e.Schedules != nil:
		files = e.Schedules.Files
	}
	if len(files) == 0 {
		return nil, nil
	}
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = e.path(f)
	}
	set, err := resource.Load(nil, paths...)
	if err != nil {
		return nil, err
	}
	var wrong []error
	for _, d := range set.Definitions {
		if home := homeOf(d.Kind); home != stack {
			wrong = append(wrong, fmt.Errorf("%s: %s is defined among the files of %s; a %s belongs to %s", d.At, d.ID(), stack, d.Kind.Noun(), home))
		}
	}
	for _, p := range set.Managed {
		kind, _, _ := strings.Cut(p.String(), "=")
		if home := homeOf(resource.KindNamed(kind)); home != stack {
			wrong = append(wrong, fmt.Errorf("managed, among the files of %s: the pattern %s is of %s", stack, p, home))
		}
	}
	if len(wrong) > 20 {
		wrong = append(wrong[:20], fmt.Errorf("and %d more", len(wrong)-20))
	}
	return set, errors.Join(wrong...)
}

// homeOf is the stack that things of a kind belong to.
func homeOf(k resource.Kind) string {
	switch k {
	case resource.WorkerPools:
		return "pools"
	case resource.Hooks, resource.Secrets:
		return "schedules"
	}
	return "access"
}

// problems tells what a check of members has found, at their lines.
func (r *reader) problems(section string, err error) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			r.problems(section, one)
		}
		return
	}
	member := section
	if p, ok := errors.AsType[*provider.Problem](err); ok {
		member = section + "." + p.Member
		r.fail(member, "%s: %s", member, p.Reason)
		return
	}
	r.fail(member, "%s: %v", section, err)
}
