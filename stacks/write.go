package stacks

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/taskfleet/taskfleet/infra"
)

//go:embed example
var example embed.FS

// Write makes a new environment of the example, in a directory that is not there or empty. With a deployment of package
// infra, it stands on that, and has its states beside those of it; else it is for a platform on this machine.
func Write(directory, deployment string) error {
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != ".git" {
			return fmt.Errorf("%s is not empty, %s is in it: nothing was written. Name a new directory", directory, e.Name())
		}
	}
	text, err := example.ReadFile("example/" + EnvironmentFile)
	if deployment != "" {
		text, err = onInfra(directory, deployment)
	}
	if err != nil {
		return err
	}
	err = fs.WalkDir(example, "example", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(directory, filepath.FromSlash(strings.TrimPrefix(strings.TrimPrefix(name, "example"), "/")))
		if e.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		content, err := example.ReadFile(name)
		if err != nil {
			return err
		}
		switch e.Name() {
		case "environment-infra.yml":
			return nil
		case EnvironmentFile:
			content = text
		case "gitignore":
			to = filepath.Join(directory, ".gitignore")
		}
		return os.WriteFile(to, content, 0o644)
	})
	if err != nil || deployment != "" {
		return err
	}
	return os.Mkdir(filepath.Join(directory, "conf.d"), 0o755) // platform.files
}

// onInfra is the file of an environment that stands on a deployment.
func onInfra(directory, deployment string) ([]byte, error) {
	if info, err := os.Stat(deployment); err != nil {
		return nil, fmt.Errorf("the deployment of taskfleet infra: %w", pathError(err))
	} else if !info.IsDir() {
		return nil, fmt.Errorf("the deployment of taskfleet infra: %s is no directory", deployment)
	}
	values, err := infra.Values(deployment, "deployment", "name")
	if err != nil {
		return nil, err
	}
	name := values["deployment"]
	if name == "" {
		name = values["name"]
	}
	if !environmentName.MatchString(name) {
		return nil, fmt.Errorf("%s says neither deployment nor name: is that a deployment of taskfleet infra?", filepath.Join(deployment, "terraform.tfvars"))
	}
	from, err := filepath.Abs(directory)
	if err != nil {
		return nil, err
	}
	to, err := filepath.Abs(deployment)
	if err != nil {
		return nil, err
	}
	if to, err = filepath.Rel(from, to); err != nil {
		return nil, err
	}
	backend := "file://./.stacks/state # for several people: the bucket of taskfleet infra bootstrap, s3://…/stacks?region=…"
	if text, err := os.ReadFile(filepath.Join(deployment, "backend.tf")); err == nil {
		bucket, region := argument(text, "bucket"), argument(text, "region")
		if bucket != "" && region != "" {
			backend = fmt.Sprintf("s3://%s/stacks?region=%s", bucket, region)
		}
	}
	t, err := template.ParseFS(example, "example/environment-infra.yml")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	err = t.Execute(&b, map[string]string{"Name": name, "Infra": filepath.ToSlash(to), "Backend": backend})
	return []byte(b.String()), err
}

// argument is the value of an argument in HCL that taskfleet infra bootstrap has written.
func argument(text []byte, name string) string {
	m := regexp.MustCompile(`(?m)^\s*` + name + `\s*=\s*"([^"]*)"`).FindSubmatch(text)
	if m == nil {
		return ""
	}
	return string(m[1])
}
