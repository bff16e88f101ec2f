package aws

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Keys is an access key that is replaced while clients use it. The roles that it
// assumes are assumed with the new one when they are due.
type Keys struct {
	mu      sync.Mutex
	current *aws.Credentials // nil: those of the environment
	bases   []aws.Config     // that they are over
}

// over returns the credentials of a configuration, which are its own until there is
// a key.
func (k *Keys) over(base aws.Config) aws.CredentialsProvider {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bases = append(k.bases, base)
	own := base.Credentials
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		k.mu.Lock()
		current := k.current
		k.mu.Unlock()
		if current != nil {
			return *current, nil
		}
		return own.Retrieve(ctx)
	})
}

// Use has clients use a key from now on, if AWS knows it. A session token comes with
// keys that last for a while.
func (k *Keys) Use(ctx context.Context, accessKeyID, secretAccessKey, sessionToken string) error {
	if accessKeyID == "" || secretAccessKey == "" {
		return errors.New("a key is both an access key id and a secret access key")
	}
	next := &aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: secretAccessKey, SessionToken: sessionToken, Source: "aws.Keys"}
	k.mu.Lock()
	bases := k.bases
	k.mu.Unlock()
	for _, base := range bases {
		c := base.Copy()
		c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return *next, nil })
		if c.Region == "" {
			c.Region = "us-east-1" // the answer is the same everywhere
		}
		if _, err := sts.NewFromConfig(c).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err != nil {
			return fmt.Errorf("asking AWS who has the access key %s: %w", accessKeyID, err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = next
	return nil
}
