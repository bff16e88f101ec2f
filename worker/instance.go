package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/taskfleet/taskfleet/worker/ec2"
)

// OnEC2 is how to run a worker on an instance of EC2 whose user data is that of a
// worker pool.
type OnEC2 struct {
	// Directory is for the worker's files; a fast disk that goes with the
	// instance is best.
	Directory string
	// PowerOff is the command that powers the machine off when the worker has
	// ended, unless it was told to end by a signal or another one has the
	// directory. An instance whose shutdown
	// behavior is terminate is gone then. Empty leaves the machine running, and
	// so does `"shutdown": false` in the user data.
	PowerOff []string

	// There is no reason to set these but in tests.
	patience, glance, recognition, notices, boot time.Duration
}

// RunOnEC2 finds out from the instance who the worker is, and runs it until it is
// not needed or the instance is taken away. It returns nil if the worker has
// ended as it should. The machine is not powered off if it is not known to be a
// worker's.
func RunOnEC2(ctx context.Context, on OnEC2, log *slog.Logger) error {
	on = on.withDefaults()
	machine := ec2.New(log)
	booting, stop := context.WithTimeoutCause(ctx, on.boot, fmt.Errorf("gave up after %v", on.boot))
	defer stop()
	instance, err := machine.Boot(booting)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	u, d := instance.UserData, instance.Document
	log.Info("on EC2", "instance", d.InstanceID, "type", d.InstanceType, "zone", d.AvailabilityZone, "image", d.ImageID, "pool", u.WorkerPoolID)
	config := Config{
		RootURL: u.RootURL, ProviderID: u.ProviderID, WorkerPoolID: u.WorkerPoolID, WorkerGroup: u.WorkerGroup, WorkerID: d.InstanceID,
		WorkerIdentityProof: instance.Proofs[0], otherProofs: instance.Proofs[1:],
		Directory:    on.Directory,
		Location:     map[string]string{"cloud": "aws", "region": d.Region, "availabilityZone": d.AvailabilityZone},
		InstanceType: d.InstanceType,
		Watch: func(ctx context.Context, tell func(Notice)) {
			machine.Watch(ctx, on.notices, func(n ec2.Notice) {
				tell(Notice{Urgent: n.Kind == ec2.Interruption, At: n.At, What: n.String()})
			})
		},
		recognition: on.recognition, keep: true, patience: on.patience, glance: on.glance,
	}
	err = Run(ctx, config, log)
	if len(on.PowerOff) == 0 || u.Shutdown != nil && !*u.Shutdown || ctx.Err() != nil || errors.Is(err, errLocked) {
		return err
	}
	if err != nil {
		log.Error("the worker has failed", "err", err)
	}
	log.Info("powering the machine off", "command", on.PowerOff)
	off := exec.Command(on.PowerOff[0], on.PowerOff[1:]...)
	if out, offErr := off.CombinedOutput(); offErr != nil {
		err = errors.Join(err, fmt.Errorf("worker: the machine could not be powered off by %q: %w: %s", on.PowerOff, offErr, cut(string(out), 500)))
	}
	return err
}

func (on OnEC2) withDefaults() OnEC2 {
	if on.boot == 0 {
		on.boot = 5 * time.Minute
	}
	if on.recognition == 0 {
		on.recognition = time.Minute
	}
	if on.notices == 0 {
		on.notices = 2 * time.Second
	}
	return on
}

// watchForCrash has what the runtime prints when the program dies of itself
// (a panic in any of its goroutines, above all) go to a file too, and reports
// what is there from a worker before this one.
func (w *Worker) watchForCrash(ctx context.Context) error {
	file := filepath.Join(w.config.Directory, "crash.txt")
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if text = bytes.TrimSpace(text); len(text) > 0 {
		w.log.Error("the worker before this one crashed", "file", file)
		w.tell(ctx, "worker-crashed", "The worker crashed and was started again", errors.New(string(text)))
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close() // the runtime has its own
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}
