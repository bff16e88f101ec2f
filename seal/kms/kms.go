// Package kms keeps the keys of package seal under a key of AWS KMS: what lies
// in the configuration is of no use without the permission to have KMS decrypt
// it, which KMS logs and which can be taken away.
//
// A key of seal is a data key of KMS. Its line in the configuration has the ARN
// of the KMS key and the data key as KMS has encrypted it:
//
//	taskfleet-kms-key-1 arn:aws:kms:eu-west-1:123456789012:key/… BASE64
//
// Such lines and those of plain keys can stand together, the newest one last,
// so that a platform moves from the one to the other, or from one KMS key to
// another, as it changes any key. Client.ParseKey reads both.
//
// Three things are checked by KMS itself: that the data key was encrypted under
// the key that the line names, that it was made for this purpose (the
// encryption context says so), and that it was not changed. KMS is asked once
// for each line when a server starts, and never again.
package kms

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/logging"

	"github.com/taskfleet/taskfleet/ownbody"
	"github.com/taskfleet/taskfleet/seal"
)

const (
	prefix  = "taskfleet-kms-key-1 "
	timeout = time.Minute // of a call, with all attempts
)

// purpose is part of what KMS authenticates, stands in its log, and can be a
// condition in the policy of the KMS key.
var purpose = map[string]string{"purpose": "taskfleet-seal"}

// Config says where KMS is and how to identify to it. The zero Config is what
// the AWS SDK finds: environment, shared files, the machine's role.
type Config struct {
	// Region is where NewKey finds a KMS key that is named by its id or alias.
	// An ARN names its region itself.
	Region string
	// Endpoint replaces AWS's own, for an imitation of it.
	Endpoint string
	// Credentials replace those that the SDK finds.
	Credentials aws.CredentialsProvider
	// Transport replaces the HTTP transport.
	Transport http.RoundTripper
}

// A Client makes and opens keys. It is safe for concurrent use.
type Client struct{ kms *kms.Client }

// Open returns a client, without asking KMS anything.
func Open(ctx context.Context, c Config) (*Client, error) {
	options := []func(*config.LoadOptions) error{
		config.WithLogger(logging.Nop{}),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = 5, 5*time.Second })
		}),
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.Credentials != nil {
		options = append(options, config.WithCredentialsProvider(c.Credentials))
	}
	if c.Transport != nil {
		options = append(options, config.WithHTTPClient(&http.Client{Transport: c.Transport}))
	}
	found, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("kms: look for the AWS configuration: %w", err)
	}
	found.HTTPClient = ownbody.Client(found.HTTPClient)
	return &Client{kms.NewFromConfig(found, func(o *kms.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})}, nil
}

// NewKey has KMS make a data key under the KMS key with that ARN, id or alias,
// and returns its line for the configuration. The line is no secret.
func (c *Client) NewKey(ctx context.Context, kmsKey string) (line string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	made, err := c.kms.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &kmsKey, KeySpec: types.DataKeySpecAes256, EncryptionContext: purpose,
	}, in(kmsKey))
	if err != nil {
		return "", fmt.Errorf("kms: make a data key under %s: %w", kmsKey, explain(err))
	}
	clear(made.Plaintext) // whoever reads the line gets it from KMS
	name := cmp.Or(aws.ToString(made.KeyId), kmsKey)
	if _, err := arn.Parse(name); err != nil || len(made.CiphertextBlob) == 0 {
		return "", fmt.Errorf("kms: make a data key under %s: the answer names the key %q and has %d encrypted bytes; an ARN and some bytes were expected", kmsKey, name, len(made.CiphertextBlob))
	}
	return prefix + name + " " + base64.StdEncoding.EncodeToString(made.CiphertextBlob), nil
}

// ParseKey returns a function that reads a line of the configuration, for
// seal.ParseKeysWith and seal.ReadFileWith: one that NewKey returned, which it
// has KMS decrypt, or a plain key.
func (c *Client) ParseKey(ctx context.Context) func(line string) (seal.Key, error) {
	return func(line string) (seal.Key, error) {
		if !Wrapped(line) {
			return seal.ParseKey(line)
		}
		return c.unwrap(ctx, line)
	}
}

// Wrapped reports whether text has a line of this package's form: whether a
// configuration needs KMS at all.
func Wrapped(text string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), prefix) {
			return true
		}
	}
	return false
}

func (c *Client) unwrap(ctx context.Context, line string) (seal.Key, error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return seal.Key{}, fmt.Errorf("kms: a line has %q, the ARN of a KMS key and the encrypted key; this one has %d words", strings.TrimSpace(prefix), len(fields))
	}
	name := fields[1]
	if a, err := arn.Parse(name); err != nil || a.Service != "kms" || a.Region == "" {
		return seal.Key{}, fmt.Errorf("kms: %q is not the ARN of a KMS key", name)
	}
	encrypted, err := base64.StdEncoding.DecodeString(fields[2])
	if err != nil {
		return seal.Key{}, fmt.Errorf("kms: what stands behind %s is not base64: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := c.kms.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &name, CiphertextBlob: encrypted, EncryptionContext: purpose,
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
	}, in(name))
	if err != nil {
		return seal.Key{}, fmt.Errorf("kms: have a key decrypted by %s: %w", name, explain(err))
	}
	defer clear(out.Plaintext)
	key, err := seal.KeyFrom(out.Plaintext)
	if err != nil {
		return seal.Key{}, fmt.Errorf("kms: what %s has decrypted: %w", name, err)
	}
	return key, nil
}

// in has a call go to the region of the key that it is about.
func in(kmsKey string) func(*kms.Options) {
	return func(o *kms.Options) {
		if a, err := arn.Parse(kmsKey); err == nil && a.Region != "" {
			o.Region = a.Region
		}
	}
}

// explain says what to do about the errors that operators meet.
func explain(err error) error {
	var (
		notFound *types.NotFoundException
		disabled *types.DisabledException
		state    *types.KMSInvalidStateException
		wrongKey *types.IncorrectKeyException
		broken   *types.InvalidCiphertextException
	)
	hint := ""
	switch {
	case errors.As(err, &notFound):
		hint = "there is no such key in that account and region"
	case errors.As(err, &disabled):
		hint = "the key is disabled: enable it, or what it protects cannot be opened"
	case errors.As(err, &state):
		hint = "the key is not in use, it may be about to be deleted: cancel that, or what it protects is lost"
	case errors.As(err, &wrongKey):
		hint = "it was encrypted under another KMS key than the line names"
	case errors.As(err, &broken):
		hint = "it was changed, or encrypted for another purpose"
	case strings.Contains(err.Error(), "AccessDenied"):
		hint = "the caller needs kms:Decrypt to start a server, and kms:GenerateDataKey to make a key"
	default:
		return err
	}
	return fmt.Errorf("%s: %w", hint, err)
}
