//go:build !agent

package main

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/local"
	"github.com/taskfleet/taskfleet/provisioner/static"
)

// ProviderConfig sets up a provider of workers. The providers local and static
// are always there.
type ProviderConfig struct {
	Type string `yaml:"type"` // aws

	Cluster              string            `yaml:"cluster"`              // names what the provider makes, in tags
	Regions              []string          `yaml:"regions"`              // where instances may be launched
	Accounts             []AccountConfig   `yaml:"accounts"`             // the first is that of pools which name none
	InstanceProfiles     []string          `yaml:"instanceProfiles"`     // that pools may give to their instances
	Requests             float64           `yaml:"requests"`             // share of AWS's limits on requests
	IdentityCertificates map[string]string `yaml:"identityCertificates"` // PEM by region, beyond those that AWS has published
	Endpoint             string            `yaml:"endpoint"`             // of all services; for tests
}

// AccountConfig is an AWS account.
type AccountConfig struct {
	ID         string            `yaml:"id"`
	Role       string            `yaml:"role"`
	ExternalID string            `yaml:"externalId"`
	Queues     map[string]string `yaml:"queues"`
}

// builtIn are the providers that need no configuration.
var builtIn = []string{"local", "static"}

// checkProviders finds what cannot work.
func (c *Config) checkProviders(bad func(path, format string, args ...any)) {
	for _, id := range slices.Sorted(maps.Keys(c.Providers)) {
		p, path := c.Providers[id], "providers."+id
		switch {
		case slices.Contains(builtIn, id):
			bad(path, "%s is always there and has no settings; give the provider another name", path)
			continue
		case p.Type != "aws":
			bad(path, "%s.type is %q; it must be aws", path, p.Type)
			continue
		}
		for region, text := range p.IdentityCertificates {
			if block, _ := pem.Decode([]byte(text)); block == nil {
				bad(path, "%s.identityCertificates.%s is not PEM", path, region)
			}
		}
		if _, err := c.openAWS(p, func(aws.Account, string) aws.Clients { return aws.Clients{} }, nil); err != nil {
			bad(path, "%s: %v", path, err)
		}
	}
}

// openAWS makes an aws provider that reaches AWS by clients.
func (c *Config) openAWS(p ProviderConfig, clients func(aws.Account, string) aws.Clients, log *slog.Logger) (*aws.Provider, error) {
	certificates := identity.Published()
	for region, text := range p.IdentityCertificates {
		if err := certificates.Add(region, []byte(text)); err != nil {
			return nil, fmt.Errorf("identityCertificates.%s: %w", region, err)
		}
	}
	config := aws.Config{
		Cluster: p.Cluster, RootURL: c.RootURL, Regions: p.Regions, InstanceProfiles: p.InstanceProfiles,
		Requests: p.Requests, Certificates: certificates, Clients: clients, Log: log,
	}
	if config.RootURL == "" {
		config.RootURL = "http://" + c.Listen
	}
	for _, a := range p.Accounts {
		config.Accounts = append(config.Accounts, aws.Account(a))
	}
	return aws.New(config)
}

// openProviders opens what makes workers.
func (p *platform) openProviders(ctx context.Context, c Config) (_ map[string]fleet.Provider, err error) {
	if p.workers, err = local.New(local.Config{RootURL: p.RootURL, Dir: c.Data, Log: p.log}); err != nil {
		return nil, err
	}
	all := map[string]fleet.Provider{"local": p.workers, "static": static.Provider{}}
	keys := &aws.Keys{}
	if len(c.Providers) > 0 {
		p.again.takeAWS(keys)
	}
	for id, settings := range c.Providers {
		clients, err := aws.SDK(ctx, settings.Endpoint, keys)
		if err != nil {
			return nil, fmt.Errorf("provider %s: finding credentials for AWS: %w", id, err)
		}
		c.RootURL = p.RootURL
		provider, err := c.openAWS(settings, clients, p.log)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", id, err)
		}
		all[id] = provider
		p.background = append(p.background, provider.Run)
	}
	return all, nil
}
