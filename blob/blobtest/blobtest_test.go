package blobtest_test

import (
	"testing"

	"github.com/taskfleet/taskfleet/blob/blobtest"
)

// Where the environment names an endpoint, such as one to be used in production,
// it is tested. The gateway is, in its own package.
func TestEndpoint(t *testing.T) {
	open, imitation, named := blobtest.Endpoint()
	switch {
	case named && imitation:
		blobtest.RunFormat(t, open)
	case named:
		blobtest.Run(t, open)
	}
}
