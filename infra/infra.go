// Package infra drives terraform, or tofu, over a deployment: a directory of HCL that says what a platform has at AWS.
// It embeds the modules and two examples of such a directory (Write), makes the bucket where their state is kept
// (Bootstrap), and goes from a plan that was saved, judged and approved by its digest to an apply that tells at every
// moment what was done.
//
// # Files
//
//	write.go      a new deployment from what is embedded
//	infra.go      a deployment is opened: which program, with which environment
//	run.go        how the program is run: its machine-readable output, its errors, who holds the lock
//	save.go       plans that are saved: digest, state and configuration they are for, policy, cost
//	apply.go      a saved plan is applied
//	journal.go    what an apply has done, on disk before anybody is told, and what that means after a crash
//	state.go      outputs, drift, imports, locks
//	manifest.go   what the deployment hands on to stacks
//	bootstrap.go  the bucket for states
//
// # What is relied upon
//
// A plan is applied if its digest is the one given, and state and configuration are those it was made from. We look at
// both first, to say clearly what has changed; terraform looks at the state again under its lock.
//
// Terraform ends with us: it gets an interrupt when the context ends, and the kernel kills it if we die (Linux). What it
// has done by then and not yet written to the state is in the journal, with the ids that AWS gave.
//
// Saved plans are readable by their owner alone. A state in a file is so if the process has asked for it (PrivateFiles).
package infra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/terraform-exec/tfexec"
)

// minVersion is the oldest terraform, and tofu, that locks states in S3 without a database.
const minVersion = "1.10.0"

// stopTime is how long terraform may take to end in good order after an interrupt. It waits for what is under way, and
// a database takes many minutes; killed before, it loses track of it.
const stopTime = 30 * time.Minute

// Options say how a deployment is worked on.
type Options struct {
	Terraform string   // path of terraform or tofu; "" for the one on PATH, terraform first
	Install   bool     // where there is none, download terraform from HashiCorp and check its signature
	Env       []string // of terraform, as os.Environ, which nil stands for

	// Notice is told what people should know while something is done, one line at a time. It may be nil.
	Notice func(line string)

	// Reattach names providers that are running already, as TF_REATTACH_PROVIDERS does, instead of those that terraform
	// would start. It is for tests.
	Reattach string
}

// A Deployment is a directory of HCL, and .plans in it. It is for one goroutine at a time.
type Deployment struct {
	Directory string // absolute
	Program   string // terraform or tofu
	Version   string // of it, such as 1.11.4

	tf       *tfexec.Terraform
	reattach tfexec.ReattachInfo
	notice   func(string)
	options  Options
}

// Open finds a deployment, and the program for it.
func Open(ctx context.Context, directory string, o Options) (*Deployment, error) {
	directory, err := filepath.Abs(directory)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(directory), "*.tf"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s is no deployment: no file *.tf is in it. Name another directory with --dir, or make one: taskfleet infra init DIR --example small", directory)
	}
	d := &Deployment{Directory: directory, notice: o.Notice, options: o}
	if o.Reattach != "" {
		if err := json.Unmarshal([]byte(o.Reattach), &d.reattach); err != nil {
			return nil, fmt.Errorf("providers that are running: %w", err)
		}
	}
	if d.notice == nil {
		d.notice = func(string) {}
	}
	env, err := environment(o.Env, d.notice)
	if err != nil {
		return nil, err
	}
	path, err := find(ctx, o, d.notice)
	if err != nil {
		return nil, err
	}
	if err := d.identify(ctx, path, env); err != nil {
		return nil, err
	}
	if d.tf, err = tfexec.NewTerraform(directory, path); err != nil {
		return nil, err
	}
	if err := d.tf.SetEnv(env); err != nil {
		return nil, err
	}
	return d, d.tf.SetWaitDelay(stopTime)
}

// escapeGlob quotes what filepath.Glob would not take literally.
func escapeGlob(path string) string {
	if runtime.GOOS == "windows" {
		return path
	}
	return regexp.MustCompile(`[\\*?\[]`).ReplaceAllString(path, `\$0`)
}

// Variables that change what terraform does behind the reader's back are refused, those that only concern how it talks
// are ignored.
var (
	refusedEnv = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^TF_(CLI_ARGS(_.*)?|VAR_.*|WORKSPACE|DATA_DIR|REATTACH_PROVIDERS|SKIP_PROVIDER_VERIFY|DISABLE_PLUGIN_TLS)$`)
	})
	ignoredEnv = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^TF_(LOG.*|INPUT|IN_AUTOMATION|APPEND_USER_AGENT)$`)
	})
)

// environment is what terraform gets of ours.
func environment(from []string, notice func(string)) (map[string]string, error) {
	if from == nil {
		from = os.Environ()
	}
	env := map[string]string{"CHECKPOINT_DISABLE": "1"}
	var refused []string
	for _, e := range from {
		k, v, _ := strings.Cut(e, "=")
		switch {
		case refusedEnv().MatchString(k):
			if v != "" {
				refused = append(refused, k)
			}
		case ignoredEnv().MatchString(k):
			if strings.HasPrefix(k, "TF_LOG") && v != "" {
				notice(k + " is ignored: terraform's own log would tell secrets. Run terraform by hand for it.")
			}
		case k == "TF_CLI_CONFIG_FILE" && !exists(v):
			notice(k + " is ignored: there is no file " + v)
		case k != "":
			env[k] = v
		}
	}
	if len(refused) > 0 {
		slices.Sort(refused)
		return nil, fmt.Errorf("%s in the environment would change what is planned without being seen: unset it. "+
			"Values of variables belong in terraform.tfvars, secret ones in a file that --var-file names (mode 0600)", strings.Join(refused, ", "))
	}
	return env, nil
}

// find is the path of the program.
func find(ctx context.Context, o Options, notice func(string)) (string, error) {
	if o.Terraform != "" {
		path, err := exec.LookPath(o.Terraform)
		if err != nil {
			return "", fmt.Errorf("--terraform %s: %w", o.Terraform, err)
		}
		return filepath.Abs(path)
	}
	for _, name := range []string{"terraform", "tofu"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	if !o.Install {
		return "", errors.New("neither terraform nor tofu is on PATH: install one (1.10 or later), name one with --terraform PATH, or let this command download terraform with --install")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a directory for terraform: %w", err)
	}
	directory := filepath.Join(cache, "taskfleet", "terraform")
	path := filepath.Join(directory, binary)
	if exists(path) {
		return path, nil
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return "", err
	}
	notice("installing terraform into " + directory)
	if path, err = install(ctx, directory); err != nil {
		return "", fmt.Errorf("install terraform: %w", err)
	}
	return path, nil
}

var versionLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^(Terraform|OpenTofu) v(\S+)`) })

// identify asks the program what it is.
func (d *Deployment) identify(ctx context.Context, path string, env map[string]string) error {
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Dir = d.Directory
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s version: %w", path, err)
	}
	m := versionLine().FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s is neither terraform nor tofu: its version begins with %.60q", path, out)
	}
	d.Program, d.Version = map[string]string{"Terraform": "terraform", "OpenTofu": "tofu"}[string(m[1])], string(m[2])
	v, err := version.NewVersion(d.Version)
	if err != nil {
		return fmt.Errorf("%s version: %w", path, err)
	}
	if v.Core().LessThan(version.Must(version.NewVersion(minVersion))) {
		return fmt.Errorf("%s is %s %s: %s or later is needed, for locks of states in S3", path, d.Program, d.Version, minVersion)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
