//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	authaws "github.com/taskfleet/taskfleet/auth/aws"
	"github.com/taskfleet/taskfleet/auth/azure"
	"github.com/taskfleet/taskfleet/auth/gcp"
	"github.com/taskfleet/taskfleet/auth/github"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/event/rabbit"
	"github.com/taskfleet/taskfleet/hooks"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/notify/matrix"
	"github.com/taskfleet/taskfleet/notify/ses"
	"github.com/taskfleet/taskfleet/notify/slack"
	"github.com/taskfleet/taskfleet/notify/smtp"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/schedule"
)

// AuthConfig is where the service auth gets credentials from that it gives to
// those with the scopes. Each may be left out.
type AuthConfig struct {
	AWS           *authaws.Config   `yaml:"aws"`
	Azure         *azure.Config     `yaml:"azure"`
	GCP           *gcp.Config       `yaml:"gcp"`
	GitHub        *github.Config    `yaml:"github"`
	Sentry        *SentryKeysConfig `yaml:"sentry"`
	SignalFx      *SignalFxConfig   `yaml:"signalfx"`
	Websocktunnel struct {
		Secret notify.Secret `yaml:"secret"`
	} `yaml:"websocktunnel"`
}

// NotifyConfig is how people are told. Each may be left out.
type NotifyConfig struct {
	SMTP       *smtp.Config   `yaml:"smtp"`
	SES        *ses.Config    `yaml:"ses"`
	Slack      *slack.Config  `yaml:"slack"`
	Matrix     *matrix.Config `yaml:"matrix"`
	EmailLimit int            `yaml:"emailLimit"`
}

// RabbitMQConfig is a broker that gets every message.
type RabbitMQConfig struct {
	URL       string `yaml:"url"`
	URLFile   string `yaml:"urlFile"`
	Namespace string `yaml:"namespace"`
}

// openBroker has every message go to the broker; nil without one.
func (c *Config) openBroker(bus *event.Bus, log *slog.Logger) (*rabbit.Publisher, error) {
	if c.RabbitMQ.URL == "" {
		return nil, nil
	}
	p, err := rabbit.New(rabbit.Config{URL: c.RabbitMQ.URL, Namespace: c.RabbitMQ.Namespace, Exchanges: allExchanges(), Log: log})
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: %w", err)
	}
	if bus != nil {
		bus.Subscribe(rabbit.Subscription, nil, p.Deliver)
	}
	return p, nil
}

// allExchanges are the names of the exchanges of all services.
func allExchanges() (names []string) {
	for _, s := range []struct {
		name      string
		exchanges []api.Exchange
	}{
		{auth.API.Name, auth.API.Exchanges}, {hooks.API.Name, hooks.API.Exchanges}, {notify.API.Name, notify.API.Exchanges},
		{queue.API.Name, queue.API.Exchanges}, {provisioner.API.Name, provisioner.API.Exchanges}, {mirror.API.Name, mirror.API.Exchanges},
		{schedule.API.Name, schedule.API.Exchanges}, {credentials.API.Name, credentials.API.Exchanges},
	} {
		for _, x := range s.exchanges {
			names = append(names, event.Topic(s.name, "v1", x))
		}
	}
	return names
}

// fill puts what is configured into the configuration of auth.
func (c AuthConfig) fill(to *auth.Config) error {
	var wrong []error
	add := func(entry string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("auth.%s: %w", entry, err))
		}
	}
	if c.AWS != nil {
		p, err := authaws.New(*c.AWS)
		add("aws", err)
		to.AWS = p
	}
	if c.Azure != nil {
		p, err := azure.New(*c.Azure)
		add("azure", err)
		to.Azure = p
	}
	if c.GCP != nil {
		p, err := gcp.New(*c.GCP)
		add("gcp", err)
		to.GCP = p
	}
	if c.GitHub != nil {
		p, err := github.New(*c.GitHub)
		add("github", err)
		to.GitHub = p
	}
	to.WebsocktunnelSecret = string(c.Websocktunnel.Secret)
	return errors.Join(wrong...)
}

// fill puts what is configured into the configuration of notify.
func (c NotifyConfig) fill(ctx context.Context, to *notify.Config) error {
	var wrong []error
	add := func(entry string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("notify.%s: %w", entry, err))
		}
	}
	to.EmailLimit = c.EmailLimit
	if c.SMTP != nil && c.SES != nil {
		add("ses", errors.New("there is notify.smtp, too; email is sent by one of them"))
	} else if c.SMTP != nil {
		s, err := smtp.New(*c.SMTP)
		add("smtp", err)
		to.Email = s
	} else if c.SES != nil {
		s, err := ses.New(ctx, *c.SES)
		add("ses", err)
		to.Email = s
	}
	if c.Slack != nil {
		s, err := slack.New(*c.Slack, nil)
		add("slack", err)
		to.Slack = s
	}
	if c.Matrix != nil {
		s, err := matrix.New(*c.Matrix, nil)
		add("matrix", err)
		to.Matrix = s
	}
	return errors.Join(wrong...)
}

// checkElsewhere finds what cannot work.
func (c *Config) checkElsewhere(bad func(path, format string, args ...any)) {
	if _, err := c.openBroker(nil, nil); err != nil {
		bad("rabbitmq", "%v", err)
	}
	if c.RabbitMQ.URL == "" && c.RabbitMQ.URLFile == "" && c.RabbitMQ.Namespace != "" {
		bad("rabbitmq.namespace", "rabbitmq.namespace is of no use without rabbitmq.url")
	}
	if err := c.Auth.fill(&auth.Config{}); err != nil {
		bad("auth", "%v", err)
	}
	if n := len(c.Auth.Websocktunnel.Secret); n > 0 && n < 16 {
		bad("auth.websocktunnel.secret", "auth.websocktunnel.secret has %d characters; it needs 16 or more", n)
	}
	if err := c.Notify.fill(context.Background(), &notify.Config{}); err != nil {
		bad("notify", "%v", err)
	}
	if c.Notify.EmailLimit < 0 {
		bad("notify.emailLimit", "notify.emailLimit must be 0 or more")
	}
}
