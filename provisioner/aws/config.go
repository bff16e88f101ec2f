package aws

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
)

// Config is how a provider reaches AWS, and how much of it it may use.
type Config struct {
	// Cluster names all that the provider makes, in a tag: it sees and ends what
	// has this tag, and nothing else. Two providers that can see each other's
	// instances need different names.
	Cluster string
	// RootURL is where workers find the services.
	RootURL string
	// Accounts that instances may be launched in; the first is that of pools
	// which name none.
	Accounts []Account
	// Regions that instances may be launched in. All are swept for instances,
	// whether or not a pool uses them.
	Regions []string
	// Clients reaches the services of an account in a region; see [SDK].
	Clients func(account Account, region string) Clients
	// InstanceProfiles are the IAM instance profiles, by name or ARN, that pools
	// may give to their instances. A profile is permissions for whoever may
	// define a pool, so that none is allowed by default.
	InstanceProfiles []string
	// Requests is how much of the request rates that AWS documents the provider
	// uses, from 0 to 1; 0 is 0.7.
	Requests float64
	// Resources is the same for how many instances may be launched and ended in
	// however few requests; 0 is 0.95. It is more, because nobody else uses it
	// up by reading.
	Resources float64
	// OnDemandPrice is the price of an hour in dollars; 0 is not known. nil is a
	// built-in table of Linux prices, see [ListPrice].
	OnDemandPrice func(region, instanceType string) float64
	// Certificates that identity documents are checked with; nil is those that
	// AWS publishes.
	Certificates identity.Certificates
	// Seed decides jitter and the ids of intents. 0 draws one: ids must never
	// come again, so that everything but a simulation wants that.
	Seed uint64
	// Now is the time of day, for Run and for certificates; nil is time.Now.
	// All else is told the time.
	Now func() time.Time
	// Log gets what no pool is to be told of; nil is the default logger.
	Log *slog.Logger
}

// An Account is an AWS account.
type Account struct {
	ID         string `json:"id"`                   // twelve digits
	Role       string `json:"role,omitempty"`       // ARN of the role to assume; "": the credentials of the environment are the account's
	ExternalID string `json:"externalId,omitempty"` // that the role asks for
	// Queues are the URLs of SQS queues with EC2's events, by region: an
	// EventBridge rule in the region puts there what has the source aws.ec2 and is
	// an Instance State-change Notification, a Spot Instance Interruption Warning
	// or an Instance Rebalance Recommendation. A region without one is swept every
	// minute all the same, and learns of interruptions when they have happened.
	Queues map[string]string `json:"queues,omitempty"`
}

func (c *Config) check() error {
	switch {
	case c.Cluster == "":
		return errors.New("the aws provider needs the name of the cluster, which marks the instances that are its own")
	case len(c.Cluster) > 64 || strings.ContainsFunc(c.Cluster, notInNames):
		return fmt.Errorf("the aws provider's cluster name %q may have letters, digits, hyphens, dots and underscores, 64 at most", c.Cluster)
	case c.RootURL == "":
		return errors.New("the aws provider needs the root URL, which instances are told")
	case len(c.Accounts) == 0:
		return errors.New("the aws provider needs an account: give its twelve-digit id, and a role to assume if the server's credentials are of another account")
	case len(c.Regions) == 0:
		return errors.New("the aws provider needs regions to launch instances in, such as us-east-1")
	case c.Clients == nil:
		return errors.New("the aws provider needs a way to call AWS")
	case c.Requests < 0 || c.Requests > 1 || c.Resources < 0 || c.Resources > 1:
		return errors.New("the aws provider's shares of AWS's limits must be from 0 to 1")
	}
	for i, a := range c.Accounts {
		if len(a.ID) != 12 || strings.ContainsFunc(a.ID, func(r rune) bool { return r < '0' || r > '9' }) {
			return fmt.Errorf("the aws provider's account %q is not a twelve-digit account id", a.ID)
		}
		if slices.ContainsFunc(c.Accounts[:i], func(b Account) bool { return a.ID == b.ID }) {
			return fmt.Errorf("the aws provider has account %s twice", a.ID)
		}
		for region := range a.Queues {
			if !slices.Contains(c.Regions, region) {
				return fmt.Errorf("account %s of the aws provider has a queue in region %s, which is not one of the provider's regions: %s", a.ID, region, strings.Join(c.Regions, ", "))
			}
		}
	}
	if c.Requests == 0 {
		c.Requests = 0.7
	}
	if c.Resources == 0 {
		c.Resources = 0.95
	}
	if c.OnDemandPrice == nil {
		c.OnDemandPrice = ListPrice
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

func notInNames(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
}
