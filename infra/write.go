package infra

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The modules, and the examples of deployments and of the bucket for states, which find them at ../../modules/NAME.
//
//go:embed modules live
var embedded embed.FS

// Examples are the names of the deployments that Write knows.
func Examples() []string { return []string{"small", "large"} }

// gitignore keeps out of a repository what has secrets in it, and what terraform makes anew.
const gitignore = `# Saved plans and states have secrets in them.
.plans/
.deploy/
*.tfstate
*.tfstate.*
*.tfplan
secrets.tfvars
# Terraform makes it anew. The file .terraform.lock.hcl is to be committed.
.terraform/
crash.log
`

// Write makes a new deployment of an example: its files in directory, and the modules it uses in directory/modules. The
// directory must not be there, or be empty but for a repository's .git.
func Write(directory, example string) error {
	if !slices.Contains(Examples(), example) {
		return fmt.Errorf("example %q is not known: it is one of %s", example, strings.Join(Examples(), ", "))
	}
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != ".git" {
			return fmt.Errorf("%s is not empty, %s is in it: nothing was written. Name a new directory", directory, e.Name())
		}
	}
	if err := copyTree("live/example-"+example, directory, ""); err != nil {
		return err
	}
	if err := copyTree("modules", filepath.Join(directory, "modules"), ""); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, ".gitignore"), []byte(gitignore), 0o644)
}

// modulesPath is where configurations in live/ find the modules, from wherever they are.
var modulesPath = regexp.MustCompile(`"(\.\./){2,}modules/`)

// copyTree writes a directory of what is embedded. Its modules are in up/modules there. What only concerns whoever works
// on modules is left out.
func copyTree(from, to, up string) error {
	return fs.WalkDir(embedded, from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative := strings.TrimPrefix(strings.TrimPrefix(name, from), "/")
		if e.IsDir() {
			if relative != "" && (e.Name() == "tests" || e.Name() == "examples") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, filepath.FromSlash(relative)), 0o755)
		}
		if strings.Contains(e.Name(), ".tfstate") || e.Name() == "crash.log" {
			return nil // whoever worked here has left it
		}
		text, err := embedded.ReadFile(name)
		if err != nil {
			return err
		}
		at := cmp.Or(up+strings.Repeat("../", strings.Count(relative, "/")), "./")
		text = modulesPath.ReplaceAll(text, []byte(`"`+at+"modules/"))
		return os.WriteFile(filepath.Join(to, filepath.FromSlash(relative)), text, 0o644)
	})
}
