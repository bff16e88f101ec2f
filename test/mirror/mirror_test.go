// Package mirror runs the platform with copies of artifacts in other regions, as it is served: processes, three regions
// with a bucket each, and workers in all of them. Between the processes and each region's S3 is a door (door_test.go),
// which knows what was asked for, and has the S3 fail on command.
//
// story_test.go tells what a deployment goes through: a graph in all regions, a bucket that fails, purges, a lost index, a
// kill in the middle of a large copy. faults_test.go breaks everything at once, in number. hostile_test.go has what nobody
// should send.
//
// The S3 is the gateway of package blob/gateway, in this process, and moto (TASKFLEET_TEST_MOTO) where that is said.
package mirror

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/test/server"
)

var binary string // made once for all tests

func TestMain(m *testing.M) {
	code, err := func() (code int, err error) {
		directory, err := os.MkdirTemp("", "taskfleet-mirror-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(directory)
		if binary, err = server.Build(context.Background(), directory); err != nil {
			return 1, err
		}
		// They wait for leases most of the time, and do it together.
		flag.Parse()
		if err := flag.Set("test.parallel", "16"); err != nil {
			return 1, err
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

var quiet = slog.New(slog.DiscardHandler)

// patience is for machines that are slow beyond reason: it fails nothing that works.
const patience = 5 * time.Minute

// eventually waits until a condition holds. It looks the more seldom the longer it waits: looking, too, takes a machine's
// time.
func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	for begun := time.Now(); ; {
		err := holds()
		if err == nil {
			return
		}
		took := time.Since(begun)
		if took > patience {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(min(20*time.Millisecond+took/20, time.Second))
	}
}
