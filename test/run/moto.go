package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/taskfleet/taskfleet/test/daemon"
)

// A moto is an imitation of AWS on loopback. It keeps everything in memory.
type moto struct {
	url       string
	directory string
	daemon    *daemon.Daemon
}

func startMoto(ctx context.Context, program string) (_ *moto, err error) {
	directory, err := os.MkdirTemp("", "taskfleet-moto-")
	if err != nil {
		return nil, err
	}
	m := &moto{directory: directory}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	err = daemon.OnFreePort(ctx, func(port int) (err error) {
		m.url = fmt.Sprintf("http://127.0.0.1:%d", port)
		process := exec.Command(program, "-H", "127.0.0.1", "-p", strconv.Itoa(port))
		process.Dir = directory
		process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		m.daemon, err = daemon.Start(ctx, "moto", filepath.Join(directory, "log"), process, func() error {
			response, err := http.Get(m.url + "/moto-api/data.json")
			if err != nil {
				return err
			}
			if response.Body.Close(); response.StatusCode != http.StatusOK {
				return errors.New(response.Status)
			}
			return nil
		})
		return err
	})
	return m, err
}

func (m *moto) stop() {
	if m.daemon != nil {
		m.daemon.Stop()
	}
	if err := os.RemoveAll(m.directory); err != nil {
		fmt.Fprintf(os.Stderr, "moto is stopped, and its log is still there: %v\n", err)
	}
}
