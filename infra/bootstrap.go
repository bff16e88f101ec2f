package infra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-exec/tfexec"

	"github.com/taskfleet/taskfleet/infra/plan"
)

// stateDirectory is the directory, in that of a deployment, of the bucket for states: a small deployment of its own.
const stateDirectory = "state"

// BootstrapOptions say what bucket is made, and where.
type BootstrapOptions struct {
	Name     string // of the deployment: its state is NAME/terraform.tfstate in the bucket
	Account  string // 12 digits
	Region   string
	Bucket   string             // its name, which is the world's
	Confirm  func(*Saved) error // is asked before anything is made; may be nil
	Progress func(Progress)     // may be nil

	// Backend are further arguments of the S3 backend, lines of HCL: for endpoints of one's own, say.
	Backend string
}

var plainValue = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// values are the file with the values of the bucket's configuration.
func (b BootstrapOptions) values() (string, error) {
	text := "# Written by taskfleet infra bootstrap.\n"
	for _, v := range [][2]string{{"name", b.Name}, {"account_id", b.Account}, {"region", b.Region}, {"bucket", b.Bucket}} {
		if !plainValue.MatchString(v[1]) {
			return "", fmt.Errorf("%s %q: letters, digits, dots and dashes, please", v[0], v[1])
		}
		text += fmt.Sprintf("%-10s = %q\n", v[0], v[1])
	}
	return text, nil
}

// Bootstrap makes the bucket for states, puts its own state into it, and then the deployment's. Each step looks first
// whether it was done, so that after any interruption it is run again and goes on. It tells the steps by Options.Notice.
func Bootstrap(ctx context.Context, directory string, o Options, b BootstrapOptions) error {
	d, err := Open(ctx, directory, o)
	if err != nil {
		return err
	}
	d.notice("1/4 the configuration of the bucket for states, in " + stateDirectory + "/")
	if err := d.writeState(b); err != nil {
		return err
	}
	s, err := Open(ctx, filepath.Join(d.Directory, stateDirectory), o)
	if err != nil {
		return err
	}
	backend := filepath.Join(s.Directory, "backend.tf")
	if !exists(backend) {
		d.notice("2/4 the bucket for states, and its key")
		place, err := s.makeBucket(ctx, b)
		if err != nil {
			return err
		}
		if err := place.write(backend, b.Name+"/state.tfstate", b.Backend); err != nil {
			return err
		}
	}
	d.notice("3/4 the bucket's own state moves into it")
	if err := s.moveState(ctx); err != nil {
		return err
	}
	d.notice("4/4 the deployment's state is kept in the bucket")
	own := filepath.Join(d.Directory, "backend.tf")
	if !exists(own) {
		place, err := s.place(ctx)
		if err != nil {
			return err
		}
		if err := place.write(own, b.Name+"/terraform.tfstate", b.Backend); err != nil {
			return err
		}
	}
	return d.moveState(ctx)
}

// writeState writes the configuration of the bucket, whole or not at all.
func (d *Deployment) writeState(b BootstrapOptions) error {
	to := filepath.Join(d.Directory, stateDirectory)
	values, err := b.values()
	if err != nil {
		return err
	}
	file := filepath.Join(to, "terraform.tfvars")
	if exists(to) {
		was, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%s is there, and bootstrap has not made it: %w", to, err)
		}
		if string(was) != values {
			return fmt.Errorf("%s says otherwise than this command. Give the same values as before, or change the file to:\n%s", file, values)
		}
		return nil
	}
	if !exists(filepath.Join(d.Directory, "modules", "state")) {
		return fmt.Errorf("%s has no modules/state, which the bucket's configuration uses: was the deployment made by taskfleet infra init?", d.Directory)
	}
	making := to + ".making"
	if err := os.RemoveAll(making); err != nil {
		return err
	}
	if err := copyTree("live/state", making, "../"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(making, "terraform.tfvars"), []byte(values), 0o644); err != nil {
		return err
	}
	return os.Rename(making, to)
}

// makeBucket applies the configuration of the bucket, with a state in a file, and says where the bucket is.
func (d *Deployment) makeBucket(ctx context.Context, b BootstrapOptions) (bucketPlace, error) {
	if err := d.prepare(ctx); err != nil {
		return bucketPlace{}, err
	}
	if err := d.adopt(ctx); err != nil {
		return bucketPlace{}, err
	}
	saved, err := d.Plan(ctx, PlanOptions{})
	if err != nil {
		return bucketPlace{}, err
	}
	if !saved.Plan.Empty() {
		if n := len(saved.Plan.Destroys(false)); n > 0 {
			return bucketPlace{}, fmt.Errorf("making the bucket for states would destroy %d resources: look at %s, and apply it by hand", n, d.path(saved.Name))
		}
		if b.Confirm != nil {
			if err := b.Confirm(saved); err != nil {
				return bucketPlace{}, err
			}
		}
		if _, err := d.Apply(ctx, saved.Name, ApplyOptions{Digest: saved.Digest, Progress: b.Progress}); err != nil {
			return bucketPlace{}, fmt.Errorf("make the bucket for states (run bootstrap again, it goes on): %w", err)
		}
	}
	return d.place(ctx)
}

// adopt takes into the state what an apply that was cut off has made.
func (d *Deployment) adopt(ctx context.Context) error {
	plans, err := d.Plans()
	if err != nil {
		return err
	}
	for _, p := range plans {
		s, err := d.Saved(p.Name)
		if err != nil {
			return err
		}
		_, recorded, err := d.state(ctx)
		if err != nil {
			return err
		}
		r, err := d.report(s, recorded)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		for _, u := range r.Unrecorded {
			if u.Action == plan.Create && u.ID != "" {
				d.notice(fmt.Sprintf("%s was made by an apply that was %s; it is taken into the state", u.Address, r.Result))
				if err := d.Import(ctx, u.Address, u.ID, nil); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// A bucketPlace is where states are kept.
type bucketPlace struct{ Bucket, Region, Key string }

// place reads the outputs of the bucket's configuration.
func (d *Deployment) place(ctx context.Context) (p bucketPlace, err error) {
	outputs, err := d.Outputs(ctx)
	if err != nil {
		return p, err
	}
	for _, o := range outputs {
		var to *string
		switch o.Name {
		case "bucket":
			to = &p.Bucket
		case "region":
			to = &p.Region
		case "kms_key_arn":
			to = &p.Key
		default:
			continue
		}
		if err := json.Unmarshal(o.Value, to); err != nil {
			return p, fmt.Errorf("output %s of %s: %w", o.Name, d.Directory, err)
		}
	}
	if p.Bucket == "" || p.Region == "" || p.Key == "" {
		return p, fmt.Errorf("%s has no outputs bucket, region and kms_key_arn: is it the configuration that bootstrap has written?", d.Directory)
	}
	return p, nil
}

// write writes a backend.tf, whole or not at all.
func (p bucketPlace) write(path, key, more string) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by taskfleet infra bootstrap: the state is kept in S3, with its lock beside it.
terraform {
  backend "s3" {
    bucket       = %q
    key          = %q
    region       = %q
    kms_key_id   = %q
    encrypt      = true
    use_lockfile = true
`, p.Bucket, key, p.Region, p.Key)
	for line := range strings.Lines(more) {
		if line = strings.TrimRight(line, "\n"); line != "" {
			b.WriteString("    " + line + "\n")
		}
	}
	b.WriteString("  }\n}\n")
	if err := os.WriteFile(path+".making", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".making", path)
}

var s3Backend = regexp.MustCompile(`(?m)^\s*backend\s+"s3"`)

// moveState moves a state from a file to where backend.tf says. What is there already is never overwritten.
func (d *Deployment) moveState(ctx context.Context) error {
	// Another backend could be that very file, and the state would be removed with it.
	if backend, err := os.ReadFile(filepath.Join(d.Directory, "backend.tf")); err != nil {
		return err
	} else if !s3Backend.Match(backend) {
		return fmt.Errorf("%s has no backend \"s3\": nothing was moved. Remove the file, and bootstrap writes it", filepath.Join(d.Directory, "backend.tf"))
	}
	file := filepath.Join(d.Directory, "terraform.tfstate")
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	local, resources, err := parseState(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if local == (position{}) || len(resources) == 0 {
		// Without an answer to whether something is to be copied, as there is nothing.
		if err := removeFiles(file, file+".backup"); err != nil {
			return err
		}
		return d.prepare(ctx, tfexec.Reconfigure(true))
	}
	remote, recorded, err := d.remoteState(ctx)
	if err != nil {
		return err
	}
	copied := remote == (position{})
	if copied {
		if err := d.prepare(ctx, tfexec.ForceCopy(true)); err != nil {
			return err
		}
		if remote, recorded, err = d.remoteState(ctx); err != nil {
			return err
		}
	}
	switch {
	case remote == (position{}):
		return fmt.Errorf("the state has not arrived where backend.tf of %s says: it is in %s still", d.Directory, file)
	case remote.Lineage != local.Lineage && !copied: // the copy may have got one of its own
		return fmt.Errorf("there is another state already where backend.tf of %s says (lineage %s, and that of %s is %s): nothing was overwritten. "+
			"Change the key in backend.tf, or move the file away if the other one is right", d.Directory, remote.Lineage, file, local.Lineage)
	case remote.Serial < local.Serial && !copied:
		return fmt.Errorf("the state where backend.tf of %s says is older (serial %d) than %s (%d): nothing was overwritten. "+
			"If the file is right: %s -chdir=%s state push terraform.tfstate, then remove the file", d.Directory, remote.Serial, file, local.Serial, d.Program, d.Directory)
	}
	for _, address := range slices.Sorted(maps.Keys(resources)) {
		if id, there := recorded[address]; !there || id != resources[address] {
			return fmt.Errorf("%s has %s (%s), and the state where backend.tf of %s says has not: nothing was removed. "+
				"If that is gone rightly, remove the file; if not, import it, then remove the file", file, address, resources[address], d.Directory)
		}
	}
	if err := removeFiles(file, file+".backup"); err != nil || copied {
		return err
	}
	return d.prepare(ctx, tfexec.Reconfigure(true)) // now that there is nothing that terraform would ask to copy
}

func removeFiles(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// remoteState reads the state where backend.tf says, without the deployment's directory taking notice.
func (d *Deployment) remoteState(ctx context.Context) (position, map[string]string, error) {
	directory, err := os.MkdirTemp("", "taskfleet-infra-")
	if err != nil {
		return position{}, nil, err
	}
	defer os.RemoveAll(directory)
	text, err := os.ReadFile(filepath.Join(d.Directory, "backend.tf"))
	if err != nil {
		return position{}, nil, err
	}
	if err := os.WriteFile(filepath.Join(directory, "backend.tf"), text, 0o600); err != nil {
		return position{}, nil, err
	}
	other := d.options
	other.Terraform, other.Notice = d.tf.ExecPath(), nil
	there, err := Open(ctx, directory, other)
	if err != nil {
		return position{}, nil, err
	}
	if err := there.prepare(ctx); err != nil {
		return position{}, nil, err
	}
	return there.state(ctx)
}

// awsProvider matches a block of the provider aws.
var awsProvider = regexp.MustCompile(`(?ms)^provider "aws" \{\n(.*?)^\}`)

// Region is the region of a deployment's provider without an alias, its home; "" if providers.tf does not say it in
// plain text.
func Region(directory string) (string, error) {
	text, err := os.ReadFile(filepath.Join(directory, "providers.tf"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	for _, block := range awsProvider.FindAllStringSubmatch(string(text), -1) {
		values := plainValues(strings.ReplaceAll("\n"+block[1], "\n  ", "\n"))
		if _, other := values["alias"]; !other {
			return values["region"], nil
		}
	}
	return "", nil
}

// Values reads simple values of a deployment's terraform.tfvars: texts at the start of a line. It is for defaults that
// people can see and change; terraform alone knows the language.
func Values(directory string, names ...string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(directory, "terraform.tfvars"))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	} else if err != nil {
		return nil, err
	}
	values := plainValues(string(text))
	maps.DeleteFunc(values, func(name, _ string) bool { return !slices.Contains(names, name) })
	return values, nil
}

// plainValues are the texts that are set at the start of a line, in plain words.
func plainValues(hcl string) map[string]string {
	values := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z_]+)\s*=\s*"([^"$%\\]*)"`).FindAllStringSubmatch(hcl, -1) {
		values[m[1]] = m[2]
	}
	return values
}
