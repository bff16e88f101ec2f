package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// A bucket of the deployment.
type bucket struct {
	c    *clients // of its region
	name string
	at   place
}

// checkBuckets looks at the account's buckets.
func (v *verification) checkBuckets(ctx context.Context) error {
	first := v.in(v.report.Regions[0])
	var list []types.Bucket
	p := s3.NewListBucketsPaginator(first.s3, &s3.ListBucketsInput{MaxBuckets: aws.Int32(1000)})
	err := pages(ctx, v, place{region: first.region}, "s3:ListAllMyBuckets", p, func(p *s3.ListBucketsOutput) { list = append(list, p.Buckets...) })
	if err != nil {
		return err
	}
	named := v.manifest.buckets()
	for _, name := range slices.Sorted(maps.Keys(named)) {
		there := slices.ContainsFunc(list, func(b types.Bucket) bool { return aws.ToString(b.Name) == name })
		v.missing(cmp.Or(named[name].region, first.region), "bucket", v.bucketARN(name), there)
	}
	return each(ctx, v, list, func(ctx context.Context, x types.Bucket) error {
		name, isNamed := named[aws.ToString(x.Name)]
		b, err := v.openBucket(ctx, first, x, isNamed)
		if err != nil || b == nil {
			return err
		}
		return v.checkBucket(ctx, b, name.copies)
	})
}

// openBucket finds where a bucket is, and whether it is the deployment's: else it is nil.
func (v *verification) openBucket(ctx context.Context, first *clients, x types.Bucket, isNamed bool) (*bucket, error) {
	b := &bucket{name: aws.ToString(x.Name)}
	b.at = place{aws.ToString(x.BucketRegion), v.bucketARN(b.name)}
	if b.at.region == "" {
		location, err := ask(ctx, v, place{first.region, b.at.resource}, "s3:GetBucketLocation", first.s3.GetBucketLocation, &s3.GetBucketLocationInput{Bucket: &b.name})
		if err != nil {
			return nil, gone(err)
		}
		switch b.at.region = string(location.LocationConstraint); b.at.region {
		case "": // https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html
			b.at.region = "us-east-1"
		case "EU":
			b.at.region = "eu-west-1"
		}
	}
	b.c = v.in(b.at.region)
	tagging, err := ask(ctx, v, b.at, "s3:GetBucketTagging", b.c.s3.GetBucketTagging, &s3.GetBucketTaggingInput{Bucket: &b.name})
	switch {
	case code(err) == "NoSuchTagSet":
		tagging = &s3.GetBucketTaggingOutput{}
	case errors.Is(err, errDenied) && isNamed: // the rest can be checked all the same
		v.count("bucket")
		return b, nil
	case err != nil:
		return nil, gone(err)
	}
	if !v.belongs("bucket", b.at, tagMap(tagging.TagSet, func(t types.Tag) (*string, *string) { return t.Key, t.Value }), isNamed) {
		return nil, nil
	}
	return b, nil
}

// gone is nil for a bucket that has gone since it was listed.
func gone(err error) error {
	if code(err) == "NoSuchBucket" {
		return nil
	}
	return err
}

func (v *verification) bucketARN(name string) string {
	return arn.ARN{Partition: v.partition, Service: "s3", Resource: name}.String()
}

// checkBucket looks at a bucket that belongs to the deployment. copies says that it holds what is elsewhere, too.
func (v *verification) checkBucket(ctx context.Context, b *bucket, copies bool) error {
	name, at := &b.name, b.at
	find := func(check, message, fix string) { v.find(at, check, message, fix) }
	out, err := ask(ctx, v, at, "s3:GetBucketPolicy", b.c.s3.GetBucketPolicy, &s3.GetBucketPolicyInput{Bucket: name})
	forLogs := errors.Is(err, errDenied) // it may be
	switch {
	case err == nil || code(err) == "NoSuchBucketPolicy":
		d := document{}
		if err == nil {
			if d, err = readDocument(aws.ToString(out.Policy)); err != nil {
				return fmt.Errorf("%s: %w", at.resource, err)
			}
		}
		forLogs = slices.ContainsFunc(d.Statement, func(s statement) bool {
			return s.Effect == "Allow" && slices.ContainsFunc(s.Principal["Service"], func(service string) bool { return slices.Contains(logWriters, service) })
		})
		if !d.deniesPlain(at.resource) {
			find("bucket-tls", "the bucket answers without TLS", "deny s3:* on the bucket and on what is in it where aws:SecureTransport is false, and nothing else is a condition")
		}
	case !forLogs:
		return err
	}
	return v.all(ctx,
		func(ctx context.Context) error {
			out, err := ask(ctx, v, at, "s3:GetBucketPublicAccessBlock", b.c.s3.GetPublicAccessBlock, &s3.GetPublicAccessBlockInput{Bucket: name})
			if code(err) == "NoSuchPublicAccessBlockConfiguration" {
				out, err = &s3.GetPublicAccessBlockOutput{PublicAccessBlockConfiguration: &types.PublicAccessBlockConfiguration{}}, nil
			} else if err != nil {
				return err
			}
			var off []string
			for _, x := range []struct {
				name string
				on   *bool
			}{
				{"BlockPublicAcls", out.PublicAccessBlockConfiguration.BlockPublicAcls}, {"IgnorePublicAcls", out.PublicAccessBlockConfiguration.IgnorePublicAcls},
				{"BlockPublicPolicy", out.PublicAccessBlockConfiguration.BlockPublicPolicy}, {"RestrictPublicBuckets", out.PublicAccessBlockConfiguration.RestrictPublicBuckets},
			} {
				if !aws.ToBool(x.on) {
					off = append(off, x.name)
				}
			}
			if len(off) > 0 {
				find("bucket-public-access-block", "the bucket can be made public: "+strings.Join(off, ", ")+" is off", "turn all four settings of its public access block on")
			}
			return nil
		},
		func(ctx context.Context) error {
			out, err := ask(ctx, v, at, "s3:GetBucketPolicyStatus", b.c.s3.GetBucketPolicyStatus, &s3.GetBucketPolicyStatusInput{Bucket: name})
			if code(err) == "NoSuchBucketPolicy" {
				return nil
			}
			if err == nil && out.PolicyStatus != nil && aws.ToBool(out.PolicyStatus.IsPublic) {
				find("bucket-public-policy", "the bucket's policy makes it public", "name the principals, and who else was in there: artifacts are handed out by URLs that the platform signs")
			}
			return err
		},
		func(ctx context.Context) error {
			out, err := ask(ctx, v, at, "s3:GetBucketAcl", b.c.s3.GetBucketAcl, &s3.GetBucketAclInput{Bucket: name})
			if err != nil {
				return err
			}
			for _, g := range out.Grants {
				if g.Grantee == nil {
					continue
				}
				if _, who, ok := strings.Cut(aws.ToString(g.Grantee.URI), "/groups/global/"); ok {
					find("bucket-public-acl", fmt.Sprintf("the bucket's ACL gives %s to %s", g.Permission, who), "set its object ownership to BucketOwnerEnforced, which turns ACLs off")
				}
			}
			return nil
		},
		func(ctx context.Context) error {
			out, err := ask(ctx, v, at, "s3:GetEncryptionConfiguration", b.c.s3.GetBucketEncryption, &s3.GetBucketEncryptionInput{Bucket: name})
			if code(err) == "ServerSideEncryptionConfigurationNotFoundError" {
				out, err = &s3.GetBucketEncryptionOutput{}, nil
			} else if err != nil {
				return err
			}
			if message := v.encryption(out.ServerSideEncryptionConfiguration, at, forLogs); message != "" {
				find("bucket-encryption", message, "encrypt it with aws:kms and a key of the deployment, by its ARN; what is in there stays as it is until it is copied over itself")
			}
			return nil
		},
		func(ctx context.Context) error {
			if copies || forLogs {
				return nil
			}
			out, err := ask(ctx, v, at, "s3:GetBucketVersioning", b.c.s3.GetBucketVersioning, &s3.GetBucketVersioningInput{Bucket: name})
			if err == nil && out.Status != types.BucketVersioningStatusEnabled {
				find("bucket-versioning", "what is overwritten or deleted in the bucket is lost", "turn versioning on")
			}
			return err
		},
		func(ctx context.Context) error {
			out, err := ask(ctx, v, at, "s3:GetLifecycleConfiguration", b.c.s3.GetBucketLifecycleConfiguration, &s3.GetBucketLifecycleConfigurationInput{Bucket: name})
			if code(err) == "NoSuchLifecycleConfiguration" {
				out, err = &s3.GetBucketLifecycleConfigurationOutput{}, nil
			} else if err != nil {
				return err
			}
			if !slices.ContainsFunc(out.Rules, func(r types.LifecycleRule) bool {
				return r.Status == types.ExpirationStatusEnabled && r.AbortIncompleteMultipartUpload != nil
			}) {
				find("bucket-lifecycle", "uploads that were never finished stay, and cost, for good", "add a life cycle rule that aborts incomplete multipart uploads after some days")
			}
			return nil
		})
}

// logWriters write AWS's logs to buckets. They cannot where a bucket is encrypted with a KMS key.
var logWriters = []string{"logging.s3.amazonaws.com", "logdelivery.elasticloadbalancing.amazonaws.com"}

// encryption says what is wrong with how a bucket encrypts.
func (v *verification) encryption(c *types.ServerSideEncryptionConfiguration, at place, forLogs bool) string {
	if c == nil || len(c.Rules) == 0 || c.Rules[0].ApplyServerSideEncryptionByDefault == nil {
		return "the bucket does not say how it encrypts"
	}
	d := c.Rules[0].ApplyServerSideEncryptionByDefault
	switch key := aws.ToString(d.KMSMasterKeyID); {
	case forLogs && d.SSEAlgorithm == types.ServerSideEncryptionAes256:
		return ""
	case d.SSEAlgorithm != types.ServerSideEncryptionAwsKms && d.SSEAlgorithm != types.ServerSideEncryptionAwsKmsDsse:
		return fmt.Sprintf("the bucket is encrypted with %s, a key that S3 has, and not with one of the deployment", d.SSEAlgorithm)
	case key == "":
		return "the bucket is encrypted with the account's key for S3, and not with one of the deployment"
	case v.knowsKeys(at.region) && !v.isOurKey(key) && !v.isOurKey(v.arn("kms", at.region, "key/"+key)):
		return "the bucket is encrypted with " + key + ", which is no key of the deployment"
	}
	return ""
}
