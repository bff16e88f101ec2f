package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/worker/artifact"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/mount"
	"github.com/taskfleet/taskfleet/worker/payload"
	"github.com/taskfleet/taskfleet/worker/process"
	"github.com/taskfleet/taskfleet/worker/tree"
)

// A run is one attempt at a task, from its claim to its report.
type run struct {
	worker *Worker
	log    *slog.Logger // the worker's; task is the task's
	claim  queue.ClaimWorkResponseTask
	taskID string
	runID  int

	core  *client.Client // with the run's credentials
	queue *queue.Client

	dir     string // with task, home, tmp and scratch in it
	task    *livelog.Log
	payload *payload.Payload

	// Contexts, each ending with the one before: the claim is the worker's, and
	// nothing has said that the work is to stop.
	claimed context.Context
	lose    context.CancelCauseFunc
	working context.Context
	abort   context.CancelCauseFunc
}

// An outcome is how a run ends: completed or failed, or, with a reason, exception.
type outcome struct {
	state  string
	reason string
}

const (
	completed = "completed"
	failed    = "failed"
	exception = "exception"
)

func (o outcome) words() string {
	switch o.state {
	case completed:
		return "is completed"
	case failed:
		return "has failed"
	case exception:
		return "ends as exception/" + o.reason
	}
	return "is given up" // and not reported
}

var (
	errLost    = errors.New("the claim is lost")
	errMaxTime = errors.New("the commands took longer than maxRunTime")
)

const (
	killPatience = 30 * time.Second // for a killed process to vanish
	lostPatience = time.Minute      // to upload the log of a run that is not ours any more
)

func newRun(w *Worker, claim queue.ClaimWorkResponseTask, number int) *run {
	r := &run{
		worker: w, claim: claim, taskID: claim.Status.TaskID, runID: claim.RunID,
		core: w.core.WithCredentials(cred.Credentials(claim.Credentials), nil),
		dir:  filepath.Join(w.config.Directory, "tasks", strconv.Itoa(number)), // short, as it is part of the names of sockets
	}
	r.queue = queue.New(r.core)
	r.log = w.log.With("task", r.taskID, "run", r.runID)
	r.claimed, r.lose = context.WithCancelCause(w.hard)
	r.working, r.abort = context.WithCancelCause(r.claimed)
	return r
}

// live takes the run through its life.
func (r *run) live() {
	defer r.lose(context.Canceled)
	r.log.Info("claimed a task")
	go r.keepClaim()
	stop := context.AfterFunc(r.worker.draining, func() { r.abort(context.Cause(r.worker.draining)) })
	defer stop()

	out, err := r.execute()
	if err != nil {
		r.log.Error("the run failed for a reason of the worker's", "err", err)
	}
	r.report(out)
	r.lose(context.Canceled) // there is nothing left to renew
	if err != nil {
		r.worker.tellOfRun(r.taskID, r.runID, err)
	}
	if err := tree.Remove(r.dir); err != nil {
		// It is never used again, so that all it costs is space.
		r.log.Error("the task's directory could not be removed", "err", err)
	}
}

// execute does what the payload says and uploads what it leaves, the log last.
// The error is for the worker's log.
func (r *run) execute() (out outcome, err error) {
	internal := outcome{exception, "internal-error"}
	for _, d := range []string{"task", "home", "tmp", "scratch"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o700); err != nil {
			return internal, err
		}
	}
	if r.task, err = livelog.Create(filepath.Join(r.dir, "log")); err != nil {
		return internal, err
	}
	begin := time.Now()
	c := r.worker.config
	r.task.Note("Task %s, run %d, on worker %s/%s of %s", r.taskID, r.runID, c.WorkerGroup, c.WorkerID, c.WorkerPoolID)
	parsed, malformed := payload.Parse(r.claim.Task.Payload, payload.Task{
		Scopes: r.claim.Task.Scopes, Expires: r.claim.Task.Expires.Time(),
	})
	if r.payload = parsed; malformed != nil {
		r.payload = payload.Minimal()
	}
	withdraw := r.publishLog()
	if malformed != nil {
		r.task.Error("%v", malformed)
		out = outcome{exception, "malformed-payload"}
	} else {
		out, err = r.carryOut()
	}
	r.task.Note("The run %s after %v", out.words(), time.Since(begin).Round(time.Millisecond))
	withdraw()
	return out, errors.Join(err, r.uploadLog())
}

// carryOut runs the commands, with all that goes before and comes after.
func (r *run) carryOut() (out outcome, err error) {
	mounter := &mount.Mounter{
		Dir: filepath.Join(r.dir, "task"), Scratch: filepath.Join(r.dir, "scratch"), Caches: r.worker.caches,
		Fetcher: &mount.Fetcher{Locate: r.locate, Client: r.worker.web, For: 5 * time.Minute, Stall: time.Minute},
		Limits:  r.worker.settings.limits(), Log: r.task,
	}
	began, purge := false, false
	if err = mounter.Mount(r.working, r.payload.Mounts); err == nil {
		began = true
		out, purge, err = r.command()
	}
	if err != nil {
		out, err = r.blame(err)
	}
	mounter.Return(purge)
	if !began || r.claimed.Err() != nil || out.state == exception && departureOf(r.working).urgent() {
		return out, err
	}
	uploading, stop := r.uploading()
	defer stop()
	complete, uploadErr := r.uploader().Upload(uploading, mounter.Dir, r.payload.Artifacts)
	if uploadErr != nil {
		r.task.Error("Not all artifacts could be uploaded: %v", uploadErr)
		blamed, _ := r.blame(uploadErr)
		if out.state != exception {
			out = blamed
		}
		return out, errors.Join(err, uploadErr)
	}
	if !complete && out.state == completed {
		r.task.Error("The commands succeeded, but not everything that the task promised is there")
		out = outcome{state: failed}
	}
	return out, err
}

// blame finds what an error means for the run. What is left of it is for the
// worker's log.
func (r *run) blame(err error) (outcome, error) {
	var failure *mount.Failure
	cause := context.Cause(r.working)
	switch {
	case errors.Is(cause, errShutdown):
		r.task.Error("The worker has to shut down; the task will be tried again elsewhere")
		return outcome{exception, "worker-shutdown"}, nil
	case errors.Is(cause, errLost):
		r.task.Error("The run is no longer this worker's: it was canceled, or is past its deadline")
		return outcome{}, nil
	case cause != nil:
		r.task.Error("The worker had to give up: %v", cause)
		return outcome{exception, "internal-error"}, err
	case errors.As(err, &failure) && failure.Unavailable:
		r.task.Error("%s", failure.Message)
		return outcome{exception, "resource-unavailable"}, nil
	case errors.As(err, &failure):
		r.task.Error("%s", failure.Message)
		return outcome{exception, "malformed-payload"}, nil
	case errors.Is(err, syscall.ENOSPC):
		r.task.Error("The worker's disk is full")
		return outcome{exception, "resource-unavailable"}, err
	}
	r.task.Error("The worker cannot carry out the task; its own log says why")
	return outcome{exception, "internal-error"}, err
}

// locate says where an artifact of another task can be downloaded.
func (r *run) locate(ctx context.Context, taskID, name string) (string, error) {
	out, err := r.queue.LatestArtifact(ctx, taskID, name)
	switch {
	case err != nil:
		return "", fmt.Errorf("the artifact %s of task %s is not to be had: %w", name, taskID, err)
	case out.StorageType == "error":
		return "", fmt.Errorf("task %s did not make the artifact %s: %s (%s)", taskID, name, out.Message, out.Reason)
	case out.URL == "":
		return "", fmt.Errorf("the artifact %s of task %s is stored as %q, which this worker cannot read", name, taskID, out.StorageType)
	}
	return out.URL, nil
}

// command runs the commands. Afterwards no process of the task is left.
func (r *run) command() (out outcome, purge bool, err error) {
	extra := map[string]string{}
	if r.payload.Features.TaskclusterProxy {
		scopes := append([]string{fmt.Sprintf("queue:create-artifact:%s/%d", r.taskID, r.runID)}, r.claim.Task.Scopes...)
		proxy, err := newProxy(r.core, scopes, r.log)
		if err != nil {
			return out, false, err
		}
		defer proxy.close()
		extra["TASKCLUSTER_PROXY_URL"] = proxy.url
	}
	if r.payload.Features.LineTimestamps {
		r.task.TimestampLines()
	}
	group := process.NewGroup(process.Options{
		Dir: filepath.Join(r.dir, "task"), Within: r.dir, Env: r.environment(extra), Cookie: r.cookie(), Output: r.task,
	})
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(r.working), killPatience)
		defer stop()
		if killErr := group.Kill(ctx); killErr != nil {
			r.task.Error("The task has left something that cannot be killed: %v", killErr)
			r.worker.end(fmt.Errorf("task %s: %w", r.taskID, killErr))
			err = errors.Join(err, killErr)
		}
	}()
	limit := r.payload.MaxRunTime.Duration()
	ctx, stop := context.WithTimeoutCause(r.working, limit, errMaxTime)
	defer stop()
	for i, argv := range r.payload.Command {
		which := fmt.Sprintf("Command %d of %d", i+1, len(r.payload.Command))
		r.task.Note("%s: %s", which, cut(fmt.Sprintf("%q", argv), 2000))
		p, startErr := group.Start(argv)
		if startErr != nil {
			r.task.Error("%s: %v", which, startErr)
			return outcome{state: failed}, false, nil
		}
		select {
		case <-p.Done:
			out, purge = r.judge(which, p.Result)
		case <-ctx.Done():
			r.stop(ctx, group, p)
		}
		switch {
		case ctx.Err() == nil && out.state == completed:
			continue
		case errors.Is(context.Cause(ctx), errMaxTime):
			r.task.Error("The commands took longer than maxRunTime, which is %v, and were killed", limit)
			return outcome{state: failed}, false, nil
		}
		return out, purge, context.Cause(ctx)
	}
	return out, purge, nil
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// stop ends a command before its time. One that has to make room may tidy up.
func (r *run) stop(ctx context.Context, group *process.Group, p *process.Process) {
	if d := departureOf(ctx); d != nil {
		r.task.Note("The worker has to shut down; the task has %v to end by itself", d.grace)
		group.Terminate()
		timer := time.NewTimer(d.grace)
		defer timer.Stop()
		select {
		case <-p.Done:
		case <-timer.C:
		case <-r.claimed.Done():
		}
	}
	kill, done := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer done()
	if group.Kill(kill) == nil { // else it is killed again, and said so
		<-p.Done
	}
}

// judge says what the end of a command means.
func (r *run) judge(which string, result process.Result) (out outcome, purge bool) {
	how := fmt.Sprintf("ended with status %d", result.Status)
	if result.Signal != "" {
		how = "was ended by " + result.Signal
	}
	took := result.Wall.Round(time.Millisecond).String()
	if r.payload.Features.ResourceMonitor {
		took += fmt.Sprintf(" (%v of processor time", (result.User + result.System).Round(time.Millisecond))
		if result.MaxRSS > 0 {
			took += fmt.Sprintf(", up to %d MiB of memory", result.MaxRSS>>20)
		}
		took += ")"
	}
	on := r.payload.OnExitStatus
	purge = on.PurgeCaches.Has(result.Status)
	switch {
	case result.Status == 0:
		r.task.Note("%s %s after %s", which, how, took)
		out = outcome{state: completed}
	case on.Retry.Has(result.Status):
		r.task.Error("%s %s after %s, after which the task is to be tried again", which, how, took)
		out = outcome{exception, "intermittent-task"}
	default:
		r.task.Error("%s %s after %s", which, how, took)
		out = outcome{state: failed}
	}
	return out, purge
}

// publishLog shows the log while it grows.
func (r *run) publishLog() (withdraw func()) {
	if !r.payload.Features.LiveLog {
		return func() {}
	}
	url, withdraw := r.worker.logs.Publish(r.task)
	_, err := r.queue.CreateArtifact(r.working, r.taskID, r.runID, r.payload.Logs.Live, &queue.PostArtifactRequest{
		StorageType: "reference", Expires: r.claim.Task.Expires, URL: url, ContentType: logType,
	})
	if err != nil {
		r.log.Warn("the live log could not be shown", "err", err)
	}
	return withdraw
}

const logType = "text/plain; charset=utf-8"

// uploadLog ends the log and keeps it, also for a run that was lost, so that it
// can be seen how far it came.
func (r *run) uploadLog() error {
	logErr := r.task.End()
	if logErr != nil {
		logErr = fmt.Errorf("the log is not complete: %w", logErr)
	}
	if !r.payload.Features.BackingLog || r.worker.hard.Err() != nil {
		return logErr
	}
	ctx, stop := r.worker.hard, context.CancelFunc(func() {})
	if departureOf(r.working).urgent() {
		ctx, stop = context.WithTimeout(ctx, lastWords)
	} else if r.claimed.Err() != nil {
		ctx, stop = context.WithTimeout(ctx, lostPatience)
	}
	defer stop()
	f, err := os.Open(filepath.Join(r.dir, "log"))
	if err != nil {
		return errors.Join(logErr, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return errors.Join(logErr, err)
	}
	expires := r.claim.Task.Expires
	err = r.uploader().Put(ctx, artifact.Item{Name: r.payload.Logs.Backing, Expires: expires.Time(), ContentType: logType, Encoding: "gzip"}, f, info)
	if err == nil {
		_, err = r.queue.CreateArtifact(ctx, r.taskID, r.runID, r.payload.Logs.Live, &queue.PostArtifactRequest{
			StorageType: "link", Expires: expires, Artifact: r.payload.Logs.Backing, ContentType: logType,
		})
	}
	if err != nil {
		err = fmt.Errorf("keeping the log: %w", err)
	}
	return errors.Join(logErr, err)
}

// uploading is for as long as artifacts may be uploaded: while the claim lasts, or
// until the machine is as good as gone.
func (r *run) uploading() (context.Context, func()) {
	ctx, cancel := context.WithCancel(r.claimed)
	stop := context.AfterFunc(r.worker.draining, func() {
		d := departureOf(r.worker.draining)
		if !d.urgent() {
			return
		}
		select {
		case <-time.After(d.finish):
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { stop(); cancel() }
}

func (r *run) uploader() *artifact.Uploader {
	return &artifact.Uploader{
		Run: artifacts{r}, Client: r.worker.web, Scratch: filepath.Join(r.dir, "scratch"), Log: r.task, For: r.worker.config.patience, Stall: 2 * time.Minute,
	}
}

// artifacts is the run as its artifacts see it.
type artifacts struct{ *run }

func (a artifacts) CreateArtifact(ctx context.Context, name string, in *queue.PostArtifactRequest) (*queue.PostArtifactResponse, error) {
	return a.queue.CreateArtifact(ctx, a.taskID, a.runID, name, in)
}

func (a artifacts) FinishArtifact(ctx context.Context, name string, in *queue.FinishArtifactRequest) error {
	return a.queue.FinishArtifact(ctx, a.taskID, a.runID, name, in)
}

// report tells the queue how the run ended, unless it is not ours to tell.
func (r *run) report(out outcome) {
	if errors.Is(context.Cause(r.claimed), errLost) {
		r.log.Info("the run is not reported, as its claim is lost")
		return
	}
	var err error
	switch ctx := r.worker.hard; out.state {
	case completed:
		_, err = r.queue.ReportCompleted(ctx, r.taskID, r.runID)
	case failed:
		_, err = r.queue.ReportFailed(ctx, r.taskID, r.runID)
	default:
		_, err = r.queue.ReportException(ctx, r.taskID, r.runID, &queue.TaskExceptionRequest{Reason: out.reason})
	}
	state := strings.TrimSuffix(out.state+"/"+out.reason, "/")
	switch {
	case err == nil:
		r.log.Info("reported", "as", state)
	case client.IsRefusal(err):
		r.log.Warn("the report was refused; the run was resolved otherwise meanwhile", "as", state, "err", err)
	case r.worker.hard.Err() != nil:
		r.log.Warn("the run is not reported, as the worker has to end", "as", state)
	default:
		r.worker.fail(fmt.Errorf("reporting task %s failed for too long: %w", r.taskID, err))
	}
}
