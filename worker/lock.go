package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lockPatience is how long somebody else may hold the lock: a provider that
// looks whether there is a worker holds it for a moment.
const lockPatience = 5 * time.Second

var errLocked = errors.New("is locked by another worker")

// lock takes <directory>/lock for the life of the process. It is how a provider
// tells whether the worker lives. The file contains the process id and, as ids
// are used again, when the process began, in the system's own measure.
func lock(directory string, patience time.Duration) (*os.File, error) {
	file := filepath.Join(directory, "lock")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		locked, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("worker: locking %s: %w", file, err)
		}
		if locked {
			break
		}
		if time.Since(begin) > patience {
			holder, _ := os.ReadFile(file)
			f.Close()
			return nil, fmt.Errorf("worker: %s %w (%q); each needs a directory of its own", file, errLocked, strings.TrimSpace(string(holder)))
		}
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("worker: %w", err)
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), processStart()), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("worker: %w", err)
	}
	return f, nil
}

// processStart is the 22nd field of /proc/self/stat, clock ticks since boot, or
// 0 where there is no such thing.
func processStart() string {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return "0"
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // our own name has no such thing in it
	if fields := strings.Fields(rest); len(fields) > 19 {
		return fields[19]
	}
	return "0"
}
