package verify

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	"github.com/aws/aws-sdk-go-v2/service/mq/types"
)

// checkBrokers looks at the brokers of Amazon MQ in a region. The manifest names none by its id: they are found by tags.
func (v *verification) checkBrokers(ctx context.Context, c *clients) error {
	var list []types.BrokerSummary
	err := pages(ctx, v, place{region: c.region}, "mq:ListBrokers", mq.NewListBrokersPaginator(c.mq, &mq.ListBrokersInput{}), func(p *mq.ListBrokersOutput) {
		list = append(list, p.BrokerSummaries...)
	})
	if err != nil {
		return err
	}
	return each(ctx, v, list, func(ctx context.Context, s types.BrokerSummary) error {
		at := place{c.region, aws.ToString(s.BrokerArn)}
		b, err := ask(ctx, v, at, "mq:DescribeBroker", c.mq.DescribeBroker, &mq.DescribeBrokerInput{BrokerId: s.BrokerId})
		if code(err) == "NotFoundException" {
			return nil
		} else if err != nil {
			return err
		}
		if !v.belongs("broker", at, b.Tags, false) {
			return nil
		}
		if aws.ToBool(b.PubliclyAccessible) {
			v.find(at, "broker-public", "the broker has a public address", "make it anew with publicly_accessible = false")
		}
		// RabbitMQ brokers are always encrypted, with a key of AWS.
		if e := b.EncryptionOptions; b.EngineType != types.EngineTypeRabbitmq && (e == nil || aws.ToBool(e.UseAwsOwnedKey)) {
			v.find(at, "broker-encryption", "the broker's storage is not encrypted with a key of the account", "make it anew with encryption_options { use_aws_owned_key = false, kms_key_id = ... }")
		}
		return nil
	})
}
