package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

const credentialsDoc = `Commands that talk to a platform take its URL and their credentials from TASKCLUSTER_ROOT_URL,
TASKCLUSTER_CLIENT_ID, TASKCLUSTER_ACCESS_TOKEN and TASKCLUSTER_CERTIFICATE. Where TASKCLUSTER_ROOT_URL is not set,
they take those of the platform on this machine: credentials.json in the directory that TASKFLEET_DATA names, or in
./.taskfleet.`

// A session is a connection to a platform.
type session struct {
	core *client.Client
	from string // where the credentials are from, for messages
}

// A sessionError is an error of a command that uses a session, for explain.
type sessionError struct {
	session *session
	error
}

func (e *sessionError) Unwrap() error { return e.error }

func (s *session) identity() string {
	id := s.core.Credentials().ClientID
	if id == "" {
		return fmt.Sprintf("no credentials (looked for in %s)", s.from)
	}
	return fmt.Sprintf("the credentials of %s, from %s", id, s.from)
}

// brief is how long commands repeat calls that fail: a person waits.
var brief = client.Retry{For: 5 * time.Second}

// An action is what a command does with a session.
type action func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error

// withSession is the RunE of a command that talks to a platform.
func withSession(retry client.Retry, f action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := connect(cmd, retry)
		if err != nil {
			return err
		}
		if err := f(cmd.Context(), s, cmd, args); err != nil {
			return &sessionError{s, err}
		}
		return nil
	}
}

// connect opens the session that the environment asks for.
func connect(cmd *cobra.Command, retry client.Retry) (*session, error) {
	opts, from, err := findCredentials()
	if err != nil {
		return nil, err
	}
	opts.Retry = retry
	opts.Log = patience(cmd.ErrOrStderr())
	core, err := client.New(opts)
	if err != nil {
		return nil, fmt.Errorf("%w (it comes from %s)", err, from)
	}
	return &session{core, from}, nil
}

// defaultData is where a platform keeps what it knows, unless it is told.
const defaultData = ".taskfleet"

func findCredentials() (opts client.Options, from string, err error) {
	if os.Getenv("TASKCLUSTER_ROOT_URL") != "" {
		opts, err = client.FromEnv()
		return opts, "the TASKCLUSTER_* environment variables", err
	}
	data := os.Getenv("TASKFLEET_DATA")
	if data == "" {
		data = defaultData
	}
	file := filepath.Join(data, "credentials.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return opts, "", fmt.Errorf("which platform? TASKCLUSTER_ROOT_URL is not set, and there is no %s of a platform on this machine. "+
			"Set TASKCLUSTER_ROOT_URL and the other variables, or start a platform with taskfleet up, or run this where one keeps its data (TASKFLEET_DATA names another directory)", file)
	} else if err != nil {
		return opts, "", fmt.Errorf("reading the credentials of the platform on this machine: %w", err)
	}
	var c struct {
		RootURL string `json:"rootUrl"`
		cred.Credentials
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return opts, "", fmt.Errorf("%s is damaged (%w); the platform writes it anew when it starts", file, err)
	}
	return client.Options{RootURL: c.RootURL, Credentials: c.Credentials}, file, nil
}

// patience tells the user why a command takes long when calls have to be
// repeated, once in a while.
func patience(w io.Writer) *slog.Logger { return slog.New(&patienceHandler{out: w}) }

type patienceHandler struct {
	out io.Writer
	mu  sync.Mutex
	due time.Time // of the next line
}

const patienceInterval = 5 * time.Second

func (h *patienceHandler) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Time.Before(h.due) {
		return nil
	}
	h.due = r.Time.Add(patienceInterval)
	cause := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" {
			cause = ": " + strings.ReplaceAll(a.Value.String(), "client: ", "")
		}
		return true
	})
	_, err := fmt.Fprintf(h.out, "taskfleet: %s%s\n", r.Message, cause)
	return err
}

func (h *patienceHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (h *patienceHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h *patienceHandler) WithGroup(string) slog.Handler                { return h }
