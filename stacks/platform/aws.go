package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/taskfleet/taskfleet/ownbody"
)

// A cloud is AWS, with the credentials and the endpoints of the environment.
type cloud struct {
	transport http.RoundTripper

	mu   sync.Mutex
	base *aws.Config
}

const (
	attempts  = 10          // of a call. Who deploys would rather wait than begin again
	callLimit = time.Minute // of an attempt: one that hangs would hold up all that has a limit of its own
)

// in is the configuration of clients in a region.
func (c *cloud) in(ctx context.Context, region string) (aws.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base == nil {
		found, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}), config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts = attempts })
		}))
		if err != nil {
			return aws.Config{}, fmt.Errorf("look for the configuration of AWS: %w", err)
		}
		found.HTTPClient = awshttp.NewBuildableClient().WithTimeout(callLimit)
		if c.transport != nil {
			found.HTTPClient = &http.Client{Transport: c.transport, Timeout: callLimit}
		}
		found.HTTPClient = ownbody.Client(found.HTTPClient)
		c.base = &found
	}
	there := c.base.Copy()
	there.Region = region
	return there, nil
}

// regionPattern is that of names of regions, which are put into names of hosts.
var regionPattern = regexp.MustCompile(`^[a-z]+(-[a-z]+)+-[0-9]+$`)

// secretRegion is the region of a secret, by its ARN.
func secretRegion(name string) (string, error) {
	a, err := arn.Parse(name)
	if err != nil || a.Service != "secretsmanager" || !regionPattern.MatchString(a.Region) || !strings.HasPrefix(a.Resource, "secret:") {
		return "", fmt.Errorf("%q is no ARN of a secret of AWS Secrets Manager, such as arn:aws:secretsmanager:eu-central-1:123456789012:secret:taskfleet-prod/server-AbCdEf", name)
	}
	return a.Region, nil
}

// isCode tells whether AWS has answered with an error of that code.
func isCode(err error, code string) bool {
	var e smithy.APIError
	return errors.As(err, &e) && e.ErrorCode() == code
}
