package platform

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/taskfleet/taskfleet/slugid"
)

// A vault is Secrets Manager, in the region of a secret.
type vault struct {
	*secretsmanager.Client
	arn string
}

func (c *cloud) vault(ctx context.Context, arn string) (*vault, error) {
	region, err := secretRegion(arn)
	if err != nil {
		return nil, err
	}
	there, err := c.in(ctx, region)
	if err != nil {
		return nil, err
	}
	return &vault{secretsmanager.NewFromConfig(there), arn}, nil
}

const currentStage = "AWSCURRENT" // of the version that whoever asks for none gets

// version is that of the value; "" if there is none.
func (v *vault) version(ctx context.Context) (string, error) {
	d, err := v.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &v.arn})
	switch {
	case isCode(err, "ResourceNotFoundException"):
		return "", fmt.Errorf("there is no secret %s: taskfleet infra apply makes it, and taskfleet infra output --manifest says then which it is", v.arn)
	case err != nil:
		return "", fmt.Errorf("look at the secret %s: %w", v.arn, err)
	case d.DeletedDate != nil:
		return "", fmt.Errorf("the secret %s is to be deleted. aws secretsmanager restore-secret keeps it, or apply the infra anew and write the manifest", v.arn)
	}
	for id, stages := range d.VersionIdsToStages {
		if slices.Contains(stages, currentStage) {
			return id, nil
		}
	}
	return "", nil
}

// value is that of a version.
func (v *vault) value(ctx context.Context, version string) (string, error) {
	got, err := v.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &v.arn, VersionId: &version})
	if err != nil {
		return "", fmt.Errorf("read the secret %s: %w", v.arn, err)
	}
	if got.SecretString == nil {
		return "", fmt.Errorf("the secret %s has bytes, and no text: that is nothing of ours", v.arn)
	}
	return *got.SecretString, nil
}

// put makes a text the value. token is an id for the version, or nil: of two that are put with the same id, the second is refused.
func (v *vault) put(ctx context.Context, text string, token *string) (version string, err error) {
	put, err := v.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{SecretId: &v.arn, SecretString: &text, ClientRequestToken: token})
	if err != nil {
		return "", fmt.Errorf("write the secret %s: %w", v.arn, err)
	}
	return *put.VersionId, nil
}

// GeneratedSecretSpec is the spec of taskfleet:platform:GeneratedSecret, a secret that is made up once and has a value for ever after.
// One that has a value already is taken as it is. It is never read, and stays when the thing is deleted.
type GeneratedSecretSpec struct {
	Content string `json:"content"` // what is made up: server, the servers' file of secrets; token, 44 random characters
}

type generatedSecret struct {
	GeneratedSecretSpec
	Version string `json:"version,omitempty"` // of the value
}

// What a generated secret can be.
const (
	ServerSecret = "server"
	TokenSecret  = "token"
)

func generatedSecrets(o Options, c *cloud) *kind[GeneratedSecretSpec, generatedSecret] {
	return &kind[GeneratedSecretSpec, generatedSecret]{
		token: "GeneratedSecret", computed: []string{"version"},
		check: func(name string, spec *GeneratedSecretSpec, bad func(member, format string, args ...any)) {
			if _, err := secretRegion(name); err != nil {
				bad("", "the name must be the ARN of a secret: %v", err)
			}
			if spec.Content != ServerSecret && spec.Content != TokenSecret {
				bad("content", "is %q; it must be %s or %s", spec.Content, ServerSecret, TokenSecret)
			}
		},
		read: func(ctx context.Context, name string, was *generatedSecret) (*generatedSecret, error) {
			v, err := c.vault(ctx, name)
			if err != nil {
				return nil, err
			}
			version, err := v.version(ctx)
			if version == "" || err != nil {
				return nil, err
			}
			if was == nil {
				was = &generatedSecret{}
			}
			return &generatedSecret{was.GeneratedSecretSpec, version}, nil
		},
		write: func(ctx context.Context, name string, _ *generatedSecret, spec GeneratedSecretSpec) (*generatedSecret, error) {
			v, err := c.vault(ctx, name)
			if err != nil {
				return nil, err
			}
			version, err := v.version(ctx)
			if version == "" && err == nil {
				version, err = v.fill(ctx, o, spec.Content)
			}
			if err != nil {
				return nil, err
			}
			return &generatedSecret{spec, version}, nil
		},
		complete: func(spec GeneratedSecretSpec, was *generatedSecret) generatedSecret {
			if was == nil {
				return generatedSecret{spec, ""}
			}
			return generatedSecret{spec, was.Version}
		},
	}
}

// fill gives a secret its first value. Its version has an id that follows from the secret's, so that of two who do this at the same time
// one is refused, and nobody's value is written over.
func (v *vault) fill(ctx context.Context, o Options, content string) (string, error) {
	value, taken := slugid.Token(), func() {}
	if content == ServerSecret {
		text, told, err := o.Secrets()
		if err != nil {
			return "", err
		}
		value, taken = string(text), told
	}
	sum := sha256.Sum256([]byte("the first value of " + v.arn))
	id := hex.EncodeToString(sum[:])
	version, err := v.put(ctx, value, &id)
	if isCode(err, "ResourceExistsException") { // somebody else's was taken
		version, err = v.version(ctx)
		return cmp.Or(version, id), err
	}
	if err == nil {
		taken()
	}
	return version, err
}
