package awsfake

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// queue is a standard SQS queue: at least once, in no promised order. Messages
// are kept for four days.
type queue struct {
	name       string
	visibility time.Duration
	messages   []*message // not deleted, oldest first
	received   int
}

type message struct {
	id       string
	body     func() string // made when somebody reads it
	sent     time.Time
	visible  time.Time
	receives int
	receipt  string
}

const retention = 4 * 24 * time.Hour

// SQS is the Go face of SQS in one region. Receiving never waits: in virtual
// time there is nothing to wait for. Over HTTP it waits as AWS does.
type SQS struct{ scope }

// SQS of an account's own user in a region; it panics when the cloud has no
// such account or region.
func (c *Cloud) SQS(account, region string) *SQS { return &SQS{c.scope(account, region, "")} }

func (r *region) createQueue(name string) *queue {
	q := &queue{name: name, visibility: 30 * time.Second}
	r.queues[name] = q
	return q
}

func (r *region) queueURL(name string) string {
	return fmt.Sprintf("https://sqs.%s.amazonaws.com/%s/%s", r.name, r.account.id, name)
}

// queue finds a queue by its URL, which may be another account's.
func (s scope) queue(url *string) (*queue, error) {
	parts := strings.Split(aws.ToString(url), "/")
	if len(parts) >= 2 {
		account, name := parts[len(parts)-2], parts[len(parts)-1]
		if r := s.cloud.region(account, s.region.name); r != nil && r.queues[name] != nil {
			return r.queues[name], nil
		}
	}
	return nil, noQueue()
}

func noQueue() error {
	return &sqstypes.QueueDoesNotExist{Message: aws.String("The specified queue does not exist.")}
}

func (q *queue) send(c *Cloud, body func() string) *message {
	m := &message{id: uuid(c.draws.events.Uint64(), c.draws.events.Uint64()), body: body, sent: c.now, visible: c.now}
	old := 0
	for old < len(q.messages) && c.now.Sub(q.messages[old].sent) > retention {
		old++
	}
	q.messages = append(slices.Delete(q.messages, 0, old), m)
	return m
}

func uuid(a, b uint64) string {
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", uint32(a), uint16(a>>32), uint16(a>>48)&0xfff, uint16(b)&0xfff, b>>16)
}

func md5Of(s string) *string {
	sum := md5.Sum([]byte(s))
	return aws.String(hex.EncodeToString(sum[:]))
}

// CreateQueue makes a queue, or finds it.
func (e *SQS) CreateQueue(ctx context.Context, in *sqs.CreateQueueInput, _ ...func(*sqs.Options)) (*sqs.CreateQueueOutput, error) {
	return call(ctx, e.scope, "sqs", "CreateQueue", in, func(s scope, in *sqs.CreateQueueInput) (*sqs.CreateQueueOutput, error) {
		name := aws.ToString(in.QueueName)
		if name == "" || len(name) > 80 {
			return nil, &Error{Code: "InvalidParameterValue", Message: "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"}
		}
		q := s.region.queues[name]
		if q == nil {
			q = s.region.createQueue(name)
		}
		if v, err := strconv.Atoi(in.Attributes["VisibilityTimeout"]); err == nil {
			q.visibility = time.Duration(v) * time.Second
		}
		return &sqs.CreateQueueOutput{QueueUrl: aws.String(s.region.queueURL(name))}, nil
	})
}

// GetQueueUrl finds a queue of this account or of another.
func (e *SQS) GetQueueUrl(ctx context.Context, in *sqs.GetQueueUrlInput, _ ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error) {
	return call(ctx, e.scope, "sqs", "GetQueueUrl", in, func(s scope, in *sqs.GetQueueUrlInput) (*sqs.GetQueueUrlOutput, error) {
		r := s.region
		if in.QueueOwnerAWSAccountId != nil {
			r = s.cloud.region(*in.QueueOwnerAWSAccountId, s.region.name)
		}
		if r == nil || r.queues[aws.ToString(in.QueueName)] == nil {
			return nil, noQueue()
		}
		return &sqs.GetQueueUrlOutput{QueueUrl: aws.String(r.queueURL(*in.QueueName))}, nil
	})
}

// GetQueueAttributes tells how many messages there are.
func (e *SQS) GetQueueAttributes(ctx context.Context, in *sqs.GetQueueAttributesInput, _ ...func(*sqs.Options)) (*sqs.GetQueueAttributesOutput, error) {
	return call(ctx, e.scope, "sqs", "GetQueueAttributes", in, func(s scope, in *sqs.GetQueueAttributesInput) (*sqs.GetQueueAttributesOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		hidden := 0
		for _, m := range q.messages {
			if m.visible.After(s.cloud.now) {
				hidden++
			}
		}
		all := map[string]string{
			"ApproximateNumberOfMessages":           strconv.Itoa(len(q.messages) - hidden),
			"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(hidden),
			"VisibilityTimeout":                     strconv.Itoa(int(q.visibility.Seconds())),
			"QueueArn":                              fmt.Sprintf("arn:aws:sqs:%s:%s:%s", s.region.name, s.region.account.id, q.name),
		}
		out := &sqs.GetQueueAttributesOutput{Attributes: map[string]string{}}
		for name, value := range all {
			if slices.ContainsFunc(in.AttributeNames, func(n sqstypes.QueueAttributeName) bool { return n == "All" || string(n) == name }) {
				out.Attributes[name] = value
			}
		}
		return out, nil
	})
}

// SendMessage adds a message.
func (e *SQS) SendMessage(ctx context.Context, in *sqs.SendMessageInput, _ ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	return call(ctx, e.scope, "sqs", "SendMessage", in, func(s scope, in *sqs.SendMessageInput) (*sqs.SendMessageOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		body := aws.ToString(in.MessageBody)
		m := q.send(s.cloud, func() string { return body })
		m.visible = m.visible.Add(time.Duration(in.DelaySeconds) * time.Second)
		return &sqs.SendMessageOutput{MessageId: &m.id, MD5OfMessageBody: md5Of(body)}, nil
	})
}

// ReceiveMessage takes up to MaxNumberOfMessages (one, if it does not say),
// which then are invisible for the visibility timeout.
func (e *SQS) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, _ ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return call(ctx, e.scope, "sqs", "ReceiveMessage", in, func(s scope, in *sqs.ReceiveMessageInput) (*sqs.ReceiveMessageOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		want := int(in.MaxNumberOfMessages)
		if want == 0 {
			want = 1
		}
		if want < 1 || want > 10 {
			return nil, &Error{Code: "InvalidParameterValue", Message: fmt.Sprintf("Value %d for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10, if provided.", want)}
		}
		hide := q.visibility
		if in.VisibilityTimeout > 0 {
			hide = time.Duration(in.VisibilityTimeout) * time.Second
		}
		out := &sqs.ReceiveMessageOutput{}
		for _, m := range q.messages {
			if len(out.Messages) == want {
				break
			}
			if m.visible.After(s.cloud.now) {
				continue
			}
			m.visible = s.cloud.now.Add(hide)
			m.receives++
			q.received++
			m.receipt = m.id + "#" + strconv.Itoa(q.received)
			body := m.body()
			out.Messages = append(out.Messages, sqstypes.Message{
				MessageId: &m.id, ReceiptHandle: aws.String(m.receipt), Body: &body, MD5OfBody: md5Of(body),
				Attributes: map[string]string{"ApproximateReceiveCount": strconv.Itoa(m.receives), "SentTimestamp": strconv.FormatInt(m.sent.UnixMilli(), 10)},
			})
		}
		return out, nil
	})
}

// DeleteMessage deletes what was received. A message that is gone already is no
// error.
func (e *SQS) DeleteMessage(ctx context.Context, in *sqs.DeleteMessageInput, _ ...func(*sqs.Options)) (*sqs.DeleteMessageOutput, error) {
	return call(ctx, e.scope, "sqs", "DeleteMessage", in, func(s scope, in *sqs.DeleteMessageInput) (*sqs.DeleteMessageOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		q.remove([]string{aws.ToString(in.ReceiptHandle)})
		return &sqs.DeleteMessageOutput{}, nil
	})
}

func (q *queue) remove(receipts []string) {
	ids := make([]string, len(receipts))
	for i, r := range receipts {
		ids[i], _, _ = strings.Cut(r, "#")
	}
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return slices.Contains(ids, m.id) })
}

// DeleteMessageBatch deletes up to ten messages.
func (e *SQS) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	return call(ctx, e.scope, "sqs", "DeleteMessageBatch", in, func(s scope, in *sqs.DeleteMessageBatchInput) (*sqs.DeleteMessageBatchOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		if len(in.Entries) == 0 {
			return nil, &sqstypes.EmptyBatchRequest{Message: aws.String("There should be at least one DeleteMessageBatchRequestEntry in the request.")}
		}
		if len(in.Entries) > 10 {
			return nil, &sqstypes.TooManyEntriesInBatchRequest{Message: aws.String("Maximum number of entries per request are 10.")}
		}
		out := &sqs.DeleteMessageBatchOutput{Failed: []sqstypes.BatchResultErrorEntry{}, Successful: []sqstypes.DeleteMessageBatchResultEntry{}}
		var receipts []string
		for _, entry := range in.Entries {
			receipts = append(receipts, aws.ToString(entry.ReceiptHandle))
			out.Successful = append(out.Successful, sqstypes.DeleteMessageBatchResultEntry{Id: entry.Id})
		}
		q.remove(receipts)
		return out, nil
	})
}

// PurgeQueue deletes all messages.
func (e *SQS) PurgeQueue(ctx context.Context, in *sqs.PurgeQueueInput, _ ...func(*sqs.Options)) (*sqs.PurgeQueueOutput, error) {
	return call(ctx, e.scope, "sqs", "PurgeQueue", in, func(s scope, in *sqs.PurgeQueueInput) (*sqs.PurgeQueueOutput, error) {
		q, err := s.queue(in.QueueUrl)
		if err != nil {
			return nil, err
		}
		q.messages = nil
		return &sqs.PurgeQueueOutput{}, nil
	})
}
