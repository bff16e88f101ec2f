package blobtest_test

import (
	"testing"

	"github.com/taskfleet/taskfleet/blob/blobtest"
)

func TestGateway(t *testing.T) { blobtest.Run(t, blobtest.Gateway) }

// TestEndpoint runs where the environment names an endpoint, such as a bucket
// service to be used in production.
func TestEndpoint(t *testing.T) {
	if open := blobtest.Endpoint(); open != nil {
		blobtest.Run(t, open)
	}
}
