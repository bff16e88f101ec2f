package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// checkKeys looks at the KMS keys of a region, and notes which are the deployment's.
func (v *verification) checkKeys(ctx context.Context, c *clients) error {
	var list []string
	err := pages(ctx, v, place{region: c.region}, "kms:ListKeys", kms.NewListKeysPaginator(c.kms, &kms.ListKeysInput{}), func(p *kms.ListKeysOutput) {
		for _, k := range p.Keys {
			list = append(list, aws.ToString(k.KeyArn))
		}
	})
	if err != nil {
		return err
	}
	if err := each(ctx, v, list, func(ctx context.Context, key string) error { return v.checkKey(ctx, c, key) }); err != nil {
		return err
	}
	if c.region == v.manifest.home() {
		v.missing(c.region, "key", v.manifest.KMSKeyARN, slices.Contains(list, v.manifest.KMSKeyARN))
	}
	return nil
}

func (v *verification) isOurKey(key string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keys[key]
}

func (v *verification) checkKey(ctx context.Context, c *clients, key string) error {
	at := place{c.region, key}
	described, err := ask(ctx, v, at, "kms:DescribeKey", c.kms.DescribeKey, &kms.DescribeKeyInput{KeyId: &key})
	if err != nil {
		return err
	}
	k := described.KeyMetadata
	if k.KeyManager == types.KeyManagerTypeAws {
		return nil
	}
	tags := map[string]string{}
	err = pages(ctx, v, at, "kms:ListResourceTags", kms.NewListResourceTagsPaginator(c.kms, &kms.ListResourceTagsInput{KeyId: &key}), func(p *kms.ListResourceTagsOutput) {
		for _, t := range p.Tags {
			tags[aws.ToString(t.TagKey)] = aws.ToString(t.TagValue)
		}
	})
	if err != nil {
		return err
	}
	if !v.belongs("key", at, tags, key == v.manifest.KMSKeyARN) {
		return nil
	}
	v.mu.Lock()
	v.keys[key] = true
	v.mu.Unlock()
	if k.KeyState != types.KeyStateEnabled {
		fix := "aws kms enable-key --key-id " + key
		if k.KeyState == types.KeyStatePendingDeletion {
			fix = "aws kms cancel-key-deletion, then enable-key, before what is encrypted with it is lost for good"
		}
		v.find(at, "key-state", fmt.Sprintf("the key is %s, so nothing can be decrypted with it", k.KeyState), fix)
		return nil // rotation cannot be asked for
	}
	return v.all(ctx,
		func(ctx context.Context) error {
			if k.KeySpec != types.KeySpecSymmetricDefault || k.Origin != types.OriginTypeAwsKms {
				return nil // AWS rotates no others
			}
			rotation, err := ask(ctx, v, at, "kms:GetKeyRotationStatus", c.kms.GetKeyRotationStatus, &kms.GetKeyRotationStatusInput{KeyId: &key})
			if err == nil && !rotation.KeyRotationEnabled {
				v.find(at, "key-rotation", "the key is not rotated", "set enable_key_rotation = true")
			}
			return err
		},
		func(ctx context.Context) error {
			policy, err := ask(ctx, v, at, "kms:GetKeyPolicy", c.kms.GetKeyPolicy, &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default")})
			if err != nil {
				return err
			}
			d, err := readDocument(aws.ToString(policy.Policy))
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			if d.open() {
				v.find(at, "key-policy", "the key's policy allows anybody something", "name the principals, or add a condition on kms:CallerAccount")
			}
			return nil
		})
}

// knowsKeys says that all keys of a region were looked at.
func (v *verification) knowsKeys(region string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, permission := range []string{"kms:ListKeys", "kms:DescribeKey", "kms:ListResourceTags"} {
		if v.denied[permission+" "+region] != nil {
			return false
		}
	}
	return slices.Contains(v.report.Regions, region)
}
