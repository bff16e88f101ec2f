package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// A Notice says what is about to become of the machine.
type Notice struct {
	// Urgent is whether the machine is being taken away. Tasks are then given
	// back to the queue; after any other notice they are finished, and no more
	// are claimed.
	Urgent bool
	At     time.Time // when; zero if that is not known
	What   string    // for logs
}

// A departure is why tasks have to make room for good, and how long that may
// take. It is the cause with which Worker.draining ends.
type departure struct {
	why   error
	grace time.Duration // for commands to end
	// finish is for artifacts of a task whose commands had ended. If it is 0,
	// all tasks may upload what they leave.
	finish time.Duration
	bound  time.Duration // of it all
}

func (d *departure) Error() string { return d.why.Error() }
func (d *departure) Unwrap() error { return d.why }

// departureOf is that by which ctx has ended, or nil.
func departureOf(ctx context.Context) *departure {
	d, _ := errors.AsType[*departure](context.Cause(ctx))
	return d
}

// urgent is whether only what was finished before may be uploaded, and the log.
func (d *departure) urgent() bool { return d != nil && d.finish > 0 }

// errInterrupted is a kind of errShutdown.
var errInterrupted = fmt.Errorf("%w, as its machine is being taken away", errShutdown)

// lastWords is how long the worker tries to say goodbye, to tell of trouble, and to keep the log of a task that is given
// back on an urgent notice. Only tests change it: they have to pass where processes stand still for seconds.
var lastWords = 10 * time.Second

// heed acts on a notice.
func (w *Worker) heed(n Notice) {
	if !n.Urgent {
		w.end(fmt.Errorf("%w: %s", errUnwanted, n.What))
		w.log.Warn("the worker will finish what it has and end", "notice", n.What)
		return
	}
	grace, finish := seconds(w.settings.InterruptionGraceSecs), finishing(n.At, time.Now())
	w.log.Warn("the worker gives its tasks back", "notice", n.What, "grace", grace, "finish", finish)
	w.makeRoom(&departure{why: errInterrupted, grace: grace, finish: finish, bound: grace + finish + 2*lastWords})
}

// finishing is how long artifacts may go on being uploaded on a machine that is
// taken away at that time: half of what is left, as reckoned by a clock that may
// be wrong.
func finishing(at, now time.Time) time.Duration {
	const notice = 2 * time.Minute // which is what EC2 gives
	left := notice
	if !at.IsZero() {
		left = at.Sub(now)
	}
	return min(max(left/2, 5*time.Second), notice/2)
}

// shutdown is for a worker that was told to end.
func (w *Worker) shutdown() {
	grace, upload := seconds(w.settings.ShutdownGraceSecs), seconds(w.settings.ShutdownUploadSecs)
	w.log.Info("shutting down", "grace", grace, "upload", upload)
	w.makeRoom(&departure{why: errShutdown, grace: grace, bound: grace + upload})
}

// makeRoom asks the tasks to end, and sees to it that they do.
func (w *Worker) makeRoom(d *departure) {
	// Only from here on, so that this cannot be what ended the context.
	again := make(chan os.Signal, 1)
	if !d.urgent() {
		signal.Notify(again, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(again)
	}
	w.drain(d)
	bound := time.NewTimer(d.bound)
	defer bound.Stop()
	select {
	case <-again:
		w.halt(errForced)
	case <-bound.C:
		w.halt(errTooLong)
	case <-w.hard.Done():
	}
}
