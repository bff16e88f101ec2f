// Package local is the provider whose workers are processes on the machine of
// the server.
//
// A worker is a process `taskfleet worker --config FILE`, in a session of its
// own, so that a Ctrl-C meant for the server does not reach it. It outlives the
// server: after a kill -9 and a restart the new server finds it and goes on
// with it. Everything about it is under one directory:
//
//	<Dir>/workers/<workerId>/worker.json   its configuration, mode 0600, with the one-time token; locked while it lives
//	<Dir>/workers/<workerId>/lock          says its pid, once it is up
//	<Dir>/workers/<workerId>/…             its tasks
//	<Dir>/logs/<workerId>.log              what it prints; kept when it is gone
//
// The directory appears in one piece (written aside and renamed) before the
// process is started, so there is never a process without a directory.
//
// worker.json is the worker's standard input, and locked (flock) before there is
// a worker. Such a lock belongs to the open file, which the worker has from the
// fork to its death and nobody else has: tasks get another standard input. So
// the lock tells the living from the dead without trusting pids, which are
// reused, and without a moment between fork and the worker's first instruction
// at which nobody can tell: a server that is killed in it leaves a worker that
// the next one knows. The workers that this process started are its children
// and their deaths are seen at once; those that it found are watched by their
// locks, twice a second.
//
// A worker and, by inheritance, the processes of its tasks carry
// TASKFLEET_WORKER_ID in their environment. When a worker is dead, or has to be,
// whatever carries its id is killed, descendants included, again and again until
// the lock is free: what has been forked and is not a worker yet cannot be found
// by its environment, but is as soon as it is one.
//
// One directory belongs to one server at a time. Servers that share a database
// each need a provider of their own, with its own id.
package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// Config says how workers are started.
type Config struct {
	RootURL    string   // where workers find the platform
	Dir        string   // workers and their logs live below it
	Executable string   // the program to run; by default the running one
	Args       []string // what stands before the configuration file; by default worker --config
	Env        []string // added to the few variables that workers get from the server's environment
	Log        *slog.Logger
}

// A Provider runs workers as processes.
type Provider struct {
	config Config
	log    *slog.Logger

	quit  context.CancelFunc
	going sync.WaitGroup // the watcher and removals

	mu      sync.Mutex
	notify  func()
	closing bool                // no worker starts any more
	started map[string]*process // by worker id: started by us and not yet cleared away
	found   map[string]bool     // started by a server before us; true while alive
}

// New opens the provider on its directory and takes over the workers that it
// finds there.
func New(c Config) (*Provider, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if c.Executable == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("local provider: finding the program to start workers with: %w; name it in the configuration", err)
		}
		c.Executable = exe
	}
	if c.Args == nil {
		c.Args = []string{"worker", "--config"}
	}
	dir, err := filepath.Abs(c.Dir) // workers run in directories of their own
	if err != nil {
		return nil, fmt.Errorf("local provider: %w", err)
	}
	c.Dir = dir
	for _, d := range []string{"workers", "logs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("local provider: making the directory for its workers: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ctx, quit := context.WithCancel(context.Background())
	p := &Provider{
		config: c, log: c.Log,
		quit: quit, notify: func() {},
		started: map[string]*process{}, found: map[string]bool{},
	}
	if err := p.adopt(); err != nil {
		quit()
		return nil, err
	}
	p.going.Go(func() { p.watch(ctx) })
	return p, nil
}

// Close stops watching. It ends no worker; see StopAll.
func (p *Provider) Close() {
	p.quit()
	p.going.Wait()
}

// Type is "local".
func (p *Provider) Type() string { return "local" }

// Notify has f called when a worker has died.
func (p *Provider) Notify(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notify = f
}

func (p *Provider) signal() {
	p.mu.Lock()
	f := p.notify
	p.mu.Unlock()
	f()
}

func (p *Provider) dir(id string) string  { return filepath.Join(p.config.Dir, "workers", id) }
func (p *Provider) logs() string          { return filepath.Join(p.config.Dir, "logs") }
func (p *Provider) file(id string) string { return filepath.Join(p.logs(), id+".log") }

const configFile = "worker.json"

// workerConfig is the file that a worker starts from.
type workerConfig struct {
	RootURL      string        `json:"rootUrl"`
	ProviderID   string        `json:"providerId"`
	WorkerPoolID string        `json:"workerPoolId"`
	WorkerGroup  string        `json:"workerGroup"`
	WorkerID     string        `json:"workerId"`
	Proof        identityProof `json:"workerIdentityProof"`
	Directory    string        `json:"directory"`
}

type identityProof struct {
	Token string `json:"token"`
}

func (c workerConfig) ref() fleet.Ref {
	return fleet.Ref{WorkerPoolID: c.WorkerPoolID, WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID}
}

// An order is for one worker.
type order struct {
	fleet.Ref
	providerID string
	token      string // proves to registerWorker that the caller is this worker
}

// start starts the process of one worker. One that was started before is left
// as it is, even if it has ended.
func (p *Provider) start(ctx context.Context, o order) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id := o.WorkerID
	if !plain(id) {
		return fmt.Errorf("local provider: %q cannot be the name of a directory", id)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return errClosing
	}
	dir := p.dir(id)
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	life, err := p.prepare(dir, o)
	if err != nil {
		return fmt.Errorf("local provider: preparing the directory of worker %s: %w", id, err)
	}
	defer life.Close() // from here on it is the worker's alone
	w, err := p.fork(o, dir, life)
	if err != nil {
		return fmt.Errorf("local provider: starting worker %s: %w", id, errors.Join(err, p.discard(id)))
	}
	p.started[id] = w
	go p.attend(w) // for as long as the worker lives, whether or not we are closed
	return nil
}

// prepare makes dir with the worker's configuration in it, locked, in one step,
// and returns the open configuration.
func (p *Provider) prepare(dir string, o order) (life *os.File, err error) {
	text, err := json.Marshal(workerConfig{
		RootURL: p.config.RootURL, ProviderID: o.providerID,
		WorkerPoolID: o.WorkerPoolID, WorkerGroup: o.WorkerGroup, WorkerID: o.WorkerID,
		Proof: identityProof{o.token}, Directory: dir,
	})
	if err != nil {
		return nil, err
	}
	aside, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(aside) // nothing is there once it is renamed
	file := filepath.Join(aside, configFile)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	if life, err = os.Open(file); err != nil {
		return nil, err
	}
	if err = hold(life); err == nil {
		err = os.Rename(aside, dir)
	}
	if err != nil {
		life.Close()
		return nil, err
	}
	return life, nil
}

// fork starts the process with life as its standard input; its output goes to
// its log.
func (p *Provider) fork(o order, dir string, life *os.File) (*process, error) {
	log, err := os.OpenFile(p.file(o.WorkerID), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(p.config.Executable, append(slices.Clone(p.config.Args), filepath.Join(dir, configFile))...)
	cmd.Dir = dir
	cmd.Env = append(append(inherited(), p.config.Env...), cookie(o.WorkerID))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = life, log, log
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{ref: o.Ref, cmd: cmd, ended: make(chan struct{})}, nil
}

// inherited is what a worker gets of the server's environment: what programs
// need to find things and to reach the network. Nothing else, since the
// server's environment may hold credentials.
func inherited() (env []string) {
	for _, name := range []string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LC_ALL", "TZ",
		"SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func cookie(id string) string { return "TASKFLEET_WORKER_ID=" + id }

// workers lists the workers that have a directory.
func (p *Provider) workers(ctx context.Context) ([]fleet.Sighting, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries, err := os.ReadDir(filepath.Join(p.config.Dir, "workers"))
	if err != nil {
		return nil, fmt.Errorf("local provider: listing workers: %w", err)
	}
	var list []fleet.Sighting
	for _, e := range entries {
		id := e.Name()
		if !plain(id) {
			continue // being written or removed
		}
		if w := p.started[id]; w != nil {
			list = append(list, w.sighting())
			continue
		}
		s := fleet.Sighting{Ref: p.read(id).ref(), IntentID: intentOf(id), State: fleet.Lost, Detail: "it ended while no server watched it"}
		if held, _, err := holder(p.dir(id)); err != nil {
			return nil, fmt.Errorf("local provider: looking whether worker %s lives: %w", id, err)
		} else if held {
			s.State, s.Detail = fleet.Alive, ""
			p.found[id] = true
		}
		list = append(list, s)
	}
	return list, nil
}

// read returns the configuration in a worker's directory. A directory without
// one belongs to nobody whom the service knows.
func (p *Provider) read(id string) workerConfig {
	var c workerConfig
	text, err := os.ReadFile(filepath.Join(p.dir(id), configFile))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil || c.WorkerID != id {
		p.log.Warn("a worker's directory has no usable configuration", "directory", p.dir(id), "error", err)
		return workerConfig{WorkerID: id}
	}
	return c
}

// end ends a worker: with SIGTERM, or with SIGKILL and everything it started.
func (p *Provider) end(ctx context.Context, ref fleet.Ref, how fleet.Manner) error {
	id := ref.WorkerID
	if !plain(id) {
		return nil // never started
	}
	p.mu.Lock()
	w := p.started[id]
	p.mu.Unlock()
	var err error
	switch {
	case how == fleet.Gracefully && w != nil:
		return w.terminate()
	case how == fleet.Gracefully:
		err = terminate(p.dir(id))
	case w != nil:
		err = w.kill(ctx)
	default:
		err = end(ctx, p.dir(id), cookie(id))
	}
	if err != nil {
		return fmt.Errorf("local provider: ending worker %s: %w", id, err)
	}
	if how == fleet.Gracefully {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.discard(id); err != nil {
		return fmt.Errorf("local provider: removing the directory of worker %s: %w", id, err)
	}
	return nil
}

// discard takes a dead worker's directory away. The name goes at once, the
// contents, which can be large, when there is time.
func (p *Provider) discard(id string) error {
	delete(p.started, id)
	delete(p.found, id)
	gone := filepath.Join(p.config.Dir, "workers", ".gone-"+id)
	if err := os.Rename(p.dir(id), gone); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	p.going.Go(func() {
		if err := removeAll(gone); err != nil {
			p.log.Warn("a dead worker's directory could not be removed; it is tried again when the server starts", "directory", gone, "error", err)
		}
	})
	return nil
}

// removeAll removes a tree even where its directories are read-only, as those
// of Go's module cache are.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			if e := os.Chmod(path, 0o700); e != nil {
				return e
			}
		}
		return nil
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// StopAll ends every worker: politely, and by force what is still alive when
// ctx ends. No worker starts from then on. The server calls it when it is to
// leave nothing running.
func (p *Provider) StopAll(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	list, err := p.workers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range list {
		errs = append(errs, p.end(ctx, s.Ref, fleet.Gracefully))
	}
	tick := time.NewTicker(watchInterval / 10)
	defer tick.Stop()
	for ctx.Err() == nil && slices.ContainsFunc(list, alive) {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if list, err = p.workers(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	for _, s := range list {
		errs = append(errs, p.end(last, s.Ref, fleet.Now))
	}
	return errors.Join(errs...)
}

func alive(s fleet.Sighting) bool { return s.State == fleet.Alive }

// plain reports whether id can be the name of a worker's directory. Names that
// begin with a dot are the provider's own.
func plain(id string) bool {
	return id != "" && !strings.HasPrefix(id, ".") && !strings.ContainsAny(id, "/\\\x00")
}

// tail returns the end of a file, in whole lines.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	start := max(size-n, 0)
	text, err := io.ReadAll(io.NewSectionReader(f, start, size-start))
	if err != nil {
		return ""
	}
	if _, rest, ok := bytes.Cut(text, []byte("\n")); ok && start > 0 {
		text = rest
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD"))
}
