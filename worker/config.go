package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/worker/archive"
)

// Config is what a worker is started with: who it is, where the platform is, how
// to prove the one to the other, and what there is to know about the machine. It
// comes from a file (LoadConfig) or from the instance (RunOnEC2).
type Config struct {
	RootURL             string          `json:"rootUrl"`
	ProviderID          string          `json:"providerId"`
	WorkerPoolID        string          `json:"workerPoolId"`
	WorkerGroup         string          `json:"workerGroup"`
	WorkerID            string          `json:"workerId"`
	WorkerIdentityProof json.RawMessage `json:"workerIdentityProof"` // secret
	Directory           string          `json:"directory"`           // all of the worker's files are in it

	// Location tells tasks where they are: cloud, region and the like. By default
	// those are the provider and the worker group.
	Location map[string]string `json:"-"`
	// InstanceType is the machine's, or "" where there is no such thing.
	InstanceType string `json:"-"`
	// Watch tells of what is about to become of the machine, until ctx ends; nil
	// where nobody does.
	Watch func(ctx context.Context, tell func(Notice)) `json:"-"`

	// otherProofs are for a platform that does not take WorkerIdentityProof.
	otherProofs []json.RawMessage
	// recognition is how long the platform may take to know of a worker that it
	// has started, and so to refuse it without meaning it.
	recognition time.Duration
	// keep is whether to keep the registration in a file, so that a worker that
	// is started again in the same directory goes on with it.
	keep bool

	// How long to do without a server, and how often to look whether a run was
	// canceled; there is no reason to set them but in tests.
	patience, glance time.Duration
}

// LoadConfig reads a file that the provider wrote.
func LoadConfig(file string) (Config, error) {
	var c Config
	text, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("worker: reading the configuration: %w", err)
	}
	if info, err := os.Stat(file); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return c, fmt.Errorf("worker: %s has mode %o although it contains a secret; others must not be able to read it: chmod 600 %[1]s", file, info.Mode().Perm())
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("worker: %s is not valid: %w", file, err)
	}
	var absent []string
	for name, value := range map[string]string{
		"rootUrl": c.RootURL, "providerId": c.ProviderID, "workerPoolId": c.WorkerPoolID, "workerGroup": c.WorkerGroup,
		"workerId": c.WorkerID, "directory": c.Directory, "workerIdentityProof": string(c.WorkerIdentityProof),
	} {
		if value == "" {
			absent = append(absent, name)
		}
	}
	if len(absent) > 0 {
		slices.Sort(absent)
		return c, fmt.Errorf("worker: %s lacks %s", file, strings.Join(absent, ", "))
	}
	if c.Directory, err = filepath.Abs(c.Directory); err != nil {
		return c, fmt.Errorf("worker: %w", err)
	}
	return c, nil
}

func (c Config) withDefaults() Config {
	if c.patience == 0 {
		c.patience = client.Patient.For
	}
	if c.glance == 0 {
		c.glance = 10 * time.Second
	}
	if c.Location == nil {
		c.Location = map[string]string{"cloud": c.ProviderID, "region": c.WorkerGroup}
	}
	return c
}

// settings are the workerConfig of the pool, which the worker gets when it
// registers.
type settings struct {
	// Capacity is how many tasks to run at once.
	Capacity int `json:"capacity"`
	// IdleTimeoutSecs is after how long without a task to end; 0 is never. It is
	// looked at when a call for work has come back without any.
	IdleTimeoutSecs float64 `json:"idleTimeoutSecs"`
	// ShutdownGraceSecs is how long tasks may take to end when the worker has to.
	ShutdownGraceSecs float64 `json:"shutdownGraceSecs"`
	// ShutdownUploadSecs is how long it may then take to upload what they leave.
	ShutdownUploadSecs float64 `json:"shutdownUploadSecs"`
	// InterruptionGraceSecs is how long tasks may take to end when the machine is
	// being taken away, which leaves little time for all there is to do.
	InterruptionGraceSecs float64 `json:"interruptionGraceSecs"`
	// Env is for the commands of all tasks. Without a PATH there is a usual one.
	Env map[string]string `json:"env"`
	// MountBytes and MountEntries bound what one mount may download or unpack.
	MountBytes   int64 `json:"mountBytes"`
	MountEntries int   `json:"mountEntries"`
}

// mostInterruptionGrace leaves time for the upload of logs.
const mostInterruptionGrace = 90

// maxCapacity is how many tasks a queue gives out at once.
const maxCapacity = 32

// parseSettings returns the settings and the names that mean nothing to this worker.
func parseSettings(raw json.RawMessage) (s settings, unknown []string, err error) {
	s = settings{Capacity: 1, ShutdownGraceSecs: 30, ShutdownUploadSecs: 60, InterruptionGraceSecs: 2, MountBytes: 50 << 30, MountEntries: 2_000_000}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &s); err != nil {
			return s, nil, fmt.Errorf("workerConfig of the pool: %w", err)
		}
		var all, known map[string]json.RawMessage
		names, marshalErr := json.Marshal(s)
		if err := errors.Join(marshalErr, json.Unmarshal(raw, &all), json.Unmarshal(names, &known)); err != nil {
			return s, nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if _, found := known[name]; !found {
				unknown = append(unknown, name)
			}
		}
	}
	const manySecs = 1e9
	switch {
	case s.Capacity < 1 || s.Capacity > maxCapacity:
		err = fmt.Errorf("workerConfig.capacity of the pool is %d; it has to be from 1 to %d", s.Capacity, maxCapacity)
	case s.IdleTimeoutSecs < 0 || s.IdleTimeoutSecs > manySecs:
		err = fmt.Errorf("workerConfig.idleTimeoutSecs of the pool is %v; it has to be a number of seconds, or 0 for never", s.IdleTimeoutSecs)
	case s.ShutdownGraceSecs < 0 || s.ShutdownGraceSecs > manySecs, s.ShutdownUploadSecs < 0 || s.ShutdownUploadSecs > manySecs:
		err = errors.New("workerConfig.shutdownGraceSecs and shutdownUploadSecs of the pool have to be numbers of seconds")
	case s.InterruptionGraceSecs < 0 || s.InterruptionGraceSecs > mostInterruptionGrace:
		err = fmt.Errorf("workerConfig.interruptionGraceSecs of the pool is %v; it has to be from 0 to %d seconds, as the machine is gone two minutes after the notice", s.InterruptionGraceSecs, mostInterruptionGrace)
	case s.MountBytes < 1 || s.MountEntries < 1:
		err = errors.New("workerConfig.mountBytes and mountEntries of the pool have to be positive")
	}
	for name, value := range s.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			err = fmt.Errorf("workerConfig.env of the pool cannot have a variable %q with that value", name)
		}
	}
	return s, unknown, err
}

func (s settings) limits() archive.Limits {
	return archive.Limits{Bytes: s.MountBytes, Entries: s.MountEntries}
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
