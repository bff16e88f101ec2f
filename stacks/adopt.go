package stacks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/resource"
)

// An Adoption is definitions of what a platform has and an environment does not define yet.
type Adoption struct {
	Files   []AdoptedFile `json:"files"`
	Defined int           `json:"defined"` // things that are defined already, and left alone
	Without []string      `json:"without"` // things whose stack the environment does not describe

	// Unmanaged are things that were not asked for by a pattern, and that none of the environment's matches: defined, they
	// would be refused.
	Unmanaged []string `json:"unmanaged"`
}

// An AdoptedFile is a file that is to be written.
type AdoptedFile struct {
	Path  string   `json:"path"` // relative to the environment
	Stack string   `json:"stack"`
	IDs   []string `json:"ids"`

	set *resource.Set
}

// PlanAdoption reads what a platform has, of all or of what patterns match, and says which definitions would be written.
// Secrets are named; their values stay where they are. The patterns are written as managed.
func (e *Environment) PlanAdoption(ctx context.Context, c *client.Client, patterns []*resource.Pattern) (*Adoption, error) {
	defined, sets := map[string]bool{}, map[string]*resource.Set{}
	for _, name := range e.Stacks() {
		set, err := e.definitions(name)
		if err != nil {
			return nil, err
		}
		if sets[name] = set; set != nil {
			for _, x := range set.Definitions {
				defined[x.ID()] = true
			}
		}
	}
	is, err := resource.List(ctx, c, patterns)
	if err != nil {
		return nil, err
	}
	out := &Adoption{Files: []AdoptedFile{}, Without: []string{}, Unmanaged: []string{}}
	for _, stack := range []string{"access", "pools", "schedules"} {
		directory := e.home(stack)
		var managed []*resource.Pattern // nil: that is not said
		if set := sets[stack]; set != nil && patterns == nil {
			managed = set.Managed
		}
		file := AdoptedFile{Stack: stack, set: &resource.Set{}}
		for _, x := range is.Definitions {
			switch {
			case homeOf(x.Kind) != stack:
			case defined[x.ID()]:
				out.Defined++
			case directory == "":
				out.Without = append(out.Without, x.ID())
			case managed != nil && !slices.ContainsFunc(managed, func(p *resource.Pattern) bool { return p.Match(x.Kind, x.Name) }):
				out.Unmanaged = append(out.Unmanaged, x.ID())
			default:
				file.IDs = append(file.IDs, x.ID())
				if err := file.set.Add(x.Kind, x.Name, x.Document, x.At); err != nil {
					return nil, err
				}
			}
		}
		if len(file.IDs) == 0 {
			continue
		}
		for _, p := range patterns {
			kind, _, _ := strings.Cut(p.String(), "=")
			if homeOf(resource.KindNamed(kind)) == stack {
				file.set.Managed = append(file.set.Managed, p)
			}
		}
		file.Path = filepath.Join(directory, "imported-"+time.Now().UTC().Format("20060102-150405")+".yml")
		out.Files = append(out.Files, file)
	}
	return out, nil
}

// home is the first directory with definitions of a stack, relative to the environment; "" if there is none.
func (e *Environment) home(stack string) string {
	var files []string
	switch {
	case stack == "access" && e.Access != nil:
		files = e.Access.Files
	case stack == "pools" && e.Pools != nil:
		files = e.Pools.Files
	case stack == "schedules" && e.Schedules != nil:
		files = e.Schedules.Files
	}
	for _, f := range files {
		if info, err := os.Stat(e.path(f)); err == nil && info.IsDir() {
			return f
		}
	}
	return ""
}

// Write writes a file of an adoption.
func (f *AdoptedFile) Write(w io.Writer) error { return f.set.Write(w) }

// WriteFiles writes the files, none over another one.
func (e *Environment) WriteFiles(a *Adoption) (err error) {
	var written []string
	defer func() {
		if err != nil {
			for _, f := range written {
				os.Remove(f)
			}
		}
	}()
	for _, f := range a.Files {
		path := e.path(f.Path)
		to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already: wait a second", path)
		} else if err != nil {
			return err
		}
		written = append(written, path)
		if err := errors.Join(f.Write(to), to.Close()); err != nil {
			return err
		}
	}
	for _, f := range a.Files {
		if _, err := e.definitions(f.Stack); err != nil {
			return fmt.Errorf("with what is imported the definitions of %s would not fit together, so nothing was written: %w", f.Stack, err)
		}
	}
	return nil
}
