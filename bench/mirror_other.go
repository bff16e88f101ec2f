//go:build !agent && !linux

package bench

import (
	"errors"
	"math"
	"time"
)

func ownCPU() (time.Duration, error) { return 0, nil }

func forgetPeak() error { return errors.New("it can be measured on Linux only") }

func peakMemory() (int64, error) { return 0, forgetPeak() }

// freeDisk does not know: writing will fail.
func freeDisk(string) (int64, error) { return math.MaxInt64, nil }
