package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/test/daemon"
)

// A rabbitmq is a private RabbitMQ on loopback. A test may kill it: like that of a service manager, its process is
// started again, on the same port and data.
type rabbitmq struct {
	url        string
	management string // URL of the management API
	directory  string
	epmd       *daemon.Daemon

	mu       sync.Mutex
	broker   *daemon.Daemon
	stopping bool
}

// rabbitmqPackages are what a broker consists of in Debian and its kin. They are unpacked, not installed: an installed
// one would be started, now and whenever the machine is.
var rabbitmqPackages = []string{
	"rabbitmq-server", "erlang-base", "erlang-asn1", "erlang-crypto", "erlang-eldap", "erlang-ftp", "erlang-inets", "erlang-mnesia",
	"erlang-os-mon", "erlang-parsetools", "erlang-public-key", "erlang-runtime-tools", "erlang-snmp", "erlang-ssl",
	"erlang-syntax-tools", "erlang-tftp", "erlang-tools", "erlang-xmerl",
}

// installRabbitMQ unpacks a broker into .tools/rabbitmq and returns the directory that stands for the root there.
func installRabbitMQ(ctx context.Context, root string) (programs string, err error) {
	home := filepath.Join(root, ".tools", "rabbitmq")
	programs = filepath.Join(home, "root")
	stamp := filepath.Join(home, "complete")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == programs {
		return programs, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", fmt.Errorf("the tests need RabbitMQ and Erlang as Debian and its kin package them (%s), and there is no apt-get to get them with", strings.Join(rabbitmqPackages, " "))
	}
	fmt.Println("== unpacking RabbitMQ")
	packages := filepath.Join(home, "packages")
	if err := errors.Join(os.RemoveAll(home), os.MkdirAll(packages, 0o755)); err != nil {
		return "", err
	}
	download := func() error {
		get := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=5", "download"}, rabbitmqPackages...)...)
		get.Dir = packages
		_, err := output(get)
		return err
	}
	if err := download(); err != nil { // the list of packages may be old, or not be there
		update := exec.CommandContext(ctx, "apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=5", "update")
		if os.Geteuid() != 0 {
			update = exec.CommandContext(ctx, "sudo", update.Args...)
		}
		if _, err := output(update); err != nil {
			return "", fmt.Errorf("the packages of RabbitMQ could not be downloaded, nor the list of packages brought up to date (as root: apt-get update): %w", err)
		}
		if err := download(); err != nil {
			return "", fmt.Errorf("the packages of RabbitMQ could not be downloaded. Is the registry that apt-get is configured for reached from here? %w", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", file, programs)); err != nil {
			return "", fmt.Errorf("%s could not be unpacked: %w", file, err)
		}
	}
	if err := moveErlang(programs); err != nil {
		return "", err
	}
	check := exec.CommandContext(ctx, filepath.Join(programs, "usr/lib/erlang/bin/erl"), "-noshell", "-eval", "ok = crypto:start(), halt(0).")
	check.Env = append(os.Environ(), "HOME="+home)
	if _, err := output(check); err != nil {
		return "", fmt.Errorf("Erlang was unpacked and does not run here: %w", err)
	}
	if err := os.RemoveAll(packages); err != nil {
		return "", err
	}
	return programs, os.WriteFile(stamp, []byte(programs), 0o644)
}

// moveErlang tells Erlang's scripts where it is.
func moveErlang(programs string) error {
	for _, name := range []string{"erl", "start"} {
		path := filepath.Join(programs, "usr/lib/erlang/bin", name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		moved := strings.ReplaceAll(string(text), "/usr/lib/erlang", filepath.Join(programs, "usr/lib/erlang"))
		if err := os.WriteFile(path, []byte(moved), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func startRabbitMQ(ctx context.Context, programs string) (_ *rabbitmq, err error) {
	directory, err := os.MkdirTemp("", "taskfleet-rabbitmq-")
	if err != nil {
		return nil, err
	}
	r := &rabbitmq{directory: directory}
	defer func() {
		if err != nil {
			r.stop()
		}
	}()
	erlang := filepath.Join(programs, "usr/lib/erlang/bin")
	servers, err := filepath.Glob(filepath.Join(programs, "usr/lib/rabbitmq/lib/rabbitmq_server-*"))
	if err != nil || len(servers) != 1 {
		return nil, fmt.Errorf("there is no single RabbitMQ in %s: remove .tools/rabbitmq, and it is unpacked anew", programs)
	}
	command := func(port int, program string, args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Dir = directory
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Env = []string{
			"HOME=" + directory, "PATH=" + erlang + ":" + os.Getenv("PATH"), "LANG=C.UTF-8",
			"ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprintf("ERL_EPMD_PORT=%d", port),
			"RABBITMQ_NODENAME=taskfleet@localhost", "RABBITMQ_PID_FILE=" + filepath.Join(directory, "pid"),
			"RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_CONFIG_FILE=" + filepath.Join(directory, "rabbitmq"),
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(directory, "plugins"), "RABBITMQ_PLUGINS_DIR=" + filepath.Join(servers[0], "plugins"),
			"RABBITMQ_MNESIA_BASE=" + filepath.Join(directory, "data"), "RABBITMQ_LOG_BASE=" + directory,
		}
		return cmd
	}

	// Erlang's daemon of ports is one for a machine unless one has one's own.
	var names int
	if err := daemon.OnFreePort(ctx, func(port int) (err error) {
		names = port
		r.epmd, err = daemon.Start(ctx, "epmd", filepath.Join(directory, "epmd.log"), command(port, filepath.Join(erlang, "epmd"), "-port", fmt.Sprint(port)), func() error {
			return dials(port)
		})
		return err
	}); err != nil {
		return nil, err
	}

	// For tests that have the broker do something.
	ctl := command(names, filepath.Join(servers[0], "sbin/rabbitmqctl"))
	script := "#!/bin/sh\nexec env '" + strings.Join(ctl.Env, "' '") + "' " + ctl.Path + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(directory, "ctl"), []byte(script), 0o700); err != nil {
		return nil, err
	}

	password := rand.Text()
	return r, daemon.OnFreePort(ctx, func(port int) error {
		return daemon.OnFreePort(ctx, func(distribution int) error {
			return daemon.OnFreePort(ctx, func(management int) error {
				config := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\ndefault_user = taskfleet\ndefault_pass = %s\nlog.console = true\nlog.file = false\n"+
					"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n", port, password, management)
				if err := errors.Join(
					os.WriteFile(filepath.Join(directory, "rabbitmq.conf"), []byte(config), 0o600),
					os.WriteFile(filepath.Join(directory, "plugins"), []byte("[rabbitmq_management].\n"), 0o600),
				); err != nil {
					return err
				}
				r.url = fmt.Sprintf("amqp://taskfleet:%s@127.0.0.1:%d/", password, port)
				r.management = fmt.Sprintf("http://taskfleet:%s@127.0.0.1:%d", password, management)
				start := func(ctx context.Context) (*daemon.Daemon, error) {
					broker := command(names, filepath.Join(servers[0], "sbin/rabbitmq-server"))
					broker.Env = append(broker.Env, fmt.Sprintf("RABBITMQ_DIST_PORT=%d", distribution))
					return daemon.Start(ctx, "RabbitMQ", filepath.Join(directory, "log"), broker, func() error { return greets(port) })
				}
				if r.broker, err = start(ctx); err != nil {
					return err
				}
				go r.restart(ctx, r.broker, start)
				return nil
			})
		})
	})
}

// restart starts the broker again whenever it has ended.
func (r *rabbitmq) restart(ctx context.Context, broker *daemon.Daemon, start func(context.Context) (*daemon.Daemon, error)) {
	for {
		<-broker.Ended
		syscall.Kill(-broker.Process.Process.Pid, syscall.SIGKILL) // its helpers
		r.mu.Lock()
		if !r.stopping {
			var err error
			for range 3 {
				if broker, err = start(ctx); err == nil || ctx.Err() != nil {
					break
				}
			}
			if err != nil {
				r.stopping = true
				fmt.Fprintf(os.Stderr, "RabbitMQ, which had ended, does not start again: %v\n", err)
			} else {
				r.broker = broker
			}
		}
		stopping := r.stopping
		r.mu.Unlock()
		if stopping {
			return
		}
	}
}

// dials tells whether something listens.
func dials(port int) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// greets tells whether a broker answers who opens a connection of AMQP.
func greets(port int) error {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return err
	}
	if first[0] != 1 { // the type of a frame with a method
		return errors.New("what answers is not AMQP 0-9-1")
	}
	return nil
}

func (r *rabbitmq) stop() {
	r.mu.Lock()
	r.stopping = true
	daemons := []*daemon.Daemon{r.broker, r.epmd}
	r.mu.Unlock()
	for _, d := range daemons {
		if d != nil {
			d.Stop()
			syscall.Kill(-d.Process.Process.Pid, syscall.SIGKILL)
		}
	}
	if err := os.RemoveAll(r.directory); err != nil {
		fmt.Fprintf(os.Stderr, "RabbitMQ is stopped, and its data is still there: %v\n", err)
	}
}

// rabbitmqAlone lends the private RabbitMQ to tests that are run by hand.
func rabbitmqAlone(ctx context.Context, c *checkout) error {
	programs, err := installRabbitMQ(ctx, c.root)
	if err != nil {
		return err
	}
	broker, err := startRabbitMQ(ctx, programs)
	if err != nil {
		return err
	}
	defer broker.stop()
	fmt.Printf("RabbitMQ runs until this is interrupted. Where you run go test:\n\n  export %s\n", strings.Join(broker.env(), " "))
	<-ctx.Done()
	return nil
}

// env is how tests are told of it.
func (r *rabbitmq) env() []string {
	return []string{"TASKFLEET_TEST_RABBITMQ=" + r.url, "TASKFLEET_TEST_RABBITMQ_DIRECTORY=" + r.directory, "TASKFLEET_TEST_RABBITMQ_MANAGEMENT=" + r.management}
}
