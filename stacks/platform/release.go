package platform

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// ReleaseSpec is the spec of taskfleet:platform:Release: what the servers run. When the thing is deleted, they go on with the image, and
// without the configuration that it has versions of.
type ReleaseSpec struct {
	Image    string `json:"image"`    // by digest, or by a tag that does not move
	Template string `json:"template"` // the foundation's task definition: task_definition_arn of the manifest

	// Versions of what the servers read at their start, by the ARNs of secrets: a change is rolled out. Of those that are
	// configuration the servers read just this version, also when there is a later one.
	Versions map[string]string `json:"versions,omitempty"`

	Migrate bool   `json:"migrate,omitempty"` // run taskfleet database migrate before, in a task of its own
	Timeout string `json:"timeout"`           // of the rollout, 20m by default
}

type release struct {
	ReleaseSpec
	TaskDefinition string `json:"taskDefinition,omitempty"` // the ARN of the revision that is run
}

const (
	defaultTimeout = 20 * time.Minute
	leastTimeout   = time.Minute
	mostTimeout    = 2 * time.Hour

	serverContainer = "taskfleet"
	configVariable  = "MORE_CONFIGURATION" // of the container that brings files: ARNs of secrets with configuration
	madeOf          = "taskfleet.release"  // label of the server's container: what the revision was made of
	noVersion       = "none"               // of configuration that is not to be read
)

var imagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9./:_-]*(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]*)$`)

func releases(o Options, c *cloud) *kind[ReleaseSpec, release] {
	return &kind[ReleaseSpec, release]{
		token: "Release", computed: []string{"taskDefinition"},
		check: func(name string, spec *ReleaseSpec, bad func(member, format string, args ...any)) {
			checkService(name, bad)
			if !imagePattern.MatchString(spec.Image) || strings.HasSuffix(spec.Image, ":latest") {
				bad("image", "is %q; it must have a digest, or a tag other than latest, such as registry/taskfleet@sha256:…", spec.Image)
			}
			if a, err := arn.Parse(spec.Template); err != nil || a.Service != "ecs" || !strings.HasPrefix(a.Resource, "task-definition/") {
				bad("template", "is %q; it must be task_definition_arn of the manifest", spec.Template)
			}
			checkTimeout(&spec.Timeout, defaultTimeout, bad)
			if len(spec.Versions) == 0 {
				spec.Versions = nil
			}
		},
		read: func(ctx context.Context, name string, was *release) (*release, error) {
			if was != nil && was.TaskDefinition == "" {
				return nil, nil // what runs is the foundation's
			}
			s, err := c.server(ctx, o, name)
			if err != nil {
				return nil, err
			}
			return s.read(ctx, was)
		},
		write: func(ctx context.Context, name string, was *release, spec ReleaseSpec) (*release, error) {
			s, err := c.server(ctx, o, name)
			if err != nil {
				return nil, err
			}
			return s.release(ctx, was, spec)
		},
		remove: func(ctx context.Context, name string, was release) error {
			s, err := c.server(ctx, o, name)
			if err != nil {
				return err
			}
			return s.withdraw(ctx, was)
		},
		complete: func(spec ReleaseSpec, was *release) release {
			if was == nil || !was.same(spec) {
				return release{spec, ""}
			}
			return release{spec, was.TaskDefinition}
		},
	}
}

// same tells whether spec wants nothing else to be run.
func (r *release) same(spec ReleaseSpec) bool {
	return r.Image == spec.Image && r.Template == spec.Template && maps.Equal(r.Versions, spec.Versions)
}

func checkTimeout(timeout *string, usual time.Duration, bad func(member, format string, args ...any)) {
	*timeout = cmp.Or(*timeout, usual.String())
	d, err := time.ParseDuration(*timeout)
	if err != nil || d < leastTimeout || d > mostTimeout {
		bad("timeout", "is %q; it must be a duration of %v to %v, such as 20m", *timeout, leastTimeout, mostTimeout)
		return
	}
	*timeout = d.String()
}

// A server is a service of ECS that runs servers.
type server struct {
	*ecs.Client
	name             string
	cluster, service string
	say              func(ctx context.Context, format string, args ...any)
}

func (c *cloud) server(ctx context.Context, o Options, name string) (*server, error) {
	region, cluster, service, _ := service(name)
	there, err := c.in(ctx, region)
	if err != nil {
		return nil, err
	}
	return &server{ecs.NewFromConfig(there), name, cluster, service, func(ctx context.Context, format string, args ...any) {
		o.Progress(ctx, name, fmt.Sprintf(format, args...))
	}}, nil
}

// look is the service; nil if it is not there.
func (s *server) look(ctx context.Context) (*types.Service, error) {
	found, err := s.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: &s.cluster, Services: []string{s.service}})
	if err != nil && !isCode(err, "ClusterNotFoundException") {
		return nil, fmt.Errorf("look at the service %s: %w", s.name, err)
	}
	if err != nil || len(found.Services) == 0 || aws.ToString(found.Services[0].Status) == "INACTIVE" {
		return nil, nil
	}
	return &found.Services[0], nil
}

// A revision is one of a task definition.
type revision struct {
	*types.TaskDefinition
	tags []types.Tag // without AWS's own
}

// An origin is what a revision was made of, beside the image.
type origin struct {
	Template string            `json:"template,omitempty"` // none: it is a template itself
	Versions map[string]string `json:"versions,omitempty"` // of all that release
}

func (s *server) revision(ctx context.Context, name string) (*revision, error) {
	found, err := s.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: &name, Include: []types.TaskDefinitionField{types.TaskDefinitionFieldTags}})
	if err != nil {
		return nil, fmt.Errorf("look at the task definition %s: %w", name, err)
	}
	return &revision{found.TaskDefinition, slices.DeleteFunc(found.Tags, func(t types.Tag) bool { return strings.HasPrefix(aws.ToString(t.Key), "aws:") })}, nil
}

func (r *revision) arn() string { return aws.ToString(r.TaskDefinitionArn) }

// origin is what a revision was made of, and its image.
func (r *revision) origin() (o origin, image string) {
	if c := container(r.ContainerDefinitions, serverContainer); c != nil {
		_ = json.Unmarshal([]byte(c.DockerLabels[madeOf]), &o) // where there is none it stays empty
		image = aws.ToString(c.Image)
	}
	return o, image
}

// container is the one of a name; nil if there is none.
func container(list []types.ContainerDefinition, name string) *types.ContainerDefinition {
	for i := range list {
		if aws.ToString(list[i].Name) == name {
			return &list[i]
		}
	}
	return nil
}

// short is a revision for people, such as taskfleet-prod:12.
func short(arn string) string { return arn[strings.LastIndex(arn, "/")+1:] }

// read is the release that runs. Of its versions only those are told that was has; without was, all.
func (s *server) read(ctx context.Context, was *release) (*release, error) {
	service, err := s.look(ctx)
	if service == nil || err != nil {
		return nil, err
	}
	runs := aws.ToString(service.TaskDefinition)
	if was != nil && was.TaskDefinition == runs {
		return was, nil
	}
	r, err := s.revision(ctx, runs)
	if err != nil {
		return nil, err
	}
	of, image := r.origin()
	is := &release{ReleaseSpec{Image: image, Template: of.Template, Versions: of.Versions, Timeout: defaultTimeout.String()}, runs}
	if was != nil {
		is.Migrate, is.Timeout, is.Versions = was.Migrate, was.Timeout, nil
		for arn := range was.Versions {
			if version := of.Versions[arn]; version != "" {
				if is.Versions == nil {
					is.Versions = map[string]string{}
				}
				is.Versions[arn] = version
			}
		}
	}
	return is, nil
}

// release has the service run what spec says, and waits until it does.
func (s *server) release(ctx context.Context, was *release, spec ReleaseSpec) (*release, error) {
	timeout, err := time.ParseDuration(spec.Timeout)
	if err != nil {
		return nil, err
	}
	service, err := s.look(ctx)
	if err == nil && service == nil {
		err = fmt.Errorf("there is no service %s: taskfleet infra apply makes it, and taskfleet infra output --manifest says then where it is", s.name)
	}
	if err != nil {
		return nil, err
	}
	template, err := s.revision(ctx, spec.Template)
	if err == nil && template.Status != types.TaskDefinitionStatusActive {
		err = fmt.Errorf("the foundation has another template than %s now, so the manifest is stale. Write it anew: taskfleet infra output --manifest -o FILE", short(spec.Template))
	}
	if err != nil {
		return nil, err
	}
	versions := maps.Clone(spec.Versions)
	if was != nil {
		versions = without(was.Versions)
		maps.Copy(versions, spec.Versions)
	}
	r, err := s.prepare(ctx, service, template, spec.Image, versions)
	if err != nil {
		return nil, err
	}
	if spec.Migrate {
		if err := s.migrate(ctx, service, r, timeout); err != nil {
			return nil, err
		}
	}
	if err := s.roll(ctx, service, r, was, timeout); err != nil {
		return nil, err
	}
	return &release{spec, r.arn()}, nil
}

// without says of each version that there is to be none.
func without(versions map[string]string) map[string]string {
	none := map[string]string{}
	for arn := range versions {
		none[arn] = noVersion
	}
	return none
}

// withdraw has the service run without the configuration that a release has versions of.
func (s *server) withdraw(ctx context.Context, was release) error {
	service, err := s.look(ctx)
	if service == nil || err != nil {
		return err
	}
	runs, err := s.revision(ctx, aws.ToString(service.TaskDefinition))
	if err != nil {
		return err
	}
	of, image := runs.origin()
	if of.Template == "" {
		return nil // nothing was released
	}
	template, err := s.revision(ctx, of.Template)
	if err != nil {
		return err
	}
	r, err := s.prepare(ctx, service, template, image, without(was.Versions))
	if err != nil {
		return err
	}
	if d := primary(service); d != nil && d.RolloutState == types.DeploymentRolloutStateCompleted {
		return s.roll(ctx, service, r, nil, defaultTimeout)
	}
	return s.update(ctx, r.arn(), false) // what does not run well is not waited for
}

// prepare finds the revision that is to be run, if it is run or was registered last, and registers it otherwise. Versions that others
// have released stay.
func (s *server) prepare(ctx context.Context, service *types.Service, template *revision, image string, versions map[string]string) (*revision, error) {
	runs, err := s.revision(ctx, aws.ToString(service.TaskDefinition))
	if err != nil {
		return nil, err
	}
	last, err := s.revision(ctx, aws.ToString(template.Family)) // a family is its latest revision
	if err != nil {
		return nil, err
	}
	of, _ := runs.origin()
	want := origin{template.arn(), map[string]string{}}
	maps.Copy(want.Versions, of.Versions)
	maps.Copy(want.Versions, versions)
	for _, r := range []*revision{runs, last} {
		of, runs := r.origin()
		if r.Status == types.TaskDefinitionStatusActive && runs == image && of.Template == want.Template && maps.Equal(of.Versions, want.Versions) {
			return r, nil
		}
	}
	input, err := fill(template, image, want)
	if err != nil {
		return nil, err
	}
	return s.register(ctx, input)
}

func (s *server) register(ctx context.Context, want *ecs.RegisterTaskDefinitionInput) (*revision, error) {
	made, err := s.RegisterTaskDefinition(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("register a revision of the task definition %s: %w", aws.ToString(want.Family), err)
	}
	r := &revision{made.TaskDefinition, made.Tags}
	s.say(ctx, "registered %s", short(r.arn()))
	return r, nil
}

// fill is a template with an image, and with versions of the configuration.
func fill(template *revision, image string, of origin) (*ecs.RegisterTaskDefinitionInput, error) {
	want := again(template)
	want.ContainerDefinitions = slices.Clone(want.ContainerDefinitions)
	c := container(want.ContainerDefinitions, serverContainer)
	if c == nil {
		return nil, fmt.Errorf("the task definition %s has no container %s: is it the foundation's?", short(template.arn()), serverContainer)
	}
	label, err := marshal(of)
	if err != nil {
		return nil, err
	}
	c.Image = &image
	c.DockerLabels = maps.Clone(c.DockerLabels)
	if c.DockerLabels == nil {
		c.DockerLabels = map[string]string{}
	}
	c.DockerLabels[madeOf] = string(label)
	for i := range want.ContainerDefinitions {
		c := &want.ContainerDefinitions[i]
		c.Environment = slices.Clone(c.Environment)
		for j, v := range c.Environment {
			if aws.ToString(v.Name) == configVariable {
				c.Environment[j].Value = aws.String(pinned(aws.ToString(v.Value), of.Versions))
			}
		}
	}
	return want, nil
}

// pinned is a list of secrets with the versions that are to be read, as infra/modules/service/files.sh has it.
func pinned(list string, versions map[string]string) string {
	var out []string
	for _, arn := range strings.Fields(list) {
		switch version := versions[arn]; version {
		case "":
			out = append(out, arn)
		case noVersion:
		default:
			out = append(out, arn+"#"+version)
		}
	}
	return strings.Join(out, " ")
}

// again is what registers a revision like another: all that is both what a revision has and what can be registered.
func again(r *revision) *ecs.RegisterTaskDefinitionInput {
	want := &ecs.RegisterTaskDefinitionInput{Tags: r.tags}
	from, to := reflect.ValueOf(r.TaskDefinition).Elem(), reflect.ValueOf(want).Elem()
	for i := range to.NumField() {
		f := from.FieldByName(to.Type().Field(i).Name)
		if to.Field(i).CanSet() && f.IsValid() && f.Type() == to.Field(i).Type() {
			to.Field(i).Set(f)
		}
	}
	return want
}
