package local

import (
	"context"
	"errors"
	"os"
	"syscall"
)

const lockFile = "lock"

var terminateSignal = os.Kill

func supported() error {
	return errors.New("the local provider needs Linux or macOS; on Windows start workers with `taskfleet worker` yourself")
}

func ownSession() *syscall.SysProcAttr          { return nil }
func hold(*os.File) error                       { return nil }
func holder(string) (bool, int, error)          { return false, 0, nil }
func endAll(context.Context, string, int) error { return nil }
func sessionOf(int) int                         { return 0 }
