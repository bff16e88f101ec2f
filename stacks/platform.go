package stacks

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/stacks/platform"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// Tokens of the kinds of package platform.
const (
	tokenConfiguration   = "taskfleet:platform:Configuration"
	tokenGeneratedSecret = "taskfleet:platform:GeneratedSecret"
	tokenReplicas        = "taskfleet:platform:Replicas"
	tokenRelease         = "taskfleet:platform:Release"
	tokenRestart         = "taskfleet:platform:Restart"
)

// platformProgram is the servers: their configuration, what is made once, how many they are, and the release.
func platformProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Platform", in.environment.Name)
	if err != nil {
		return err
	}
	_, err = in.configure(ctx, top, "platform")
	return err
}

// configure registers a stack's part of the server's configuration, and what has the servers read it.
func (in *inputs) configure(ctx *pulumi.Context, top pulumi.Resource, stack string) ([]pulumi.Resource, error) {
	if in.environment.Platform == nil { // hooks alone, say: an environment with configuration says where that goes
		return nil, nil
	}
	if in.environment.Platform.Files != "" {
		return in.configureFiles(ctx, top, stack)
	}
	return in.configureService(ctx, top, stack)
}

// configureFiles writes a file and runs a command.
func (in *inputs) configureFiles(ctx *pulumi.Context, top pulumi.Resource, stack string) ([]pulumi.Resource, error) {
	document, has := in.documents[stack]
	if !has {
		return nil, nil
	}
	p := in.environment.Platform
	name := filepath.Join(in.environment.path(p.Files), stack+".yml")
	c, err := in.document(ctx, top, stack, name, document)
	if err != nil {
		return nil, err
	}
	restart, err := provider.Register(ctx, tokenRestart, in.rootURL, in.rootURL, pulumi.Map{
		"command":  pulumi.ToStringArray(p.Restart),
		"versions": pulumi.Map{stack: c.Computed.MapIndex(pulumi.String("version"))},
	}, pulumi.Parent(top))
	return []pulumi.Resource{restart}, err
}

// configureService writes secrets, and rolls out a release that reads them.
func (in *inputs) configureService(ctx *pulumi.Context, top pulumi.Resource, stack string) ([]pulumi.Resource, error) {
	m, p := in.manifest, in.environment.Platform
	versions := pulumi.Map{}
	if document, has := in.documents[stack]; has {
		name := m.ConfigurationSecretARNs[stack]
		c, err := in.document(ctx, top, stack, name, document)
		if err != nil {
			return nil, err
		}
		versions[name] = c.Computed.MapIndex(pulumi.String("version"))
	}
	if stack == "platform" {
		for name, content := range map[string]string{m.ServerSecretARN: "server", m.MetricsSecretARN: "token"} {
			s, err := provider.Register(ctx, tokenGeneratedSecret, content, name, platform.GeneratedSecretSpec{Content: content}, pulumi.Parent(top), pulumi.RetainOnDelete(true))
			if err != nil {
				return nil, err
			}
			versions[name] = s.Computed.MapIndex(pulumi.String("version"))
		}
	}
	service := platform.Service(m.ServiceRegion, m.ClusterName, m.ServiceName)
	var after []pulumi.Resource
	if stack == "platform" && p.Replicas != nil {
		r, err := provider.Register(ctx, tokenReplicas, "replicas", service, platform.ReplicasSpec{Min: platform.Count(p.Replicas.Min), Max: platform.Count(p.Replicas.Max)}, pulumi.Parent(top))
		if err != nil {
			return nil, err
		}
		after = append(after, r)
	}
	if len(versions) == 0 || p.Image == "" {
		return after, nil
	}
	migrate := p.Migrate == nil || *p.Migrate
	r, err := provider.Register(ctx, tokenRelease, "release", service, pulumi.Map{
		"image":    pulumi.String(p.Image),
		"template": pulumi.String(m.TaskDefinitionARN),
		"versions": versions,
		"migrate":  pulumi.Bool(migrate && stack == "platform"),
	}, pulumi.Parent(top), pulumi.DependsOn(after))
	if err != nil {
		return nil, err
	}
	ctx.Export("taskDefinition", r.Computed.MapIndex(pulumi.String("taskDefinition")))
	return append(after, r), nil
}

// document registers a part of the configuration. What the other parts and the foundation configure it may not have.
func (in *inputs) document(ctx *pulumi.Context, top pulumi.Resource, stack, name, document string) (*provider.Resource, error) {
	reserved := map[string]bool{}
	if in.manifest != nil {
		for _, s := range in.manifest.ConfigurationSections {
			reserved[s] = true
		}
	}
	for other, text := range in.documents {
		if other == stack {
			continue
		}
		var sections map[string]yaml.Node
		if yaml.Unmarshal([]byte(text), &sections) != nil {
			return nil, fmt.Errorf("the configuration of %s is no YAML with sections", other)
		}
		for s := range sections {
			reserved[s] = true
		}
	}
	return provider.Register(ctx, tokenConfiguration, stack, name, platform.ConfigurationSpec{Document: document, Reserved: slices.Sorted(maps.Keys(reserved))}, pulumi.Parent(top))
}
