package stacks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/blang/semver"
	"github.com/pulumi/pulumi/sdk/v3"
	"github.com/pulumi/pulumi/sdk/v3/go/auto"
	"github.com/pulumi/pulumi/sdk/v3/go/common/workspace"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/plain"
)

// An engine runs the program pulumi, in a private directory, so that neither the user's Pulumi nor a project around has a
// say in what happens.
type engine struct {
	environment *Environment
	command     *command
	home        string // the private directory
	variables   map[string]string
	ports       map[string]int // of this machine, by stack: where its provider is served
}

// Variables that have the passphrase, if secrets are encrypted with one.
const (
	PassphraseVariable     = "TASKFLEET_STACKS_PASSPHRASE"
	PassphraseFileVariable = "TASKFLEET_STACKS_PASSPHRASE_FILE"
)

func newEngine(ctx context.Context, e *Environment, o Options) (*engine, error) {
	c, err := findPulumi(ctx, o)
	if err != nil {
		return nil, err
	}
	n := &engine{environment: e, command: c, ports: map[string]int{}, variables: map[string]string{
		"PULUMI_SKIP_UPDATE_CHECK":                    "true",
		"PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
	}}
	if n.variables["PULUMI_BACKEND_URL"], err = e.backend(); err != nil {
		return nil, err
	}
	if e.Secrets == "passphrase" {
		if n.variables["PULUMI_CONFIG_PASSPHRASE"], err = passphrase(); err != nil {
			return nil, err
		}
	}
	forgetHomes(os.TempDir())
	if n.home, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", homePrefix, os.Getpid())); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *engine) close() { os.RemoveAll(n.home) }

// homePrefix begins the name of a private directory; the process that has it comes next.
const homePrefix = "taskfleet-stacks-"

// forgetHomes removes what processes have left that were killed. It waits a day, as their engines may be still at work.
func forgetHomes(directory string) {
	entries, _ := os.ReadDir(directory) // who cannot read it has nothing to remove
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), homePrefix+"%d-", &pid); err != nil || !e.IsDir() || alive(pid) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			os.RemoveAll(filepath.Join(directory, e.Name()))
		}
	}
}

// backend is where states are, as Pulumi says it.
func (e *Environment) backend() (string, error) {
	path := e.states()
	if path == "" {
		return e.Backend, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("backend: %w", err)
	}
	return (&url.URL{Scheme: "file", Path: path}).String(), nil
}

// states is the directory that states are in; "" if they are elsewhere.
func (e *Environment) states() string {
	path, isFile := strings.CutPrefix(e.Backend, "file://")
	if !isFile {
		return ""
	}
	return e.path(path)
}

func passphrase() (string, error) {
	said, file := os.Getenv(PassphraseVariable), os.Getenv(PassphraseFileVariable)
	switch {
	case said != "" && file != "":
		return "", fmt.Errorf("%s and %s are both set: unset one", PassphraseVariable, PassphraseFileVariable)
	case said != "":
		return said, nil
	case file == "":
		return "", fmt.Errorf("secrets in the states are encrypted with a passphrase: set %s, or %s to the name of a file that has it", PassphraseVariable, PassphraseFileVariable)
	}
	text, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", PassphraseFileVariable, err)
	}
	if said = strings.TrimRight(string(text), "\r\n"); said == "" {
		return "", fmt.Errorf("%s: %s is empty", PassphraseFileVariable, file)
	}
	return said, nil
}

// A command is the program pulumi. It implements auto.PulumiCommand.
type command struct {
	path    string
	version semver.Version
}

// oldest is the oldest Pulumi that is known to do: the one whose SDK this program has.
var oldest = sdk.Version

const howToInstall = "with --install it is downloaded from get.pulumi.com; or install it by https://www.pulumi.com/docs/install/, and name it with --pulumi if it is not on PATH"

// findPulumi finds the program pulumi, and looks whether it is new enough.
func findPulumi(ctx context.Context, o Options) (*command, error) {
	path := o.Pulumi
	if path == "" {
		found, err := exec.LookPath("pulumi")
		switch {
		case err == nil:
			path = found
		case !o.Install:
			return nil, fmt.Errorf("there is no pulumi on PATH: %s", howToInstall)
		default:
			cache, err := os.UserCacheDir()
			if err != nil {
				return nil, err
			}
			root := filepath.Join(cache, "taskfleet", "pulumi", oldest.String())
			o.Notice("looking for Pulumi " + oldest.String() + " in " + root + ", and downloading it if it is not there")
			if _, err := auto.InstallPulumiCommand(ctx, &auto.PulumiCommandOptions{Version: oldest, Root: root}); err != nil {
				return nil, fmt.Errorf("Pulumi cannot be installed: %w", err)
			}
			path = filepath.Join(root, "bin", "pulumi")
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	c := &command{path: path}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be run: %w", path, err)
	}
	program := [3]any{path, info.Size(), info.ModTime()}
	if known, ok := programs.Load(program); ok {
		c.version = known.(semver.Version)
		return c, nil
	}
	out, _, _, err := c.Run(ctx, "", nil, nil, nil, []string{"PULUMI_SKIP_UPDATE_CHECK=true"}, "version")
	if err != nil {
		return nil, fmt.Errorf("%s cannot be run: %w", path, err)
	}
	if c.version, err = semver.ParseTolerant(strings.TrimSpace(out)); err != nil {
		return nil, fmt.Errorf("%s is no Pulumi: asked for its version it says %.60q", path, out)
	}
	bound := c.version
	bound.Pre = nil
	if bound.LT(oldest) || bound.Major != oldest.Major {
		return nil, fmt.Errorf("%s is Pulumi %s; %s or later is needed, but no %d: %s", path, c.version, oldest, oldest.Major+1, howToInstall)
	}
	programs.Store(program, c.version)
	return c, nil
}

// programs are the versions of those that this process has found to do, by path, size and time.
var programs sync.Map

// Version implements auto.PulumiCommand.
func (c *command) Version() semver.Version { return c.version }

// patience is how long the engine may take to end in good order once it was asked to: what is under way is waited for.
const patience = 30 * time.Minute

// Run implements auto.PulumiCommand. Unlike the one of package auto it is in a process group of its own, so that a Ctrl-C at the
// terminal is not given to the engine twice, which would be "at once"; it waits for the end; what it says goes into files, as a
// pipe whose other end was killed would kill it too, with its lock and before the state is written; and of the environment it
// has nothing that could change what Pulumi does.
func (c *command) Run(ctx context.Context, dir string, in io.Reader, outs, errOuts []io.Writer, variables []string, args ...string) (string, string, int, error) {
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--non-interactive"}, args...)...)
	cmd.Dir, cmd.Stdin = dir, in
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PULUMI_") && !strings.HasPrefix(v, "TASKFLEET_") && !strings.HasPrefix(v, "TASKCLUSTER_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	// An engine that works for a second need not collect garbage; one with a large state does.
	cmd.Env = append(append(cmd.Env, "GOGC=off", "GOMEMLIMIT=512MiB", "PULUMI_AUTOMATION_API=true"), variables...)
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(dir, ".said-")
		if err != nil {
			return "", "", -1, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	apart(cmd)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = patience
	err := cmd.Run()
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	var said [2]string
	for i, to := range [][]io.Writer{outs, errOuts} {
		text, failed := os.ReadFile(files[i].Name())
		if failed == nil && len(to) > 0 {
			_, failed = io.MultiWriter(to...).Write(text)
		}
		if said[i] = string(text); err == nil {
			err = failed
		}
	}
	return said[0], said[1], code, err
}

// run runs pulumi for a stack, without a program.
func (n *engine) run(ctx context.Context, stack string, args ...string) (string, error) {
	dir, err := n.directory(stack)
	if err != nil {
		return "", err
	}
	env := []string{"PULUMI_HOME=" + filepath.Join(n.home, "home")}
	for name, value := range n.variables {
		env = append(env, name+"="+value)
	}
	out, errOut, _, err := n.command.Run(ctx, dir, nil, nil, nil, env, append(args, "--color", "never")...)
	if err != nil {
		return "", n.explain(ctx, stack, errOut+out, err)
	}
	return out, nil
}

func project(stack string) string { return "taskfleet-" + stack }

// directory is that of a stack's project.
func (n *engine) directory(stack string) (string, error) {
	dir := filepath.Join(n.home, stack)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "Pulumi.yaml")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return dir, os.WriteFile(file, []byte("name: "+project(stack)+"\nruntime: go\n"), 0o600)
	}
	return dir, nil
}

// A state is what a stack's state has, secrets encrypted.
type state struct {
	text []byte // as exported

	Version    int `json:"version"`
	Deployment struct {
		SecretsProviders struct {
			Type  string `json:"type"`
			State struct {
				Salt         string `json:"salt"`
				URL          string `json:"url"`
				EncryptedKey string `json:"encryptedkey"`
			} `json:"state"`
		} `json:"secrets_providers"`
		Resources         []stateResource `json:"resources"`
		PendingOperations []struct {
			Resource stateResource `json:"resource"`
			Type     string        `json:"type"`
		} `json:"pending_operations"`
	} `json:"deployment"`
}

type stateResource struct {
	URN  string `json:"urn"`
	ID   string `json:"id"`
	Type string `json:"type"`
}

// noStack is what pulumi says of a stack that is not there.
var noStack = regexp.MustCompile(`no stack named .* found`)

// errNoStack is the error of a stack that nothing was ever done with.
var errNoStack = errors.New("it was never brought up")

// state reads a stack's state.
func (n *engine) state(ctx context.Context, stack string) (*state, error) {
	text, err := n.stateFile(stack)
	if err != nil {
		return nil, err
	}
	if text == nil {
		said, err := n.run(ctx, stack, "stack", "export", "--stack", n.environment.Name)
		if err != nil {
			return nil, err
		}
		text = []byte(said)
	}
	s := &state{text: text}
	if err := json.Unmarshal(s.text, s); err != nil {
		return nil, fmt.Errorf("the state of stack %s cannot be read: %w", stack, err)
	}
	return s, nil
}

// stateFile is a stack's state as the engine would export it, from the file that the engine has written; starting it takes longer
// than all else. It is nil if the backend is no directory, or not in the form that is known here: then the engine is asked.
func (n *engine) stateFile(stack string) ([]byte, error) {
	root := filepath.Join(n.environment.states(), ".pulumi")
	meta, err := os.ReadFile(filepath.Join(root, "meta.yaml"))
	if n.environment.states() == "" || err != nil || strings.TrimSpace(string(meta)) != "version: 1" {
		return nil, nil
	}
	file := filepath.Join(root, "stacks", project(stack), n.environment.Name+".json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(file + ".gz"); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("stack %s: %w", stack, errNoStack)
		}
		return nil, nil
	}
	var s struct {
		Version    int `json:"version"`
		Checkpoint struct {
			Latest json.RawMessage `json:"latest"`
		} `json:"checkpoint"`
	}
	if err != nil || json.Unmarshal(text, &s) != nil || s.Version != 3 || !bytes.HasPrefix(s.Checkpoint.Latest, []byte("{")) {
		return nil, nil
	}
	return json.Marshal(map[string]any{"version": s.Version, "deployment": s.Checkpoint.Latest})
}

// ensure reads a stack's state, which is made if it is not there yet.
func (n *engine) ensure(ctx context.Context, stack string) (*state, error) {
	s, err := n.state(ctx, stack)
	if errors.Is(err, errNoStack) {
		_, failed := n.run(ctx, stack, "stack", "init", n.environment.Name, "--secrets-provider", n.environment.Secrets)
		if s, err = n.state(ctx, stack); err != nil { // else somebody else may have made it at the same time
			return nil, errors.Join(failed, err)
		}
	}
	return s, err
}

// digest is of what the state says there is.
func (s *state) digest() string {
	var d struct {
		Deployment struct {
			Resources json.RawMessage `json:"resources"`
		} `json:"deployment"`
	}
	_ = json.Unmarshal(s.text, &d) // has been read before
	return digestOf(d.Deployment.Resources)
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// clearPending takes operations out of a state that were cut off: whatever they were making is found, and taken, by the
// creation that comes next. The state was read a while ago, so it is read again: one that others have written is not overwritten.
func (n *engine) clearPending(ctx context.Context, stack string, read *state) error {
	if len(read.Deployment.PendingOperations) == 0 {
		return nil
	}
	s, err := n.unchanged(ctx, stack, read)
	if err != nil {
		return err
	}
	var whole map[string]json.RawMessage
	var deployment map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(s.text, &whole), json.Unmarshal(whole["deployment"], &deployment)); err != nil {
		return err
	}
	delete(deployment, "pending_operations")
	if whole["deployment"], err = json.Marshal(deployment); err != nil {
		return err
	}
	text, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	return n.restore(ctx, stack, text)
}

// unchanged reads a state again, which has to be the one that was read before.
func (n *engine) unchanged(ctx context.Context, stack string, read *state) (*state, error) {
	s, err := n.state(ctx, stack)
	if err == nil && s.digest() != read.digest() {
		err = fmt.Errorf("stack %s: somebody else has changed the state meanwhile, so nothing was done with it: look again", stack)
	}
	return s, err
}

// restore writes a stack's state. Secrets in it are encrypted.
func (n *engine) restore(ctx context.Context, stack string, text []byte) error {
	file := filepath.Join(n.home, stack+"-state.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	_, err := n.run(ctx, stack, "stack", "import", "--stack", n.environment.Name, "--file", file)
	return err
}

// A quiet command is one of package auto, which asks for the history after whatever it does; nobody here reads that.
type quiet struct{ *command }

// Run implements auto.PulumiCommand.
func (c quiet) Run(ctx context.Context, dir string, in io.Reader, outs, errOuts []io.Writer, variables []string, args ...string) (string, string, int, error) {
	if len(args) > 1 && args[0] == "stack" && args[1] == "history" {
		return "[]", "", 0, nil
	}
	return c.command.Run(ctx, dir, in, outs, errOuts, variables, args...)
}

// A private workspace is one of package auto that asks Pulumi for no more than is needed.
type private struct{ *auto.LocalWorkspace }

// SelectStack implements auto.Workspace: its state was read, so it is there.
func (private) SelectStack(context.Context, string) error { return nil }

// StackOutputs implements auto.Workspace: they are asked for when they are wanted.
func (private) StackOutputs(context.Context, string) (auto.OutputMap, error) { return nil, nil }

// open is a stack as package auto has it, with a program. Its secrets are encrypted as those in its state.
func (n *engine) open(ctx context.Context, stack string, s *state, program pulumi.RunFunc) (*auto.Stack, error) {
	dir, err := n.directory(stack)
	if err != nil {
		return nil, err
	}
	settings := workspace.ProjectStack{}
	switch p := s.Deployment.SecretsProviders; p.Type {
	case "passphrase":
		settings.EncryptionSalt = p.State.Salt
	case "cloud":
		settings.SecretsProvider, settings.EncryptedKey = p.State.URL, p.State.EncryptedKey
	}
	variables := maps.Clone(n.variables)
	variables["PULUMI_DEBUG_PROVIDERS"] = fmt.Sprintf("taskfleet:%d", n.ports[stack])
	w, err := auto.NewLocalWorkspace(ctx, auto.WorkDir(dir), auto.Pulumi(quiet{n.command}), auto.Program(program), auto.PulumiHome(filepath.Join(n.home, "home")),
		auto.EnvVars(variables), auto.SecretsProvider(n.environment.Secrets), auto.Stacks(map[string]workspace.ProjectStack{n.environment.Name: settings}))
	if err != nil {
		return nil, err
	}
	opened, err := auto.SelectStack(ctx, n.environment.Name, private{w.(*auto.LocalWorkspace)})
	return &opened, err
}

// A LockedError is that somebody else works on a stack, or did when they were killed.
type LockedError struct {
	Stack     string
	Holder    string // as Pulumi words it
	directory string // of the environment
}

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("stack %s is locked: %s. If that is still at work, wait for it. If it is certainly dead, taskfleet stacks cancel --dir %s --stack %s takes the lock away", e.Stack, plain.Line(e.Holder), ShellWord(e.directory), e.Stack)
}

var lockHolder = regexp.MustCompile(`created by (\S+ \(pid \d+\)) at (\S+)`)

// explain words what pulumi says when it fails.
func (n *engine) explain(ctx context.Context, stack, text string, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case noStack.MatchString(text):
		return fmt.Errorf("stack %s: %w", stack, errNoStack)
	case strings.Contains(text, "is currently locked by"):
		holder := "Pulumi does not say by whom"
		if m := lockHolder.FindStringSubmatch(text); m != nil {
			holder = "by " + m[1] + " since " + m[2]
		}
		return &LockedError{stack, holder, n.environment.Directory}
	case strings.Contains(text, planViolation):
		return fmt.Errorf("stack %s: %s", stack, planViolated)
	case strings.Contains(text, "incorrect passphrase"):
		return fmt.Errorf("stack %s: the passphrase is not the one that its secrets are encrypted with: set %s to that", stack, PassphraseVariable)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return fmt.Errorf("stack %s: %w", stack, err)
	}
	return fmt.Errorf("stack %s: Pulumi says: %s", stack, lines(strings.TrimPrefix(text, "error: "), "\n"))
}

// IsNoStack tells whether an error is that of a stack that nothing was ever done with.
func IsNoStack(err error) bool { return errors.Is(err, errNoStack) }
