package provider

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/test/server"
)

var scratch string // of all tests, until the end

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "taskfleet-provider-"); err != nil {
		panic(err)
	}
	status := m.Run()
	if running != nil {
		err = running.Kill()
	}
	if err := errors.Join(err, os.RemoveAll(scratch)); err != nil {
		panic(err)
	}
	os.Exit(status)
}

var running *server.Server // the platform, once a test has asked for it

// started is the platform of all tests, and who may do everything there.
var started = sync.OnceValues(func() (c *client.Client, err error) {
	binary, err := server.Build(context.Background(), scratch)
	if err != nil {
		return nil, err
	}
	if running, err = server.Start(context.Background(), server.Options{Binary: binary, Data: filepath.Join(scratch, "data"), CheckOutput: true}); err != nil {
		return nil, err
	}
	return client.New(client.Options{RootURL: running.RootURL, Credentials: cred.Credentials{ClientID: running.ClientID, AccessToken: running.AccessToken}})
})

// A cli is a terraform or a tofu.
type cli struct{ name, path, host string }

// clis are those that there are: the one that TASKFLEET_TEST_TERRAFORM names, or one on PATH, and a tofu beside it.
func clis(t *testing.T) (all []cli) {
	t.Helper()
	for _, path := range []string{os.Getenv("TASKFLEET_TEST_TERRAFORM"), "terraform", "tofu", "../../.tools/terraform/tofu"} {
		path, err := exec.LookPath(path)
		if err != nil {
			continue
		}
		if path, err = filepath.Abs(path); err != nil {
			t.Fatal(err)
		}
		c := cli{"terraform", path, "registry.terraform.io"}
		if strings.HasPrefix(filepath.Base(path), "tofu") {
			c = cli{"tofu", path, "registry.opentofu.org"}
		}
		if !slices.ContainsFunc(all, func(other cli) bool { return other.name == c.name }) {
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		t.Fatal("terraform or tofu must be on PATH, or named by TASKFLEET_TEST_TERRAFORM; make test installs one")
	}
	return all
}

// each runs f with each of the clis, in an environment that has the platform in it.
func each(t *testing.T, f func(t *testing.T, with cli, c *client.Client)) {
	c, err := started()
	if err != nil {
		t.Fatal(err)
	}
	for _, with := range clis(t) {
		t.Run(with.name, func(t *testing.T) {
			settings := filepath.Join(t.TempDir(), "cli.tfrc") // one of the machine's is not to count
			if err := os.WriteFile(settings, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("TF_CLI_CONFIG_FILE", settings)
			t.Setenv("CHECKPOINT_DISABLE", "1")
			t.Setenv("TF_ACC", "1")
			t.Setenv("TF_ACC_TERRAFORM_PATH", with.path)
			t.Setenv("TF_ACC_PROVIDER_HOST", with.host)
			t.Setenv("TF_ACC_PROVIDER_NAMESPACE", "taskfleet")
			for _, variable := range running.Environment() {
				name, value, _ := strings.Cut(variable, "=")
				t.Setenv(name, value)
			}
			t.Setenv("TASKCLUSTER_CERTIFICATE", "")
			f(t, with, c)
		})
	}
}

var factories = map[string]func() (tfprotov6.ProviderServer, error){"taskfleet": providerserver.NewProtocol6WithError(New("test"))}

// export is all that a platform has, values of secrets included, as a file has it.
func export(t *testing.T, c *client.Client) string {
	t.Helper()
	all, err := resource.List(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	values, err := all.WithValues(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := errors.Join(all.Without(resource.Secrets).Write(&out), values.Write(&out)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// apply makes a platform have what a set says.
func apply(t *testing.T, c *client.Client, s *resource.Set) {
	t.Helper()
	d, err := s.Diff(t.Context(), c)
	if err == nil {
		err = d.Apply(t.Context(), c, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}
