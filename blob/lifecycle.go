package blob

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// A Lifecycle is what the store does by itself with what is under the keys that
// start with Prefix, in whole days.
type Lifecycle struct {
	ID          string        // names the rule, for whoever looks at the bucket
	Prefix      string        // "" or whole segments, such as "copies/"
	AbortAfter  time.Duration // aborts uploads that were not completed; 0: never
	ExpireAfter time.Duration // deletes objects; 0: never
}

const day = 24 * time.Hour

// SetLifecycle replaces the bucket's rules of those names, and those for exactly
// those prefixes. Other rules of the bucket stay: they are read and written
// again, so that what somebody else changes at the same moment can be lost. The
// answer is [ErrUnsupported] where the store has no such thing.
func (b *Bucket) SetLifecycle(ctx context.Context, rules ...Lifecycle) error {
	var ours []types.LifecycleRule
	for _, r := range rules {
		rule, err := r.rule()
		if err != nil {
			return fmt.Errorf("blob: life-cycle rule %q of bucket %s: %w", r.ID, b.name, err)
		}
		ours = append(ours, rule)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	known, err := b.store.client.GetBucketLifecycleConfiguration(ctx, &s3.GetBucketLifecycleConfigurationInput{Bucket: &b.name})
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "NoSuchLifecycleConfiguration" {
		known, err = &s3.GetBucketLifecycleConfigurationOutput{}, nil
	}
	if err != nil {
		return fmt.Errorf("blob: read the life-cycle rules of bucket %s: %w", b.name, explain(err))
	}
	all := slices.DeleteFunc(known.Rules, func(k types.LifecycleRule) bool {
		return slices.ContainsFunc(ours, func(o types.LifecycleRule) bool {
			return aws.ToString(k.ID) == *o.ID || isFor(k, *o.Filter.Prefix)
		})
	})
	for _, r := range ours {
		if r.Expiration != nil || r.AbortIncompleteMultipartUpload != nil {
			all = append(all, r)
		}
	}
	if len(all) == 0 { // which S3 wants to be told in another way
		_, err = b.store.client.DeleteBucketLifecycle(ctx, &s3.DeleteBucketLifecycleInput{Bucket: &b.name})
	} else {
		_, err = b.store.client.PutBucketLifecycleConfiguration(ctx, &s3.PutBucketLifecycleConfigurationInput{
			Bucket:                             &b.name,
			LifecycleConfiguration:             &types.BucketLifecycleConfiguration{Rules: all},
			TransitionDefaultMinimumObjectSize: known.TransitionDefaultMinimumObjectSize,
		})
	}
	if err != nil {
		return fmt.Errorf("blob: write the life-cycle rules of bucket %s: %w", b.name, explain(err))
	}
	return nil
}

// isFor says whether the rule is for all objects under the prefix and no others.
func isFor(r types.LifecycleRule, prefix string) bool {
	if r.Filter == nil {
		return r.Prefix != nil && *r.Prefix == prefix // as they were written before there were filters
	}
	f := r.Filter
	return f.And == nil && f.Tag == nil && f.ObjectSizeGreaterThan == nil && f.ObjectSizeLessThan == nil && aws.ToString(f.Prefix) == prefix
}

func (l Lifecycle) rule() (types.LifecycleRule, error) {
	if l.ID == "" || len(l.ID) > 255 {
		return types.LifecycleRule{}, errors.New("the ID has 1 to 255 bytes")
	}
	prefix := spellPrefix(l.Prefix)
	if key, whole := Unspell(prefix + "x"); l.Prefix != "" && (!whole || key != l.Prefix+"x") {
		// The spelling of the prefix is that of other keys' prefixes too.
		return types.LifecycleRule{}, fmt.Errorf(`the prefix %q cannot be told from others in a bucket: end it with "/"`, l.Prefix)
	}
	r := types.LifecycleRule{ID: &l.ID, Status: types.ExpirationStatusEnabled, Filter: &types.LifecycleRuleFilter{Prefix: &prefix}}
	for name, d := range map[string]time.Duration{"AbortAfter": l.AbortAfter, "ExpireAfter": l.ExpireAfter} {
		if d < 0 || d%day != 0 {
			return r, fmt.Errorf("%s is %v, and S3 counts whole days: use a multiple of 24h", name, d)
		}
	}
	if l.AbortAfter > 0 {
		r.AbortIncompleteMultipartUpload = &types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(int32(l.AbortAfter / day))}
	}
	if l.ExpireAfter > 0 {
		r.Expiration = &types.LifecycleExpiration{Days: aws.Int32(int32(l.ExpireAfter / day))}
	}
	return r, nil
}
