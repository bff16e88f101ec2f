package infra

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
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-exec/tfexec"

	"github.com/taskfleet/taskfleet/infra/cost"
	"github.com/taskfleet/taskfleet/infra/plan"
	"github.com/taskfleet/taskfleet/infra/policy"
)

// A Saved is a plan on disk, in .plans/NAME of its deployment: plan.tfplan as terraform wrote it, plan.json, summary.txt
// and meta.json, which this is.
type Saved struct {
	Name       string            `json:"name"`
	Deployment string            `json:"deployment"` // the word that must be said before data is destroyed
	Digest     string            `json:"digest"`
	Created    time.Time         `json:"created"`
	Destroy    bool              `json:"destroy"` // everything
	Counts     string            `json:"counts"`  // for people
	Program    string            `json:"program"`
	Version    string            `json:"version"`
	State      position          `json:"state"`
	Files      map[string]string `json:"files,omitempty"` // digests of the configuration, by path relative to the deployment
	Judgement

	Plan *plan.Plan `json:"-"`

	directory string
	file      []byte // of plan.tfplan, as the digest was found right
}

// PlanOptions say what is planned.
type PlanOptions struct {
	Name     string   // of the saved plan; "" for the time
	VarFiles []string // with values of variables, also secret ones
	Replace  []string // addresses of resources to make anew
	Destroy  bool     // everything
}

var planName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Plan plans, and saves the plan with what is to be known of it. What policy forbids is saved as well: the judgement
// says so, and Apply refuses it.
func (d *Deployment) Plan(ctx context.Context, o PlanOptions) (*Saved, error) {
	if o.Name == "" {
		o.Name = time.Now().UTC().Format("20060102-150405")
		if o.Destroy {
			o.Name = "destroy-" + o.Name
		}
		for base, n := o.Name, 2; exists(d.path(o.Name)); n++ {
			o.Name = fmt.Sprintf("%s-%d", base, n)
		}
	}
	if !planName.MatchString(o.Name) {
		return nil, fmt.Errorf("plan name %q: small letters, digits, dots and dashes, at most 64, please", o.Name)
	}
	if exists(d.path(o.Name)) {
		return nil, fmt.Errorf("there is a plan %s already, in %s: give the new one another name, or none", o.Name, d.path(o.Name))
	}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	at, ids, err := d.state(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.warnOfLost(ids); err != nil {
		return nil, err
	}
	s := &Saved{Name: o.Name, Destroy: o.Destroy, Program: d.Program, Version: d.Version, State: at, Created: time.Now().UTC().Truncate(time.Second)}
	if s.Files, err = d.files(o.VarFiles); err != nil {
		return nil, err
	}
	// It gets its name when it is whole.
	if s.directory, err = d.scratch(".making-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.directory) // if it did not
	options := []tfexec.PlanOption{tfexec.Destroy(o.Destroy)}
	for _, f := range o.VarFiles {
		if f, err = filepath.Abs(f); err != nil {
			return nil, err
		}
		options = append(options, tfexec.VarFile(f))
	}
	for _, a := range o.Replace {
		options = append(options, tfexec.Replace(a))
	}
	saved := filepath.Join(s.directory, "plan.tfplan")
	text, err := d.planTo(ctx, saved, "plan", options...)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.directory, "plan.json"), text, 0o600); err != nil {
		return nil, err
	}
	file, err := os.ReadFile(saved)
	if err != nil {
		return nil, err
	}
	if s.Plan, err = plan.Read(bytes.NewReader(text)); err != nil {
		return nil, err
	}
	s.Digest, s.Counts, s.Deployment = s.Plan.Seal(file), s.Plan.Count(), d.word(s.Plan)
	if s.Judgement, err = d.judge(ctx, text, o.Destroy); err != nil {
		return nil, err
	}
	var summary strings.Builder
	if err := s.Text(&summary, 0, false); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.directory, "summary.txt"), []byte(summary.String()), 0o600); err != nil {
		return nil, err
	}
	meta, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.directory, "meta.json"), append(meta, '\n'), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(s.directory, d.path(s.Name)); err != nil {
		return nil, fmt.Errorf("save the plan: %w", err)
	}
	s.directory = d.path(s.Name)
	return s, nil
}

// scratch makes a directory for a plan that has no name yet, and removes those that a crash has left: they have secrets in
// them.
func (d *Deployment) scratch(prefix string) (string, error) {
	if err := os.MkdirAll(d.path(""), 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(d.path(""))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), ".") && time.Since(info.ModTime()) > 24*time.Hour {
			if err := os.RemoveAll(d.path(e.Name())); err != nil {
				return "", err
			}
		}
	}
	return os.MkdirTemp(d.path(""), prefix)
}

// planTo has terraform plan into a file, which is private then, and returns the plan's JSON.
func (d *Deployment) planTo(ctx context.Context, path, doing string, options ...tfexec.PlanOption) ([]byte, error) {
	options = append(options, tfexec.Out(path))
	if d.reattach != nil {
		options = append(options, tfexec.Reattach(d.reattach))
	}
	said, err := d.watch(nil, func(w io.Writer) error {
		_, err := d.tf.PlanJSON(ctx, w, options...)
		return err
	})
	if err != nil {
		return nil, d.fail(doing, err, said)
	}
	for _, s := range said {
		if s.Severity == "warning" {
			d.notice("warning: " + s.String())
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return d.planJSON(ctx, path)
}

// planJSON is what terraform says of the file of a plan.
func (d *Deployment) planJSON(ctx context.Context, path string) ([]byte, error) {
	// The library returns what it has understood of the JSON; we want all of it.
	var text bytes.Buffer
	d.tf.SetStdout(&text)
	defer d.tf.SetStdout(io.Discard)
	show := []tfexec.ShowOption{tfexec.JSONNumber(true)}
	if d.reattach != nil {
		show = append(show, tfexec.Reattach(d.reattach))
	}
	if _, err := d.tf.ShowPlanFile(ctx, path, show...); err != nil {
		return nil, d.fail("show the plan", err, nil)
	}
	return text.Bytes(), nil
}

// path is where a saved plan is; with "" where all are.
func (d *Deployment) path(name string) string { return filepath.Join(d.Directory, ".plans", name) }

// word is the deployment's name: what its configuration says, or the name of its directory.
func (d *Deployment) word(p *plan.Plan) string {
	if p.Name != "" {
		return p.Name
	}
	return filepath.Base(d.Directory)
}

// Saved reads a saved plan, and looks whether it is what its digest says.
func (d *Deployment) Saved(name string) (*Saved, error) {
	s, err := d.meta(name)
	if err != nil {
		return nil, err
	}
	file, err := os.ReadFile(filepath.Join(s.directory, "plan.tfplan"))
	if err != nil {
		return nil, fmt.Errorf("plan %s is not whole: %w. Plan again", name, err)
	}
	text, err := os.Open(filepath.Join(s.directory, "plan.json"))
	if err != nil {
		return nil, fmt.Errorf("plan %s is not whole: %w. Plan again", name, err)
	}
	defer text.Close()
	if s.Plan, err = plan.Read(text); err != nil {
		return nil, &RefusedError{fmt.Sprintf("the files of plan %s were altered after it was made (%v)", name, err)}
	}
	if is := s.Plan.Seal(file); is != s.Digest {
		return nil, &RefusedError{fmt.Sprintf("the files of plan %s were altered after it was made: their digest is %s, it was %s", name, is, s.Digest)}
	}
	s.Deployment, s.file = d.word(s.Plan), file
	return s, nil
}

func (d *Deployment) meta(name string) (*Saved, error) {
	if !planName.MatchString(name) {
		return nil, fmt.Errorf("%q is no name of a plan. taskfleet infra show --dir %s lists them", name, d.Directory)
	}
	text, err := os.ReadFile(filepath.Join(d.path(name), "meta.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no plan %s in %s. taskfleet infra show --dir %s lists them", name, d.path(""), d.Directory)
	} else if err != nil {
		return nil, err
	}
	s := &Saved{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("plan %s: meta.json: %w. Plan again", name, err)
	}
	s.Name, s.directory = name, d.path(name)
	return s, nil
}

// Plans lists what is saved, oldest first, without reading the plans themselves.
func (d *Deployment) Plans() ([]*Saved, error) {
	entries, err := os.ReadDir(d.path(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []*Saved
	for _, e := range entries {
		if e.IsDir() && planName.MatchString(e.Name()) {
			s, err := d.meta(e.Name())
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b *Saved) int { return a.Created.Compare(b.Created) })
	return list, nil
}

// A RefusedError says why a saved plan is not applied. Nothing was done.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string {
	return e.Reason + ". Nothing was done. Plan again, and have that looked at"
}

// check refuses a plan whose state or configuration has changed, or that another program has made.
func (d *Deployment) check(ctx context.Context, s *Saved) error {
	if s.Program != d.Program || s.Version != d.Version {
		return &RefusedError{fmt.Sprintf("plan %s was made by %s %s, and this is %s %s", s.Name, s.Program, s.Version, d.Program, d.Version)}
	}
	// Which of them have values of variables is not recorded: those that are not found otherwise.
	var also []string
	for name := range s.Files {
		if path := filepath.Join(d.Directory, name); filepath.IsAbs(name) {
			also = append(also, name)
		} else if filepath.IsLocal(name) && exists(path) { // those of modules elsewhere are found
			also = append(also, path)
		}
	}
	now, err := d.files(also)
	if err != nil {
		return &RefusedError{fmt.Sprintf("plan %s is stale: %v", s.Name, err)}
	}
	if changed := differing(s.Files, now); len(changed) > 0 {
		more := ""
		if len(changed) > 5 {
			changed, more = changed[:5], fmt.Sprintf(" and %d more", len(changed)-5)
		}
		return &RefusedError{fmt.Sprintf("plan %s is stale: the configuration has changed since it was made (%s%s)", s.Name, strings.Join(changed, ", "), more)}
	}
	at, _, err := d.state(ctx)
	switch {
	case err != nil:
		return err
	case at.Lineage != s.State.Lineage && s.State.Lineage != "":
		return &RefusedError{fmt.Sprintf("plan %s is for another state: its lineage is %s, and that of the state is %q", s.Name, s.State.Lineage, at.Lineage)}
	case at != s.State:
		return &RefusedError{fmt.Sprintf("plan %s is stale: the state has changed since it was made, from serial %d to %d. Somebody has applied or imported, or this plan was applied already", s.Name, s.State.Serial, at.Serial)}
	}
	return nil
}

func differing(a, b map[string]string) []string {
	union := maps.Clone(a)
	maps.Copy(union, b)
	var list []string
	for name := range union {
		if a[name] != b[name] {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// Limits of a configuration.
const (
	maxFiles    = 10_000
	maxFileSize = 16 << 20 // bytes
)

// files are the digests of everything that a plan may depend on: the files of the deployment and of the modules it
// uses, wherever they are, and those with values of variables. Left out are texts and logs, that people write beside a
// configuration; policy and costs, which are judged anew before an apply; and the directories of terraform, of ours, and of the
// bucket for states.
func (d *Deployment) files(also []string) (map[string]string, error) {
	files := map[string]string{}
	// Links are followed, as terraform does.
	home, err := filepath.EvalSymlinks(d.Directory)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	add := func(path string) error {
		name := path
		for _, root := range []string{home, d.Directory} {
			if inside, err := filepath.Rel(root, path); err == nil && (filepath.IsLocal(inside) || !slices.Contains(also, path)) {
				name = inside
				break
			}
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil {
			return err
		} else if info.Size() > maxFileSize {
			return fmt.Errorf("%s is larger than %d MiB: it is not for a configuration", path, maxFileSize>>20)
		}
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		if files[name] = hex.EncodeToString(h.Sum(nil)); len(files) > maxFiles {
			return fmt.Errorf("%s has more than %d files: it is no deployment", d.Directory, maxFiles)
		}
		return nil
	}
	walk := func(root string) error {
		return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			regular := e.Type().IsRegular()
			if e.Type()&fs.ModeSymlink != 0 {
				info, err := os.Stat(path)
				regular = err == nil && info.Mode().IsRegular() // a link to nothing is not read by terraform either
			}
			switch name := e.Name(); {
			case e.IsDir() && path != root && (strings.HasPrefix(name, ".") || filepath.Dir(path) == home && (name == stateDirectory || name == policy.Folder)):
				return fs.SkipDir
			case !regular, slices.Contains([]string{".md", ".txt", ".log", ".out"}, filepath.Ext(name)), strings.Contains(name, ".tfstate"),
				strings.HasPrefix(name, ".") && name != ".terraform.lock.hcl", name == policy.File, name == cost.File:
				return nil
			}
			return add(path)
		})
	}
	roots, err := d.modules(home)
	if err != nil {
		return nil, err
	}
	for _, root := range append([]string{home}, roots...) {
		if err := walk(root); err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
	}
	for i, path := range also {
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		also[i] = path
		if err := add(path); err != nil {
			return nil, fmt.Errorf("read values of variables: %w", err)
		}
	}
	return files, nil
}

// modules are the directories of modules that are outside the deployment's, home, as terraform init has written them down.
func (d *Deployment) modules(home string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(d.Directory, ".terraform", "modules", "modules.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list struct{ Modules []struct{ Dir string } }
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("read .terraform/modules/modules.json: %w", err)
	}
	var roots []string
	for _, m := range list.Modules {
		path := m.Dir
		if !filepath.IsAbs(path) {
			path = filepath.Join(d.Directory, path)
		}
		if path, err = filepath.EvalSymlinks(path); errors.Is(err, fs.ErrNotExist) {
			continue // it was a module's once
		} else if err != nil {
			return nil, err
		}
		if inside, err := filepath.Rel(home, path); err != nil || strings.HasPrefix(inside, "..") {
			roots = append(roots, path)
		}
	}
	slices.Sort(roots)
	return slices.Compact(roots), nil
}

// Text tells people what a saved plan does, costs, and violates.
func (s *Saved) Text(w io.Writer, width int, colour bool) error {
	if err := s.Plan.Text(w, width, colour); err != nil {
		return err
	}
	return s.Judgement.text(w, width)
}
