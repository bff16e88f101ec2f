package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// RestartSpec is the spec of taskfleet:platform:Restart: servers that read their configuration from files are started anew when it has
// changed, and answer then.
type RestartSpec struct {
	Command  []string          `json:"command,omitempty"`  // such as systemctl restart taskfleet. None: somebody else restarts them
	Versions map[string]string `json:"versions,omitempty"` // of what they read, by names: a change restarts them
	Timeout  string            `json:"timeout"`            // until they have to answer, 2m by default
}

type restarted struct {
	RestartSpec
	At string `json:"restarted,omitempty"` // when, in RFC 3339
}

const (
	defaultAnswer = 2 * time.Minute
	heartbeat     = "/__lbheartbeat__"
	mostOutput    = 2000 // bytes of what a command has said that are told
)

func restarts(o Options) *kind[RestartSpec, restarted] {
	return &kind[RestartSpec, restarted]{
		token: "Restart", computed: []string{"restarted"},
		check: func(name string, spec *RestartSpec, bad func(member, format string, args ...any)) {
			if u, err := url.Parse(name); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.HasSuffix(name, "/") {
				bad("", "the name must be the root URL of the platform, such as https://tasks.example.com, without a user and without a slash at the end")
			}
			if slices.Contains(spec.Command, "") {
				bad("command", "has an empty word; it must be a program and its arguments")
			}
			checkTimeout(&spec.Timeout, defaultAnswer, bad)
			if len(spec.Command) == 0 {
				spec.Command = nil
			}
			if len(spec.Versions) == 0 {
				spec.Versions = nil
			}
		},
		read: func(_ context.Context, _ string, was *restarted) (*restarted, error) {
			if was == nil || was.At == "" {
				return nil, nil
			}
			return was, nil // nothing tells from outside what servers have read
		},
		write: func(ctx context.Context, name string, _ *restarted, spec RestartSpec) (*restarted, error) {
			timeout, err := time.ParseDuration(spec.Timeout)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %v", timeout))
			defer cancel()
			if len(spec.Command) > 0 {
				o.Progress(ctx, name, "running "+strings.Join(spec.Command, " "))
				if err := run(ctx, spec.Command); err != nil {
					return nil, err
				}
			}
			o.Progress(ctx, name, "waiting until it answers")
			if err := answers(ctx, o.Transport, name+heartbeat); err != nil {
				return nil, fmt.Errorf("the platform was restarted, but %s does not answer: %w. What it says in its log tells why", name, err)
			}
			return &restarted{spec, time.Now().UTC().Format(time.RFC3339)}, nil
		},
		complete: func(spec RestartSpec, was *restarted) restarted {
			if was == nil || !slices.Equal(was.Command, spec.Command) || !maps.Equal(was.Versions, spec.Versions) {
				return restarted{spec, ""}
			}
			return restarted{spec, was.At}
		},
	}
}

// run runs a command to its end. What it says goes into a file: a pipe would be read until all have closed it, also a server that
// the command leaves running.
func run(ctx context.Context, command []string) error {
	said, err := os.CreateTemp("", "taskfleet-restart-")
	if err != nil {
		return err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	c := exec.CommandContext(ctx, command[0], command[1:]...)
	c.Stdout, c.Stderr = said, said
	c.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TASKFLEET_STACKS_") }) // the passphrase is not for servers
	if err = c.Run(); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	size, _ := said.Seek(0, io.SeekEnd)
	text, _ := io.ReadAll(io.NewSectionReader(said, max(0, size-mostOutput), mostOutput)) // if it cannot be read, there is still the error
	return fmt.Errorf("the command %s has failed: %w\n%s", strings.Join(command, " "), err, strings.TrimSpace(strings.ToValidUTF8(string(text), "?")))
}

// answers waits until an URL is answered with 200.
func answers(ctx context.Context, transport http.RoundTripper, url string) error {
	client := &http.Client{Transport: transport, Timeout: pollEvery}
	for {
		err := ask(ctx, client, url)
		if err == nil {
			return nil
		}
		if pause(ctx) != nil {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func ask(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, mostOutput))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", response.Status)
	}
	return nil
}
