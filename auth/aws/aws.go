// Package aws issues temporary credentials for parts of S3 buckets: it
// implements auth.AWS.
//
// It holds keys of IAM users, each with the buckets that it may give access to.
// From such a key STS makes credentials for a federated user, which may do what
// both the IAM user may and the policy says that goes along: here, objects of
// one bucket whose keys begin with a prefix. So the IAM user needs
// sts:GetFederationToken, and whatever is to be given away.
//
// Setting an object's ACL is never part of it: who may do that once can give
// himself access that outlasts the credentials.
package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/ownbody"
)

// A Key is an IAM user's, with the buckets that it gives access to.
type Key struct {
	AccessKeyID     string   `yaml:"accessKeyId"`
	SecretAccessKey string   `yaml:"secretAccessKey"`
	Buckets         []string `yaml:"buckets"`
}

// LogValue leaves the secret out.
func (k Key) LogValue() slog.Value {
	return slog.GroupValue(slog.String("accessKeyId", k.AccessKeyID), slog.Any("buckets", k.Buckets))
}

// String leaves the secret out.
func (k Key) String() string { return k.LogValue().String() }

// GoString leaves the secret out.
func (k Key) GoString() string { return k.String() }

// Config says what access is given to.
type Config struct {
	Keys      []Key             `yaml:"keys"`
	Region    string            `yaml:"region"`   // where STS is asked; us-east-1 where it is ""
	Endpoint  string            `yaml:"endpoint"` // replaces AWS's own
	Transport http.RoundTripper `yaml:"-"`        // for tests
}

// Federation issues credentials through STS.
type Federation struct {
	clients map[string]*sts.Client // by bucket
}

var _ auth.AWS = (*Federation)(nil)

const (
	validity  = time.Hour
	timeout   = 20 * time.Second // of one attempt
	maxPolicy = 2048             // characters; a limit of STS

	// federatedUser is what the temporary credentials are called in policies
	// and logs of AWS. IAM users may be restricted to this name.
	federatedUser = "TemporaryS3ReadWriteCredentials"
)

// New checks the configuration. It does not connect.
func New(c Config) (*Federation, error) {
	f := &Federation{map[string]*sts.Client{}}
	for _, k := range c.Keys {
		if k.AccessKeyID == "" || k.SecretAccessKey == "" {
			return nil, errors.New("auth: aws: a key lacks its accessKeyId or its secretAccessKey")
		}
		o := sts.Options{
			Region:      "us-east-1",
			Credentials: credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.SecretAccessKey, ""),
			HTTPClient:  ownbody.Client(&http.Client{Transport: c.Transport, Timeout: timeout}),
		}
		if c.Region != "" {
			o.Region = c.Region
		}
		if c.Endpoint != "" {
			o.BaseEndpoint = &c.Endpoint
		}
		client := sts.New(o)
		for _, b := range k.Buckets {
			if f.clients[b] != nil {
				return nil, fmt.Errorf("auth: aws: two keys are for bucket %s; leave it to one", b)
			}
			f.clients[b] = client
		}
	}
	return f, nil
}

// S3Credentials implements auth.AWS.
func (f *Federation) S3Credentials(ctx context.Context, bucket, prefix string, write bool) (c auth.S3Credentials, err error) {
	client := f.clients[bucket]
	if client == nil {
		return c, api.Errorf(api.ResourceNotFound, "This deployment gives no access to the bucket %s: an operator would have to add it to the buckets of a key of AWS (auth.aws).", bucket)
	}
	p := policy(bucket, prefix, write)
	if len(p) > maxPolicy {
		return c, api.Errorf(api.InputError, "The prefix is too long for a policy of AWS, which has at most %d characters; with this prefix it would have %d.", maxPolicy, len(p))
	}
	out, err := client.GetFederationToken(ctx, &sts.GetFederationTokenInput{
		Name: aws.String(federatedUser), Policy: &p, DurationSeconds: aws.Int32(int32(validity / time.Second)),
	})
	if err != nil {
		return c, fmt.Errorf("auth: get credentials of AWS for %s in bucket %s: %w", prefix, bucket, err)
	}
	x := out.Credentials
	if x == nil || x.AccessKeyId == nil || x.SecretAccessKey == nil || x.SessionToken == nil || x.Expiration == nil {
		return c, fmt.Errorf("auth: get credentials of AWS for bucket %s: the answer of STS has none", bucket)
	}
	return auth.S3Credentials{
		AccessKeyID: *x.AccessKeyId, SecretAccessKey: *x.SecretAccessKey, SessionToken: *x.SessionToken, Expires: *x.Expiration,
	}, nil
}

type statement struct {
	Sid       string
	Effect    string
	Action    []string
	Resource  string
	Condition map[string]map[string]string `json:",omitempty"`
}

// literal keeps a policy from taking characters of a prefix for patterns or
// variables: the access given would be wider than the scopes say.
var literal = strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}")

func policy(bucket, prefix string, write bool) string {
	arn, keys := "arn:aws:s3:::"+bucket, literal.Replace(prefix)+"*"
	objects := []string{"s3:GetObject"}
	if write {
		objects = slices.Concat(objects, []string{"s3:PutObject", "s3:DeleteObject"})
	}
	text, err := json.Marshal(map[string]any{
		"Version": "2012-10-17",
		"Statement": []statement{
			{"Objects", "Allow", objects, arn + "/" + keys, nil},
			{"List", "Allow", []string{"s3:ListBucket"}, arn, map[string]map[string]string{"StringLike": {"s3:prefix": keys}}},
			{"Location", "Allow", []string{"s3:GetBucketLocation"}, arn, nil},
		},
	})
	if err != nil {
		panic(err) // texts always marshal
	}
	return string(text)
}
