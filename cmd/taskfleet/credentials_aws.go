//go:build !agent

package main

import (
	"context"

	"github.com/taskfleet/taskfleet/credentials"
	awskind "github.com/taskfleet/taskfleet/credentials/aws"
	"github.com/taskfleet/taskfleet/credentials/postgres"
)

// addAWS adds what is minted at AWS: keys and sessions, roles of databases to which IAM
// opens the door, and secrets there that versions of all kinds can be published in. Who
// does that is who the AWS SDK finds, as for providers, or what the settings of a
// credential say.
func addAWS(to *credentials.Config) {
	cloud := &awskind.Cloud{}
	to.Kinds["aws-access-key"] = awskind.Keys{Cloud: cloud}
	to.Kinds["aws-session"] = awskind.Sessions{Cloud: cloud}
	to.Kinds["postgres"] = postgres.Kind{Logins: map[string]func(context.Context, string, uint16, string) (string, error){"aws-iam": cloud.DatabaseToken}}
	to.Secrets = awskind.Secrets{Cloud: cloud, Platform: to.Secrets}
}
