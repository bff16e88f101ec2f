// Package ses sends emails with Amazon's Simple Email Service, by its API v2:
// for deployments whose credentials are those of an AWS role.
package ses

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"

	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/ownbody"
)

// Config is how to reach the service.
type Config struct {
	Region           string        `yaml:"region"`
	From             string        `yaml:"from"`             // of a verified identity: "Taskfleet <taskfleet@example.com>"
	ConfigurationSet string        `yaml:"configurationSet"` // "": the identity's own
	AccessKeyID      string        `yaml:"accessKeyId"`      // "": the credentials that the SDK finds by itself
	SecretAccessKey  notify.Secret `yaml:"secretAccessKey"`
	Endpoint         string        `yaml:"endpoint"` // "": AWS
}

// Check finds what cannot work. Each mistake begins with the name of the entry.
func (c Config) Check() error {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.Region == "" {
		bad("region must name the AWS region whose SES is used, as in eu-central-1")
	}
	if _, err := mail.ParseAddress(c.From); err != nil {
		bad("from is %q; it must be an email address, with or without a name, as in Taskfleet <taskfleet@example.com>", c.From)
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		bad("accessKeyId and secretAccessKey go together: give both, or neither")
	}
	if c.Endpoint != "" {
		if u, err := url.Parse(c.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			bad("endpoint is %q; it must be an http or https URL, or be left out", c.Endpoint)
		}
	}
	return errors.Join(wrong...)
}

// A Sender sends emails in one region.
type Sender struct {
	config Config
	client *sesv2.Client
}

// New returns a sender, without asking SES anything.
func New(ctx context.Context, c Config) (*Sender, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("notify/ses: %w", err)
	}
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithRegion(c.Region),
		awsconfig.WithRetryMaxAttempts(2), // the outbox tries again, more patiently
	}
	if c.AccessKeyID != "" {
		options = append(options, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKeyID, string(c.SecretAccessKey), "")))
	}
	conf, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("notify/ses: configure the AWS SDK: %w", err)
	}
	conf.HTTPClient = ownbody.Client(conf.HTTPClient)
	return &Sender{c, sesv2.NewFromConfig(conf, func(o *sesv2.Options) {
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})}, nil
}

// Send hands an email to SES.
func (s *Sender) Send(ctx context.Context, m notify.Mail) error {
	in := &sesv2.SendEmailInput{
		FromEmailAddress: aws.String(s.config.From),
		Destination:      &types.Destination{ToAddresses: []string{m.To}},
		Content: &types.EmailContent{Simple: &types.Message{
			Subject: text(m.Subject),
			Body:    &types.Body{Text: text(m.Text), Html: text(m.HTML)},
			Headers: []types.MessageHeader{
				{Name: aws.String("Auto-Submitted"), Value: aws.String("auto-generated")}, // no replies from those on holiday
				{Name: aws.String("X-Entity-Ref-ID"), Value: aws.String(m.ID)},            // SES sets the Message-ID itself
			},
		}},
	}
	if m.ReplyTo != "" {
		in.ReplyToAddresses = []string{m.ReplyTo}
	}
	if s.config.ConfigurationSet != "" {
		in.ConfigurationSetName = aws.String(s.config.ConfigurationSet)
	}
	_, err := s.client.SendEmail(ctx, in)
	return s.verdict(err)
}

func text(s string) *types.Content {
	return &types.Content{Data: aws.String(s), Charset: aws.String("UTF-8")}
}

// verdict tells what SES's answer means for the message. What concerns the
// account (identities, quota, suspension, permissions) is for the operators to put
// right, and meanwhile messages wait.
func (s *Sender) verdict(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*types.MessageRejected](err); ok && !strings.Contains(e.ErrorMessage(), "not verified") {
		return &notify.Refusal{Reason: "SES rejects the message: " + e.ErrorMessage()}
	}
	if e, ok := errors.AsType[*types.BadRequestException](err); ok {
		return &notify.Refusal{Reason: "SES does not take the message: " + e.ErrorMessage()}
	}
	return fmt.Errorf("notify/ses: sending in %s: %s", s.config.Region, s.config.SecretAccessKey.Scrub(err.Error()))
}
