package platform

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

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// ConfigurationSpec is the spec of taskfleet:platform:Configuration: a part of the servers' configuration, in a secret or in a file.
// Servers read it when they start.
type ConfigurationSpec struct {
	Document string `json:"document"` // YAML, some sections of the configuration. All of it is secret, as there may be secrets in it

	// Reserved are sections that are configured elsewhere, and that it may not have: configuration_sections of the manifest, and those of other
	// documents.
	Reserved []string `json:"reserved,omitempty"`
}

type configuration struct {
	ConfigurationSpec
	Version string `json:"version,omitempty"` // of the secret; of a file it is when it was written
}

const (
	largestSecret = 65536 // bytes, of Secrets Manager

	// nothing is what is left in a secret, which cannot be without a value again.
	nothing = "# Nothing is configured here.\n"
)

// A place is where a document is kept. Versions are no digests: they are in clear in states, and whoever has the digest of a short
// secret can try what it is.
type place interface {
	// look is the document there and its version, which is "" if there is none. was is what was there before, if that is known: what
	// has not changed since has the same version.
	look(ctx context.Context, was *configuration) (document, version string, err error)
	set(ctx context.Context, document string) (version string, err error)
	clear(ctx context.Context) error
}

func configurations(o Options, c *cloud) *kind[ConfigurationSpec, configuration] {
	at := func(ctx context.Context, name string) (place, error) {
		if filepath.IsAbs(name) {
			return file(name), nil
		}
		v, err := c.vault(ctx, name)
		return secret{v}, err
	}
	return &kind[ConfigurationSpec, configuration]{
		token: "Configuration", secrets: []string{"document"}, computed: []string{"version"},
		check: func(name string, spec *ConfigurationSpec, bad func(member, format string, args ...any)) {
			if _, err := secretRegion(name); err != nil && !filepath.IsAbs(name) {
				bad("", "the name is %q; it must be the ARN of a secret of AWS Secrets Manager, or the absolute path of a file", name)
			}
			if filepath.IsAbs(name) && filepath.Ext(name) != ".yml" {
				bad("", "the file %s must end with .yml: taskfleet serve --config DIRECTORY reads no others", name)
			}
			if len(spec.Document) > largestSecret {
				bad("document", "has %d bytes; it must have %d at most", len(spec.Document), largestSecret)
				return
			}
			slices.Sort(spec.Reserved)
			found, err := sections([]byte(spec.Document))
			if err == nil && len(found) == 0 {
				err = errors.New("has no sections: leave it out")
			}
			if err != nil {
				bad("document", "%v", err)
				return
			}
			for _, s := range found {
				if slices.Contains(spec.Reserved, s) {
					bad("document", "has the section %s, which is configured elsewhere already: take it out, here or there", s)
				}
			}
			if err := o.Check([]byte(spec.Document)); err != nil {
				bad("document", "%v", err)
			}
		},
		read: func(ctx context.Context, name string, was *configuration) (*configuration, error) {
			p, err := at(ctx, name)
			if err != nil {
				return nil, err
			}
			document, version, err := p.look(ctx, was)
			if version == "" || err != nil {
				return nil, err
			}
			if was == nil {
				was = &configuration{}
			}
			if version == was.Version && document == was.Document {
				return was, nil
			}
			if found, err := sections([]byte(document)); err == nil && len(found) == 0 {
				return nil, nil
			}
			return &configuration{ConfigurationSpec{document, was.Reserved}, version}, nil
		},
		write: func(ctx context.Context, name string, was *configuration, spec ConfigurationSpec) (*configuration, error) {
			p, err := at(ctx, name)
			if err != nil {
				return nil, err
			}
			document, version, err := p.look(ctx, was)
			// A file that somebody has written may be open to others.
			if err == nil && (version == "" || document != spec.Document || was == nil && filepath.IsAbs(name)) {
				version, err = p.set(ctx, spec.Document)
			}
			if err != nil {
				return nil, err
			}
			return &configuration{spec, version}, nil
		},
		remove: func(ctx context.Context, name string, _ configuration) error {
			p, err := at(ctx, name)
			if err != nil {
				return err
			}
			return p.clear(ctx)
		},
		complete: func(spec ConfigurationSpec, was *configuration) configuration {
			if was == nil || was.Document != spec.Document {
				return configuration{spec, ""}
			}
			return configuration{spec, was.Version}
		},
	}
}

// sections are the names at the top of a document; none if it is empty. Errors tell lines and nothing of the text, which may be
// secret.
func sections(document []byte) ([]string, error) {
	f, err := parser.ParseBytes(document, 0)
	if err != nil {
		return nil, errors.New("is no YAML; taskfleet config check --config FILE says where")
	}
	var names []string
	for i, d := range f.Docs {
		if i > 0 {
			return nil, errors.New("has several documents, parted by ---; make it one")
		}
		switch body := d.Body.(type) {
		case nil, *ast.NullNode, *ast.CommentGroupNode:
		case *ast.MappingNode:
			for _, entry := range body.Values {
				names = append(names, strings.Trim(entry.Key.String(), `"'`))
			}
		case *ast.MappingValueNode:
			names = append(names, strings.Trim(body.Key.String(), `"'`))
		default:
			return nil, errors.New("must have sections, such as notify:, at its top")
		}
	}
	return names, nil
}

// A secret is a place in Secrets Manager.
type secret struct{ *vault }

func (s secret) look(ctx context.Context, was *configuration) (document, version string, err error) {
	version, err = s.version(ctx)
	switch {
	case version == "" || err != nil:
		return "", "", err
	case was != nil && was.Version == version:
		return was.Document, version, nil
	}
	document, err = s.value(ctx, version)
	return document, version, err
}

func (s secret) set(ctx context.Context, document string) (string, error) {
	return s.put(ctx, document, nil)
}

func (s secret) clear(ctx context.Context) error {
	version, err := s.version(ctx)
	if version == "" || err != nil {
		return err
	}
	_, err = s.put(ctx, nothing, nil)
	return err
}

// A file is a place in a directory of configuration, by its path.
type file string

func (f file) look(_ context.Context, was *configuration) (document, version string, err error) {
	from, err := os.Open(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	defer from.Close()
	text, err := io.ReadAll(from)
	if err != nil {
		return "", "", err
	}
	if was != nil && was.Version != "" && was.Document == string(text) && !strings.HasPrefix(was.Version, "sha256:") {
		return was.Document, was.Version, nil // also if it was touched, or came out of a backup; but no digest, as it was before
	}
	version, err = written(from)
	return string(text), version, err
}

// written is the version of an open file.
func written(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return info.ModTime().UTC().Format(time.RFC3339Nano), nil
}

// set has the file be the document, whole or not at all, readable by its owner alone. Who that is stays as it was; of a new
// file it is the owner of the directory, as the servers may be another user than whoever writes.
func (f file) set(_ context.Context, document string) (version string, err error) {
	directory := filepath.Dir(string(f))
	if info, err := os.Lstat(string(f)); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is a link or a directory, and would be replaced: remove it, or name another directory in environment.yml", f)
	}
	name := filepath.Join(directory, "."+filepath.Base(string(f))+".new")      // no server reads it
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // a killed process may have left it, with secrets
		return "", err
	}
	t, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no directory %s: make it, for the user of the servers, and have them read it: taskfleet serve --config %s", directory, directory)
	}
	if err != nil {
		return "", err
	}
	defer os.Remove(name)
	_, err = t.WriteString(document)
	if err == nil {
		err = own(t, string(f), directory)
	}
	if err == nil {
		err = t.Sync()
	}
	if err == nil {
		version, err = written(t)
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return "", err
	}
	return version, os.Rename(name, string(f))
}

func (f file) clear(context.Context) error {
	if err := os.Remove(string(f)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
