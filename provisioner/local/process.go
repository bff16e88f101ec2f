package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

const (
	watchInterval = 500 * time.Millisecond // how often the locks of found workers are looked at
	killPatience  = time.Minute            // how long a killed process may take to vanish, where others keep the machine busy
	logLife       = 14 * 24 * time.Hour    // how long the log of a worker that is gone is kept
	detailSize    = 1 << 10                // how much of its log goes into the account of its end
)

// A process is a worker that this server started.
type process struct {
	ref   fleet.Ref
	cmd   *exec.Cmd
	ended chan struct{} // closed once the worker and all it left behind are gone
	asked atomic.Bool   // to end

	state  fleet.Life // of the ended
	detail string
}

func (w *process) alive() bool {
	select {
	case <-w.ended:
		return false
	default:
		return true
	}
}

func (w *process) sighting() fleet.Sighting {
	if w.alive() {
		return fleet.Sighting{Ref: w.ref, IntentID: intentOf(w.ref.WorkerID), State: fleet.Alive}
	}
	return fleet.Sighting{Ref: w.ref, IntentID: intentOf(w.ref.WorkerID), State: w.state, Detail: w.detail}
}

func (w *process) terminate() error {
	w.asked.Store(true)
	if err := w.cmd.Process.Signal(terminateSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("local provider: asking worker %s to end: %w", w.ref.WorkerID, err)
	}
	return nil
}

// kill kills the worker and waits until attend has seen it gone.
func (w *process) kill(ctx context.Context) error {
	if err := w.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-w.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for pid %d to vanish after it was killed: %w", w.cmd.Process.Pid, ctx.Err())
	}
}

// terminate sends SIGTERM to the worker that holds the lock in dir. The lock is
// looked at again when the process is open, so that the signal cannot reach
// another process with a reused pid.
func terminate(dir string) error {
	held, pid, err := holder(dir)
	if err != nil || !held || pid == 0 {
		return err
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer proc.Release()
	if held, again, err := holder(dir); err != nil || !held || again != pid {
		return err
	}
	if err := proc.Signal(terminateSignal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// end kills a worker that is not our child, with all that it started, or what
// is left of it.
func end(ctx context.Context, dir, cookie string) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	for {
		held, pid, err := holder(dir)
		if err != nil {
			return err
		}
		if err := endAll(ctx, cookie, sessionOf(pid)); err != nil || !held {
			return err
		}
		// A forked process may not have come into view yet, and a killed one gives
		// its locks back a little after it has gone from view.
		select {
		case <-ctx.Done():
			return fmt.Errorf("something still holds the lock on %s after all processes that were found were killed (its pid is %d, or 0 if it is not known): %w", filepath.Join(dir, configFile), pid, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// attend waits for a worker's death, ends what it left behind and tells.
func (p *Provider) attend(w *process) {
	err := w.cmd.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	id := w.ref.WorkerID
	if err := endAll(ctx, cookie(id), w.cmd.Process.Pid); err != nil {
		p.log.Error("processes of a dead worker's tasks are left", "worker", id, "error", err)
	}
	w.state, w.detail = fleet.Exited, "it exited with status 0"
	switch {
	case w.asked.Load():
		w.state, w.detail = fleet.Lost, "it was asked to end and did: "+w.cmd.ProcessState.String()
	case err != nil:
		w.state, w.detail = fleet.Failed, "it ended with "+err.Error()
	}
	if last := p.lastWords(id); last != "" {
		w.detail += "; its log ends:\n" + last
	}
	p.log.Info("a worker has ended", "worker", w.ref.String(), "how", w.cmd.ProcessState.String())
	close(w.ended)
	p.signal()
}

// lastWords is the end of a worker's log. The token, which a worker has no
// reason to print, must not get out by it.
func (p *Provider) lastWords(id string) string {
	last := tail(p.file(id), detailSize)
	if last == "" {
		return ""
	}
	if token := p.read(id).Proof.Token; token != "" {
		last = strings.ReplaceAll(last, token, "(token)")
	}
	return last
}

// adopt looks for the workers of a server before this one, and clears away what
// that one had not got round to.
func (p *Provider) adopt() error {
	entries, err := os.ReadDir(filepath.Join(p.config.Dir, "workers"))
	if err != nil {
		return fmt.Errorf("local provider: looking for workers to take over: %w", err)
	}
	for _, e := range entries {
		id := e.Name()
		if !plain(id) {
			if err := removeAll(p.dir(id)); err != nil {
				p.log.Warn("a leftover directory could not be removed", "directory", p.dir(id), "error", err)
			}
			continue
		}
		held, pid, err := holder(p.dir(id))
		if err != nil {
			return fmt.Errorf("local provider: looking whether worker %s lives: %w", id, err)
		}
		p.found[id] = held
		if held {
			p.log.Info("took over a worker", "worker", p.read(id).ref().String(), "pid", pid)
		}
	}
	p.forgetLogs()
	return nil
}

// watch notices the deaths of workers that were found: they are not our
// children, so nothing tells us.
func (p *Provider) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p.someoneDied() {
			p.signal()
		}
		if n%int(time.Hour/watchInterval) == 0 {
			p.forgetLogs()
		}
	}
}

func (p *Provider) someoneDied() (died bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, alive := range p.found {
		if !alive {
			continue
		}
		if held, _, err := holder(p.dir(id)); err == nil && !held {
			p.log.Info("a worker has ended", "worker", p.read(id).ref().String())
			p.found[id] = false
			died = true
		}
	}
	return died
}

// forgetLogs removes old logs of workers that are gone. Other programs may keep
// their logs in the directory.
func (p *Provider) forgetLogs() {
	entries, err := os.ReadDir(p.logs())
	if err != nil {
		p.log.Warn("the logs of workers could not be listed", "error", err)
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), "w-") || time.Since(info.ModTime()) < logLife {
			continue
		}
		if _, err := os.Stat(p.dir(strings.TrimSuffix(e.Name(), ".log"))); err == nil {
			continue // quiet, but there
		}
		if err := os.Remove(filepath.Join(p.logs(), e.Name())); err != nil {
			p.log.Warn("an old log could not be removed", "error", err)
		}
	}
}
