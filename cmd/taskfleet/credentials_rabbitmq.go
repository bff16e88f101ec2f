//go:build !agent

package main

import (
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rabbitmq"
	"github.com/taskfleet/taskfleet/credentials/signalfx"
)

// addRabbitMQ adds users of brokers, and tokens of SignalFx. Who makes them is in the
// settings of each credential.
func addRabbitMQ(tokens *signalfx.Kind, to *credentials.Config) {
	to.Kinds["rabbitmq"] = rabbitmq.Kind{}
	to.Kinds["signalfx"] = tokens
}
