//go:build !agent && !server

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/stacks"
)

// deployStacks is deploy.Stacks by package stacks. Each preview opens the environment anew, since the step before may have
// changed what it stands on.
type deployStacks struct {
	cmd         *cobra.Command
	flags       *deployFlags
	environment *stacks.Environment
	progress    io.Writer
	width       int
	colour      bool

	driver *stacks.Driver // of the last preview
	root   atomic.Value   // token of the root client, a string, if this deploy has made it
	asRoot sync.Once      // tells of it
}

func (s *deployStacks) close() {
	if s.driver != nil {
		s.driver.Close()
	}
	s.driver = nil
}

// Names implements deploy.Stacks.
func (s *deployStacks) Names() []string { return s.environment.Stacks() }

// Preview implements deploy.Stacks.
func (s *deployStacks) Preview(ctx context.Context, names []string, image string) (*deploy.Preview, error) {
	s.close()
	if slices.ContainsFunc(names, func(n string) bool { return n == "access" || n == "pools" || n == "schedules" }) {
		if _, err := s.client(ctx); err != nil {
			return nil, err
		}
	}
	flags := stacksFlags{directory: s.environment.Directory, stacks: names, json: s.flags.json, connect: s.connect, made: func(made secretsFile) { s.root.Store(made.RootToken) }}
	flags.options.Pulumi, flags.options.Install, flags.options.Terraform = s.flags.pulumi, s.flags.install, s.flags.terraform
	d, err := flags.open(s.cmd)
	if err != nil {
		return nil, err
	}
	s.driver = d
	if p := d.Environment.Platform; p != nil && image != "" {
		p.Image = image
	}
	saved, err := d.Preview(ctx, stacks.PreviewOptions{})
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "Preview %s of %s\n\n", saved.Name, saved.Environment)
	if err := saved.Text(&text, s.width, s.colour); err != nil {
		return nil, err
	}
	shown := *saved
	shown.Files = nil // whoever has the digest of a file with a secret can try what it is
	p := &deploy.Preview{Stacks: names, Summary: saved.Counts(), Text: text.String(), Detail: shown, Empty: saved.Empty(), Files: saved.Files, Saved: saved}
	if slices.Contains(names, "platform") {
		p.Image = d.Environment.Platform.Image
		p.Running = running(saved, p.Image)
	}
	if len(saved.Refused) > 0 {
		p.Refused = &stacks.RefusedError{Preview: saved.Name, Refused: saved.Refused}
	}
	return p, nil
}

// running is the image that runs, as a preview has found it: the one that is wanted, unless that would be changed.
func running(s *stacks.Saved, wanted string) string {
	for _, stack := range s.Stacks {
		for _, c := range stack.Changes {
			if stack.Name != "platform" || !strings.HasPrefix(c.ID, "Release=") {
				continue
			}
			var before struct{ Image string }
			if len(c.Before) > 0 && json.Unmarshal(c.Before, &before) != nil {
				return ""
			}
			return before.Image
		}
	}
	return wanted
}

// Up implements deploy.Stacks.
func (s *deployStacks) Up(ctx context.Context, p *deploy.Preview) error {
	saved := p.Saved.(*stacks.Saved)
	r, err := s.driver.Up(ctx, saved.Name, saved.Digest)
	if r != nil {
		err = errors.Join(err, printStacksReport(s.progress, r))
	}
	return err
}

// client opens a session with the platform, which needs credentials.
func (s *deployStacks) client(ctx context.Context) (*client.Client, error) {
	url, err := s.rootURL(ctx)
	if err != nil {
		return nil, err
	}
	session, err := s.connect(url)
	if err != nil {
		return nil, err
	}
	if session.core.Credentials().ClientID == "" {
		return nil, fmt.Errorf("there are no credentials for %s: set TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN. On a new platform there is %s alone, whose token is rootToken in the server's secret: "+
			"aws secretsmanager get-secret-value --secret-id ARN --query SecretString --output text | jq -r .rootToken, with server_secret_arn of the manifest as ARN", url, rootClient)
	}
	return session.core, nil
}

// servicePatience is how long calls are repeated. A balancer takes a while to see what a rollout has started, and that it is
// not there at once must not be taken for a release that does not work.
const servicePatience = time.Minute

// connect opens a session. Nobody has credentials for a platform whose secrets this deploy has made, and so it goes on as the root
// client, whose token is in the memory of this process, and nowhere else but in the vault.
func (s *deployStacks) connect(url string) (*session, error) {
	found, err := connectTo(s.cmd, url)
	if err != nil {
		return nil, err
	}
	o := client.Options{RootURL: url, Credentials: found.core.Credentials(), Retry: client.Retry{For: servicePatience}, Log: patience(s.cmd.ErrOrStderr())}
	if token, made := s.root.Load().(string); made && o.Credentials.ClientID == "" {
		o.Credentials = cred.Credentials{ClientID: rootClient, AccessToken: token}
		found.from = "the servers' secret, which this deploy has made"
		s.asRoot.Do(func() {
			fmt.Fprintf(s.cmd.ErrOrStderr(), "taskfleet: there are no credentials for %s; as %s, by %s\n", url, rootClient, found.from)
		})
	}
	found.core, err = client.New(o)
	return found, err
}

// rootURL is where the platform is.
func (s *deployStacks) rootURL(ctx context.Context) (string, error) {
	e := s.environment
	path := func(name string) string {
		if filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(e.Directory, name)
	}
	switch {
	case e.RootURL != "":
		return e.RootURL, nil
	case e.Manifest != "":
		m, err := infra.ReadManifest(path(e.Manifest))
		if err != nil {
			return "", err
		}
		return m.RootURL, nil
	}
	flags := infraFlags{directory: path(e.Infra), options: infra.Options{Terraform: s.flags.terraform, Install: s.flags.install}}
	d, err := flags.open(s.cmd)
	if err != nil {
		return "", err
	}
	m, err := d.Manifest(ctx)
	if err != nil {
		return "", err
	}
	return m.RootURL, nil
}
