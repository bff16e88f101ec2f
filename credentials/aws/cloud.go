// Package aws rotates credentials of AWS: access keys of IAM users are Keys, sessions of
// roles and of federated users are Sessions. Secrets publishes into AWS Secrets Manager
// what was rotated, of whatever kind.
//
// Passwords of databases on RDS are of the kind postgres.
package aws

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/ownbody"
)

// A Cloud is how AWS is reached. The zero Cloud is what the SDK finds by itself:
// environment, files of ~/.aws, the role of the container or the machine.
type Cloud struct {
	Endpoint  string                  // replaces the addresses of all services, for an imitation of them
	Transport http.RoundTripper       // replaces that of HTTP
	Identity  aws.CredentialsProvider // replaces what the SDK finds

	mu   sync.Mutex
	open map[string]opened // by as and region
}

// An opened configuration is kept for a while, and not for longer: the server's own key
// may be one that is rotated, in a file that it finds it in.
type opened struct {
	aws.Config
	since time.Time
}

// As is who a rotation acts as, where that is not who the server is.
type As struct {
	Profile    string `json:"profile"`    // in the files of ~/.aws
	Role       string `json:"role"`       // ARN of a role that is assumed for it
	ExternalID string `json:"externalId"` // that the role asks for
}

const (
	callLimit = 20 * time.Second // of one attempt at a call
	keepOpen  = time.Minute

	// defaultRegion is where STS is asked. IAM has none.
	defaultRegion = "us-east-1"
)

var (
	regionPattern = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d+$`)
	rolePattern   = regexp.MustCompile(`^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$`)
)

func (a As) check() error {
	switch {
	case a.Role != "" && !rolePattern.MatchString(a.Role):
		return fmt.Errorf("as.role is %q; it must be the ARN of a role, such as arn:aws:iam::123456789012:role/rotator", a.Role)
	case a.ExternalID != "" && a.Role == "":
		return errors.New("as.externalId is of no use without as.role")
	}
	return nil
}

func checkRegion(region string) error {
	if region != "" && !regionPattern.MatchString(region) {
		return fmt.Errorf("region is %q; it must be one of AWS's, such as eu-central-1", region)
	}
	return nil
}

// settings reads those of a kind.
func settings(text json.RawMessage, into any, names string) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("the settings are %s: %w", names, err)
	}
	return nil
}

// span reads a time that may be in days, such as 30d.
func span(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 12)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// config is that of clients in a region, for whoever acts.
func (c *Cloud) config(ctx context.Context, as As, region string) (aws.Config, error) {
	region = cmp.Or(region, defaultRegion)
	c.mu.Lock()
	defer c.mu.Unlock()
	key := fmt.Sprintf("%q %q", as, region)
	if found, ok := c.open[key]; ok && time.Since(found.since) < keepOpen {
		return found.Config, nil
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(region), config.WithLogger(logging.Nop{}),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 3, 3*time.Second })
		}),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callLimit)),
	}
	if as.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(as.Profile))
	}
	if c.Identity != nil {
		options = append(options, config.WithCredentialsProvider(c.Identity))
	}
	found, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return found, fmt.Errorf("looking for the configuration of AWS: %w", err)
	}
	if c.Transport != nil {
		found.HTTPClient = &http.Client{Transport: c.Transport, Timeout: callLimit}
	}
	found.HTTPClient = ownbody.Client(found.HTTPClient)
	if c.Endpoint != "" {
		found.BaseEndpoint = &c.Endpoint
	}
	if as.Role != "" {
		found.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(found), as.Role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "taskfleet-credentials"
			if as.ExternalID != "" {
				o.ExternalID = &as.ExternalID
			}
		}))
	}
	if c.open == nil {
		c.open = map[string]opened{}
	}
	c.open[key] = opened{found, time.Now()}
	return found, nil
}

// A secret is what consumers get.
type secret struct {
	AccessKeyID     string     `json:"accessKeyId"`
	SecretAccessKey string     `json:"secretAccessKey"`
	SessionToken    string     `json:"sessionToken,omitempty"`
	Expiration      *time.Time `json:"expiration,omitempty"`
	Region          string     `json:"region,omitempty"`

	// CredentialsFile is all that in the form of ~/.aws/credentials.
	CredentialsFile string `json:"credentialsFile"`
}

func (s secret) encode() (json.RawMessage, error) {
	s.CredentialsFile = "[default]\naws_access_key_id = " + s.AccessKeyID + "\naws_secret_access_key = " + s.SecretAccessKey + "\n"
	if s.SessionToken != "" {
		s.CredentialsFile += "aws_session_token = " + s.SessionToken + "\n"
	}
	if s.Region != "" {
		s.CredentialsFile += "region = " + s.Region + "\n"
	}
	return json.Marshal(s)
}

// caller is who AWS takes the holder of a secret for. No policy can keep anybody from
// asking that.
func caller(ctx context.Context, c aws.Config, text json.RawMessage) (arn string, err error) {
	var s secret
	if json.Unmarshal(text, &s) != nil {
		return "", credentials.Refused("the secret cannot be read")
	}
	out, err := sts.NewFromConfig(c, func(o *sts.Options) {
		o.Credentials = awscredentials.NewStaticCredentialsProvider(s.AccessKeyID, s.SecretAccessKey, s.SessionToken)
	}).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Arn), nil
}

// code is what an answer of AWS calls an error; "" if there was no answer.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// lasting are errors that trying again does not mend.
var lasting = []string{
	"AccessDenied", "AccessDeniedException", "NoSuchEntity", "ResourceNotFoundException", "ValidationError", "ValidationException", "InvalidInput",
	"MalformedPolicyDocument", "PackedPolicyTooLarge", "RegionDisabledException", "InvalidParameterException", "DecryptionFailure", "EncryptionFailure",
}

// explain says what AWS has answered.
func explain(doing string, err error) error {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	text := e.ErrorCode()
	// What was signed is part of the message if the signature is wrong, with the token of the session.
	if m := e.ErrorMessage(); m != "" && text != "SignatureDoesNotMatch" && text != "InvalidSignatureException" && text != "IncompleteSignature" {
		text += ": " + m
	}
	if slices.Contains(lasting, e.ErrorCode()) {
		return credentials.Refused("%s: AWS says %s", doing, text)
	}
	return fmt.Errorf("%s: AWS says %s", doing, text)
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
