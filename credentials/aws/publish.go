package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Secrets publishes into AWS Secrets Manager what has the ARN of a secret for a name,
// and all else into the secrets of the platform. A secret of AWS has to be there; the
// version before stays in it as AWSPREVIOUS.
type Secrets struct {
	Cloud    *Cloud
	Platform credentials.Secrets
}

const secretARN = "arn:aws"

// Set implements credentials.Secrets. Repeated it makes one more version of the same.
func (s Secrets) Set(ctx context.Context, name string, value json.RawMessage, expires timestamp.Time) error {
	if !strings.HasPrefix(name, secretARN) {
		return s.Platform.Set(ctx, name, value, expires)
	}
	at, err := arn.Parse(name)
	if err != nil || at.Service != "secretsmanager" || !strings.HasPrefix(at.Resource, "secret:") {
		return credentials.Refused("%q is neither the name of a secret of the platform nor the ARN of one of AWS, such as arn:aws:secretsmanager:eu-central-1:123456789012:secret:builds/database-AbCdEf", name)
	}
	c, err := s.Cloud.config(ctx, As{}, at.Region)
	if err != nil {
		return err
	}
	if _, err := secretsmanager.NewFromConfig(c).PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: aws.String(string(value))}); err != nil {
		return explain(fmt.Sprintf("putting a value into the secret %s", name), err)
	}
	return nil
}
