// Package worker is the agent that executes tasks: it registers, claims, runs,
// reclaims, uploads, reports, and ends when it is idle or told to.
//
// It is a client of the platform like any other and shares nothing with it but
// the API. One goroutine asks for work; each run has a goroutine that takes it
// through its life (run.go) and another that keeps its claim.
//
// What holds, whatever tasks do and whatever fails:
//
//   - A task sees a fresh directory and nothing of the machine's environment.
//   - When a run is over, no process of it is left and its directory is gone,
//     before its slot is given to another. If that cannot be done, the worker
//     takes no more tasks.
//   - A run is reported at most once, and only while its claim is the worker's. A
//     claim that is lost (canceled, past its deadline, expired) ends the run at
//     once and without a report.
//   - Without a server the tasks go on. Every call is repeated for ten minutes;
//     after that somebody else has the tasks, so they are killed and the worker
//     ends.
//   - No credentials are in a task's environment, its log, an error or an
//     argument.
//
// There are four ways to end. Idle, or no longer wanted: no more work is asked
// for, and the worker removes itself when the tasks it has are done. Told to (the
// context ends, as by SIGTERM): the tasks are asked to end, killed after a grace
// period, and reported as exception/worker-shutdown with what they left uploaded,
// all within a bound. The machine is being taken away: the same in haste, with
// nothing uploaded but the logs, so that the queue can give the tasks to others
// within seconds. Told twice, or beyond the bound: everything is killed.
//
// Who the worker is and what is to become of its machine is told by a Config. On
// a machine with a provider that started the worker, it is a file (LoadConfig);
// on an instance of EC2, the instance itself (RunOnEC2, and package ec2). Where
// the platform lets an instance register only once, the registration is kept in
// a file for a worker that has to be started again (kept).
//
// What goes wrong for a reason that is the worker's is reported to the pool's
// errors, with the last lines of the worker's log.
//
// Tasks run as the worker's own user. They are kept apart from each other by
// directories and process groups, which protects against accidents, not against
// a task that attacks its machine: give such tasks machines of their own.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/mount"
	"github.com/taskfleet/taskfleet/worker/process"
	"github.com/taskfleet/taskfleet/worker/tree"
)

// A Worker is one that has registered.
type Worker struct {
	config   Config
	settings settings
	log      *slog.Logger

	registered registration
	tail       *tail // of log

	core    *client.Client // with the worker's credentials
	queue   *queue.Client
	manager *workermanager.Client
	logs    *livelog.Server
	caches  *mount.Caches
	web     *http.Client // for artifacts and other content
	began   int          // runs, for the names of their directories

	// Contexts, each ending with the one before.
	hard     context.Context // until everything has to stop at once
	halt     context.CancelCauseFunc
	draining context.Context // until tasks have to make room
	drain    context.CancelCauseFunc
	ending   context.Context // until no more work is to be asked for
	end      context.CancelCauseFunc

	mu      sync.Mutex
	told    time.Time       // when trouble with a run was reported
	running map[string]bool // by taskId/runId
	freed   chan struct{}   // receives when a run is over
	runs    sync.WaitGroup
}

// Reasons to end.
var (
	errIdle     = errors.New("there was no task for too long")
	errUnwanted = errors.New("the platform does not need this worker any more")
	errShutdown = errors.New("the worker is shutting down")
	errForced   = errors.New("the worker was told again to end")
	errTooLong  = errors.New("the tasks did not end in time")
)

// Run registers and works until ctx ends or the worker is not needed. It returns
// nil if it has ended as it should, with no task left behind.
func Run(ctx context.Context, config Config, log *slog.Logger) error {
	config = config.withDefaults()
	tail := newTail(log)
	log = tail.log.With("worker", config.WorkerID)
	if err := os.MkdirAll(config.Directory, 0o700); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	held, err := lock(config.Directory, lockPatience)
	if err != nil {
		return err
	}
	defer held.Close()
	adopting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := process.Adopt(adopting, log); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	w, err := open(ctx, config, log, tail)
	if err != nil {
		return err
	}
	defer w.close()
	if config.keep {
		if err := w.watchForCrash(ctx); err != nil {
			log.Warn("should the worker crash, that will not be reported", "err", err)
		}
	}
	return w.work(ctx)
}

// open prepares the directory and registers.
func open(ctx context.Context, config Config, log *slog.Logger, tail *tail) (*Worker, error) {
	w := &Worker{config: config, log: log, tail: tail, freed: make(chan struct{}, 1), running: map[string]bool{}}
	w.hard, w.halt = context.WithCancelCause(context.WithoutCancel(ctx))
	w.draining, w.drain = context.WithCancelCause(w.hard)
	w.ending, w.end = context.WithCancelCause(w.draining)
	w.web = &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute,
		ResponseHeaderTimeout: 5 * time.Minute,
	}}
	// What a worker before this one left.
	if config.keep {
		if err := w.killLeftovers(ctx); err != nil {
			return nil, fmt.Errorf("worker: %w", err)
		}
	}
	if err := tree.Remove(filepath.Join(config.Directory, "tasks")); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	var err error
	if w.caches, err = mount.NewCaches(filepath.Join(config.Directory, "caches")); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	if w.core, err = client.New(client.Options{
		RootURL: config.RootURL, Retry: client.Retry{For: config.patience}, Log: log,
	}); err != nil {
		return nil, err
	}
	w.queue, w.manager = queue.New(w.core), workermanager.New(w.core)
	if err := w.enrol(ctx); err != nil {
		return nil, err
	}
	if w.logs, err = livelog.Serve(log); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Worker) close() {
	w.halt(context.Canceled)
	w.logs.Close()
	w.web.CloseIdleConnections()
}

// fail ends the worker for a reason that leaves no room for its tasks.
func (w *Worker) fail(err error) {
	w.log.Error("the worker cannot go on", "err", err)
	w.halt(err)
}

// work asks for tasks and runs them, until the worker has to end.
func (w *Worker) work(ctx context.Context) error {
	stop := context.AfterFunc(ctx, w.shutdown)
	defer stop()
	go w.reregister()
	if w.config.Watch != nil {
		go w.config.Watch(w.hard, w.heed)
	}
	w.claimTasks()
	w.runs.Wait()

	reason := context.Cause(w.ending)
	var failure error
	switch {
	case w.hard.Err() != nil:
		failure = fmt.Errorf("worker: %w", context.Cause(w.hard))
	case !errors.Is(reason, errIdle) && !errors.Is(reason, errUnwanted) && !errors.Is(reason, errShutdown):
		failure = fmt.Errorf("worker: %w", reason)
	}
	w.leave(ctx, failure)
	w.log.Info("the worker ends", "reason", reason)
	return failure
}

// leave says goodbye, and why if that is a failure.
func (w *Worker) leave(ctx context.Context, failure error) {
	patience := lastWords
	if w.hard.Err() != nil {
		patience = time.Second
	}
	ctx = context.WithoutCancel(ctx)
	if failure != nil && !errors.Is(failure, errForced) && !errors.Is(failure, context.Canceled) {
		telling, done := context.WithTimeout(ctx, patience)
		w.tell(telling, "worker-error", "The worker had to end", failure)
		done()
	}
	ctx, done := context.WithTimeout(ctx, patience)
	defer done()
	if err := w.manager.RemoveWorker(ctx, w.config.WorkerPoolID, w.config.WorkerGroup, w.config.WorkerID); err != nil {
		w.log.Warn("the worker could not remove itself; its provider will notice", "err", err)
	}
}

// killLeftovers kills what a worker of the same name that was killed has left
// running.
func (w *Worker) killLeftovers(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, killPatience)
	defer stop()
	return process.NewGroup(process.Options{
		Within: filepath.Join(w.config.Directory, "tasks"), Cookie: []string{w.cookie()},
	}).Kill(ctx)
}

// claimTasks returns when no more work is to be asked for.
func (w *Worker) claimTasks() {
	idleSince := time.Now()
	idle := seconds(w.settings.IdleTimeoutSecs)
	answered := time.Now()
	for w.ending.Err() == nil {
		holding := w.holding()
		running := len(holding)
		if running == w.settings.Capacity {
			select {
			case <-w.freed:
			case <-w.ending.Done():
			}
			idleSince = time.Now()
			continue
		}
		// A poll ends when the worker has been idle for long enough. A task that
		// is handed out just then goes back, since the answer finds nobody.
		poll, hangUp := context.WithCancel(w.ending)
		if running > 0 {
			idleSince = time.Now()
		} else if idle > 0 {
			left := idle - time.Since(idleSince)
			if left <= 0 {
				hangUp()
				w.end(errIdle)
				return
			}
			hangUp()
			poll, hangUp = context.WithTimeout(w.ending, left)
		}
		claims, err := w.claim(poll, w.settings.Capacity-running, holding)
		idled := poll.Err() != nil
		hangUp()
		switch {
		case err == nil:
			answered = time.Now()
		case w.ending.Err() != nil:
			return
		case idled:
			answered = time.Now() // whether the platform is there is not known, and does not matter any more
		case errors.Is(err, errUnwanted):
			w.end(err)
			return
		case client.IsRefusal(err), time.Since(answered) > w.config.patience:
			w.end(fmt.Errorf("asking for work: %w", err))
			return
		default:
			w.log.Warn("asking for work failed, will be repeated", "err", err)
			w.sleep(time.Second + rand.N(4*time.Second))
		}
		for _, claim := range claims {
			w.start(claim)
		}
	}
}

func (w *Worker) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ending.Done():
	}
}

// claim asks for up to n tasks, if the worker is still wanted.
func (w *Worker) claim(ctx context.Context, n int, holding []string) ([]queue.ClaimWorkResponseTask, error) {
	c := w.config
	advice, err := w.manager.ShouldWorkerTerminate(ctx, c.WorkerPoolID, c.WorkerGroup, c.WorkerID)
	switch {
	case err == nil && advice.Terminate:
		return nil, fmt.Errorf("%w: %s", errUnwanted, advice.Reason)
	case err != nil && client.IsRefusal(err):
		w.log.Debug("no advice whether to end", "err", err) // not every platform gives it
	case err != nil:
		return nil, err
	}
	out, err := w.queue.ClaimWork(ctx, c.WorkerPoolID, &queue.ClaimWorkRequest{
		WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID, Tasks: n, Holding: holding,
	})
	if err != nil {
		return nil, err
	}
	return out.Tasks, nil
}

// holding lists the runs in hand. It is never nil: that would not tell.
func (w *Worker) holding() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, slices.Sorted(maps.Keys(w.running))...)
}

func (w *Worker) start(claim queue.ClaimWorkResponseTask) {
	name := fmt.Sprintf("%s/%d", claim.Status.TaskID, claim.RunID)
	w.mu.Lock()
	w.running[name] = true
	w.mu.Unlock()
	w.began++
	r := newRun(w, claim, w.began)
	w.runs.Go(func() {
		defer func() {
			w.mu.Lock()
			delete(w.running, name)
			w.mu.Unlock()
			select {
			case w.freed <- struct{}{}:
			default: // one is there already, which says all
			}
		}()
		r.live()
	})
}
