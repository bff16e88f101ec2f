//go:build !agent && !server

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/stacks"
)

// deployInfra is deploy.Infra by package infra.
type deployInfra struct {
	*infra.Deployment
	varFiles []string
	dir      string // as it was named
	manifest string // file that it is written to; "" if the stacks read it from the state
	width    int
	colour   bool
	progress io.Writer
	errOut   io.Writer
}

// infra opens what an environment stands on; nil if that is not a deployment of package infra.
func (f *deployFlags) infra(cmd *cobra.Command, directory string, e *stacks.Environment, t *deployTeller) (deploy.Infra, error) {
	from := e.Infra
	switch {
	case from != "" && !filepath.IsAbs(from):
		from = filepath.Join(e.Directory, from)
	case from == "" && e.Manifest != "":
		files, err := filepath.Glob(filepath.Join(directory, "*.tf"))
		if err != nil || len(files) == 0 {
			return nil, nil // somebody else writes the manifest
		}
		from = directory
	case from == "":
		return nil, nil
	}
	flags := infraFlags{directory: from, options: infra.Options{Terraform: f.terraform, Install: f.install}, json: f.json}
	d, err := flags.open(cmd)
	if err != nil {
		return nil, err
	}
	i := &deployInfra{Deployment: d, varFiles: f.varFiles, dir: from, width: widthOf(t.out), colour: colourful(t.out), progress: t.progress(), errOut: t.errOut}
	if i.manifest = e.Manifest; i.manifest != "" && !filepath.IsAbs(i.manifest) {
		i.manifest = filepath.Join(e.Directory, i.manifest)
	}
	return i, nil
}

// Plan implements deploy.Infra.
func (i *deployInfra) Plan(ctx context.Context) (*deploy.Plan, error) {
	s, err := i.Deployment.Plan(ctx, infra.PlanOptions{VarFiles: i.varFiles})
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "Plan %s of %s, by %s %s\n\n", s.Name, s.Deployment, s.Program, s.Version)
	if err := s.Text(&text, i.width, i.colour); err != nil {
		return nil, err
	}
	fmt.Fprintf(&text, "\nDigest  %s\n", s.Digest)
	shown := *s
	shown.Files = nil // whoever has the digest of a file with a secret can try what it is
	p := &deploy.Plan{Name: s.Name, Digest: s.Digest, Summary: s.Counts + "; " + s.Cost.Line(), Text: text.String(), Detail: planReport{&shown, s.Plan, nil}, Empty: s.Plan.Empty()}
	if s.Policy.Refused() {
		p.Forbidden = &infra.ViolatedError{Plan: s.Name, Judgement: s.Judgement}
	}
	if data := s.Plan.Destroys(true); len(data) > 0 {
		p.Data = fmt.Errorf("plan %s destroys data that cannot be made again, %s first. That is not done by a deploy, and nothing was: taskfleet infra apply --dir %s %s --digest %s --destroy-protected %s; then deploy again",
			s.Name, data[0].Address, i.dir, s.Name, s.Digest, s.Deployment)
	}
	return p, nil
}

// Apply implements deploy.Infra. That somebody has agreed to the plan, with what it destroys, is said by the digest.
func (i *deployInfra) Apply(ctx context.Context, p *deploy.Plan) error {
	r, err := i.Deployment.Apply(ctx, p.Name, infra.ApplyOptions{Digest: p.Digest, Confirm: func(*infra.Saved) error { return nil }, Progress: progressTo(i.progress)})
	var unfinished *infra.ApplyError
	if errors.As(err, &unfinished) && r != nil {
		if printErr := printReport(i.errOut, r); printErr != nil {
			return errors.Join(err, printErr)
		}
	}
	return err
}

// Manifest implements deploy.Infra.
func (i *deployInfra) Manifest(ctx context.Context) (string, error) {
	if i.manifest == "" {
		m, err := i.Deployment.Manifest(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("the stacks read it from the state, version %d", m.State.Serial), nil
	}
	m, err := i.WriteManifest(ctx, i.manifest)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("wrote %s, of version %d of the state", i.manifest, m.State.Serial), nil
}
