//go:build linux

package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t *testing.T) providertest.World {
		s := newStage(t, "obedient")
		return providertest.World{
			Open: func(t *testing.T) fleet.Provider { return s.open(t) },
			Kill: func(t *testing.T, r fleet.Ref) { s.ready(t, r); s.kill(t, r) },
			Proof: func(t *testing.T, r fleet.Ref) json.RawMessage {
				text, err := json.Marshal(s.open(t).read(r.WorkerID).Proof)
				if err != nil {
					t.Fatal(err)
				}
				return text
			},
			Config: json.RawMessage(`{"maxCapacity": 100, "workerConfig": {"anything": ["goes"]}, "lifecycle": {"registrationTimeout": 60}}`),
			Other:  json.RawMessage(`{"maxCapacity": 100, "workerConfig": {"anything": ["else"]}}`),
			Wrong: map[string]json.RawMessage{
				"config.capacityPerInstance is 33":                      json.RawMessage(`{"capacityPerInstance": 33, "maxCapacity": 40}`),
				"config.minCapacity is null":                            json.RawMessage(`{"minCapacity": null, "maxCapacity": 4}`),
				"config.lifecycle.registrationTimeout is 0":             json.RawMessage(`{"lifecycle": {"registrationTimeout": 0}, "maxCapacity": 4}`),
				`config.workerConfig.capacity is "all", but`:            json.RawMessage(`{"workerConfig": {"capacity": "all"}, "maxCapacity": 4}`),
				"config.capacityPerInstance is 2 (1 if it is left out)": json.RawMessage(`{"workerConfig": {"capacity": 3}, "capacityPerInstance": 2, "maxCapacity": 4}`),
				"config.sizing.policy":                                  json.RawMessage(`{"sizing": {"policy": "guess"}, "maxCapacity": 4}`),
				"config.schedule[0].cron is":                            json.RawMessage(`{"schedule": [{"cron": "never", "duration": 60, "minCapacity": 1}], "maxCapacity": 4}`),
				"config.workerConfig.capacity is 3":                     json.RawMessage(`{"workerConfig": {"capacity": 3}, "maxCapacity": 4}`),
				"config.maxCapacity is missing":                         json.RawMessage(`{}`),
				"config.maxCapacity is a JSON string":                   json.RawMessage(`{"maxCapacity": "4"}`),
				"config.minCapacity is 5":                               json.RawMessage(`{"minCapacity": 5, "maxCapacity": 4}`),
				"config.minCapacity is -1":                              json.RawMessage(`{"minCapacity": -1, "maxCapacity": 4}`),
				"config.scalingRatio is 1.5":                            json.RawMessage(`{"scalingRatio": 1.5, "maxCapacity": 4}`),
				"config.capacityPerInstance is 0":                       json.RawMessage(`{"capacityPerInstance": 0, "maxCapacity": 4}`),
				"config.capacityPerInstance is 5":                       json.RawMessage(`{"capacityPerInstance": 5, "maxCapacity": 4}`),
				"config.workerConfig must be an object":                 json.RawMessage(`{"workerConfig": [], "maxCapacity": 4}`),
				"config.region means nothing":                           json.RawMessage(`{"region": "mars", "maxCapacity": 4}`),
				"config.lifecycle.queueInactivityTimeout is 1":          json.RawMessage(`{"lifecycle": {"queueInactivityTimeout": 1}, "maxCapacity": 4}`),
				"config.lifecycle.patience means":                       json.RawMessage(`{"lifecycle": {"patience": 1}, "maxCapacity": 4}`),
				"config.lifecycle.registrationTimeout":                  json.RawMessage(`{"lifecycle": {"registrationTimeout": -1}, "maxCapacity": 4}`),
				"reregistrationTimeout is 2592001":                      json.RawMessage(`{"lifecycle": {"reregistrationTimeout": 2592001}, "maxCapacity": 4}`),
				"config is not a JSON object":                           json.RawMessage(`nonsense`),
			},
		}
	})
}

func (s *stage) kill(t *testing.T, r fleet.Ref) {
	t.Helper()
	if err := syscall.Kill(pidOf(t, filepath.Join(s.dir, "workers", r.WorkerID)), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestADeadWorkersTasksDieWithIt(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *stage, *Provider, fleet.Ref){
		"killed by somebody": func(t *testing.T, s *stage, p *Provider, r fleet.Ref) { s.kill(t, r) },
		"stopped now": func(t *testing.T, s *stage, p *Provider, r fleet.Ref) {
			if err := p.end(t.Context(), r, fleet.Now); err != nil {
				t.Error(err)
			}
		},
		"stopped now by the next server": func(t *testing.T, s *stage, _ *Provider, r fleet.Ref) {
			if err := s.open(t).end(t.Context(), r, fleet.Now); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, "with tasks")
			p := s.open(t)
			r := start(t, p)
			s.ready(t, r)
			const worker, tasks, child = 1, 3, 1
			s.becomes(t, "the worker and its tasks run", func() bool { return len(s.processes()) == worker+tasks+child })
			end(t, s, p, r)
			s.becomes(t, "every process has ended", func() bool { return len(s.processes()) == 0 })
			if err := p.end(t.Context(), r, fleet.Now); err != nil {
				t.Error(err)
			}
			s.becomes(t, "the directory is gone, read-only parts and all", func() bool {
				left, err := os.ReadDir(filepath.Join(s.dir, "workers"))
				return err == nil && len(left) == 0
			})
		})
	}
}

func TestAStubbornWorkerIsStoppedByForce(t *testing.T) {
	s := newStage(t, "stubborn")
	p := s.open(t)
	r := start(t, p)
	s.ready(t, r)
	if err := p.end(t.Context(), r, fleet.Gracefully); err != nil {
		t.Fatal(err)
	}
	if err := p.end(t.Context(), r, fleet.Now); err != nil {
		t.Fatal(err)
	}
	if left := s.processes(); len(left) > 0 {
		t.Errorf("Stop(Now) has returned and %v still run", left)
	}
}

func TestTheEndOfAWorkerIsExplained(t *testing.T) {
	for character, want := range map[string]struct {
		state fleet.Life
		says  []string
	}{
		"broken": {fleet.Failed, []string{"exit status 3", "cannot find the thing"}},
		"done":   {fleet.Exited, []string{"status 0"}},
	} {
		t.Run(character, func(t *testing.T) {
			s := newStage(t, character)
			p := s.open(t)
			o := newOrder()
			if err := p.start(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			s.becomes(t, "it has ended", func() bool { x, there := sight(t, p, o.Ref); return there && x.State != fleet.Alive })
			x, _ := sight(t, p, o.Ref)
			if x.State != want.state {
				t.Errorf("it is called %s, want %s", x.State, want.state)
			}
			for _, say := range want.says {
				if !strings.Contains(x.Detail, say) {
					t.Errorf("the account does not say %q: %s", say, x.Detail)
				}
			}
			if strings.Contains(x.Detail, o.token) {
				t.Errorf("the account gives the token away: %s", x.Detail)
			}
			if err := p.end(t.Context(), o.Ref, fleet.Now); err != nil {
				t.Error(err)
			}
			if log, err := os.ReadFile(filepath.Join(s.dir, "logs", o.WorkerID+".log")); err != nil || !strings.Contains(string(log), "the token is") {
				t.Errorf("the log of the dead worker: %q, %v; it is to be kept", log, err)
			}
		})
	}
}

func TestAProgramThatCannotBeStartedIsSaidAndLeavesNothing(t *testing.T) {
	s := newStage(t, "")
	c := settings(s.dir, s.mark, "")
	c.Executable = filepath.Join(s.dir, "missing")
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	o := newOrder()
	if err := p.start(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.Executable) {
		t.Errorf("the error does not name the program: %v", err)
	}
	if list, err := p.workers(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
}

func TestWorkersGetTheirFileAndLittleElse(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	s := newStage(t, "obedient")
	p := s.open(t)
	r := start(t, p)
	s.ready(t, r)
	dir := filepath.Join(s.dir, "workers", r.WorkerID)
	info, err := os.Stat(filepath.Join(dir, configFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the token: %v, %v; want mode 0600", info.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	var c workerConfig
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if c.ref() != r || c.Directory != dir || c.ProviderID != "local" || c.RootURL == "" || len(c.Proof.Token) != 44 {
		t.Errorf("the worker's configuration is %s", text)
	}
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pidOf(t, dir)), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pidOf(t, dir)), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(env), "hush") {
		t.Error("the server's secrets are in the worker's environment")
	}
	if !strings.Contains(string(env), cookie(r.WorkerID)) {
		t.Error("the worker does not carry its id")
	}
	if strings.Contains(string(args)+string(env), c.Proof.Token) {
		t.Error("the token is on the command line or in the environment")
	}
}

func TestNothingEscapesTheDirectory(t *testing.T) {
	s := newStage(t, "obedient")
	p := s.open(t)
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".gone-x"} {
		o := newOrder()
		o.WorkerID = id
		if err := p.start(t.Context(), o); err == nil {
			t.Errorf("a worker called %q was started", id)
		}
		if err := p.end(t.Context(), o.Ref, fleet.Now); err != nil {
			t.Errorf("stopping a worker called %q: %v", id, err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, "workers")); err != nil {
		t.Error(err)
	}
}

func TestStopAllLeavesNothing(t *testing.T) {
	for _, character := range []string{"obedient", "stubborn", "with tasks"} {
		t.Run(character, func(t *testing.T) {
			s := newStage(t, character)
			s.ready(t, start(t, s.open(t))) // of a server before
			p := s.open(t)
			s.ready(t, start(t, p))
			patience, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if err := p.StopAll(patience); err != nil {
				t.Error(err)
			}
			if left := s.processes(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if list, err := p.workers(t.Context()); err != nil || len(list) > 0 {
				t.Errorf("listed: %v, %v", list, err)
			}
			if err := p.start(t.Context(), newOrder()); !errors.Is(err, errClosing) {
				t.Errorf("a start after that: %v", err)
			}
		})
	}
}

func TestOldLogsGo(t *testing.T) {
	s := newStage(t, "obedient")
	p := s.open(t)
	r := start(t, p)
	s.ready(t, r)
	old, recent, quiet := p.file("w-old"), p.file("w-recent"), p.file(r.WorkerID)
	foreign := filepath.Join(s.dir, "logs", "taskfleet.log")
	for _, f := range []string{old, recent, foreign} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * logLife)
	for _, f := range []string{old, quiet, foreign} {
		if err := os.Chtimes(f, past, past); err != nil {
			t.Fatal(err)
		}
	}
	p.forgetLogs()
	if _, err := os.Stat(old); err == nil {
		t.Error("an old log of a worker that is gone is kept")
	}
	for _, f := range []string{recent, quiet, foreign} {
		if _, err := os.Stat(f); err != nil {
			t.Errorf("a log that is still of use: %v", err)
		}
	}
}

// From fork to exec a worker has the environment of its server. It cannot be
// found, so it must not be taken for dead, and its directory must stay.
func TestAForkThatIsNoWorkerYetIsNotLost(t *testing.T) {
	s := newStage(t, "obedient")
	p := s.open(t)
	o := newOrder()
	life, err := p.prepare(p.dir(o.WorkerID), o)
	if err != nil {
		t.Fatal(err)
	}
	defer life.Close()
	fork := exec.Command(os.Args[0])
	fork.Env = []string{"PLAY=task", "MARK=" + s.mark}
	fork.Stdin = life
	if err := fork.Start(); err != nil {
		t.Fatal(err)
	}
	life.Close()

	next := s.open(t)
	if x, listed := sight(t, next, o.Ref); !listed || x.State != fleet.Alive {
		t.Errorf("the next server lists %v, %v; it is alive", listed, x)
	}
	moment, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := next.end(moment, o.Ref, fleet.Now); err == nil || !strings.Contains(err.Error(), configFile) {
		t.Errorf("Stop(Now) of what it cannot find: %v", err)
	}
	if x, listed := sight(t, next, o.Ref); !listed || x.State != fleet.Alive {
		t.Errorf("after it could not be stopped: %v, %v", listed, x)
	}
	if err := fork.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	fork.Wait() // "signal: killed", as wished
	if x, _ := sight(t, next, o.Ref); x.State == fleet.Alive {
		t.Error("it is dead and listed alive")
	}
	if err := next.end(t.Context(), o.Ref, fleet.Now); err != nil {
		t.Error(err)
	}
	if x, listed := sight(t, next, o.Ref); listed {
		t.Errorf("stopped and listed: %v", x)
	}
}

// Before it is up a worker has written down nothing about itself.
func TestAWorkerThatBootsIsTakenOver(t *testing.T) {
	s := newStage(t, "slow")
	r := start(t, s.open(t))
	p := s.open(t)
	if x, listed := sight(t, p, r); !listed || x.State != fleet.Alive {
		t.Errorf("%v, %v; it is alive", listed, x)
	}
	if err := p.end(t.Context(), r, fleet.Now); err != nil {
		t.Error(err)
	}
	if left := s.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The server is killed at random moments while it starts one worker after the
// other. Whatever the moment, even between fork and exec, the next server knows
// every process there is, and can end every one.
func TestAServerKilledWhileItStartsWorkers(t *testing.T) {
	for _, character := range []string{"obedient", "slow", "with tasks"} {
		t.Run(character, func(t *testing.T) {
			s := newStage(t, character)
			rounds := 10
			if testing.Short() {
				rounds = 5
			}
			for range rounds {
				s.runAndKillServer(t)
				p := s.open(t)
				list, err := p.workers(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range list {
					if err := p.end(t.Context(), x.Ref, fleet.Now); err != nil {
						t.Errorf("stopping %v: %v", x, err)
					}
				}
				if left := s.processes(); len(left) > 0 {
					t.Errorf("%d workers were listed and stopped; these processes are left: %v", len(list), left)
				}
				p.Close()
			}
		})
	}
}

func (s *stage) runAndKillServer(t *testing.T) {
	t.Helper()
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), "PLAY=server", "DIR="+s.dir, "CHARACTER="+s.character, "MARK="+s.mark)
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	s.becomes(t, "the server starts a worker", func() bool {
		dirs, err := filepath.Glob(filepath.Join(s.dir, "workers", "w-*"))
		return err != nil || len(dirs) > 0
	})
	time.Sleep(rand.N(3 * time.Millisecond)) // the random moment
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	server.Wait() // "signal: killed", as wished
}
