package verify

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// checkQueues looks at the SQS queues of a region.
func (v *verification) checkQueues(ctx context.Context, c *clients) error {
	named := v.manifest.Regions[c.region].EventQueue
	var list []string
	err := pages(ctx, v, place{region: c.region}, "sqs:ListQueues", sqs.NewListQueuesPaginator(c.sqs, &sqs.ListQueuesInput{MaxResults: aws.Int32(1000)}), func(p *sqs.ListQueuesOutput) {
		list = append(list, p.QueueUrls...)
	})
	if err != nil {
		return err
	}
	v.missing(c.region, "queue", named, slices.Contains(list, named))
	return each(ctx, v, list, func(ctx context.Context, url string) error { return v.checkQueue(ctx, c, url, url == named) })
}

func (v *verification) checkQueue(ctx context.Context, c *clients, url string, named bool) error {
	tags, err := ask(ctx, v, place{c.region, url}, "sqs:ListQueueTags", c.sqs.ListQueueTags, &sqs.ListQueueTagsInput{QueueUrl: &url})
	if isGoneQueue(err) {
		return nil
	} else if err != nil {
		return err
	}
	if tags.Tags[tagDeployment] != v.manifest.Deployment && !named {
		return nil
	}
	out, err := ask(ctx, v, place{c.region, url}, "sqs:GetQueueAttributes", c.sqs.GetQueueAttributes, &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	if isGoneQueue(err) {
		return nil
	} else if err != nil {
		return err
	}
	at := place{c.region, out.Attributes["QueueArn"]}
	v.belongs("queue", at, tags.Tags, named)
	if out.Attributes["KmsMasterKeyId"] == "" && out.Attributes["SqsManagedSseEnabled"] != "true" {
		v.find(at, "queue-encryption", "the queue's messages are not encrypted", "set kms_master_key_id or sqs_managed_sse_enabled = true")
	}
	if out.Attributes["Policy"] == "" {
		return nil // the account alone
	}
	d, err := readDocument(out.Attributes["Policy"])
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", at.resource, err)
	case d.open():
		v.find(at, "queue-policy", "anybody may use the queue", "name the principals, or the rule by a condition on aws:SourceArn")
	case d.confused():
		v.find(at, "queue-policy", "a service of AWS may use the queue on behalf of any account", "add a condition on aws:SourceArn or aws:SourceAccount")
	}
	return nil
}

func isGoneQueue(err error) bool {
	switch code(err) {
	case "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue":
		return true
	}
	return false
}
