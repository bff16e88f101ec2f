package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Who the program runs as: infra/modules/service and the Helm chart give its files to the same.
const (
	userID   = 10001
	userName = "nonroot"
)

// Where things are in the image.
const (
	programPath = "usr/local/bin/taskfleet"
	dataPath    = "var/lib/taskfleet"
	searchPath  = "PATH=/usr/local/bin:/usr/bin:/bin"
)

const sources = "https://github.com/taskfleet/taskfleet"

// A spec says what to make an image of.
type spec struct {
	binaries []binary
	version  string    // of the release; empty: what the binaries say
	created  time.Time // zero: when the binaries' commit was made
	base     string    // reference; empty: our own
	roots    roots     // for our own base
	work     string    // directory for layers, which is needed for as long as the image is
}

// An image is what was made, for all platforms, and what belongs to it.
type image struct {
	version    string
	index      v1.ImageIndex
	bills      []bill
	signatures map[v1.Hash]v1.Image // by what is signed
}

// A bill is the bill of materials of the image for one platform.
type bill struct {
	platform v1.Platform
	text     []byte
	manifest v1.Image // that attaches it
}

// assemble makes the image.
func assemble(ctx context.Context, s spec) (*image, error) {
	if len(s.binaries) == 0 {
		return nil, errors.New("there is no platform to make an image for")
	}
	first := s.binaries[0]
	if s.created.IsZero() {
		s.created = first.committed()
	}
	made := &image{version: first.version(s.version), signatures: map[v1.Hash]v1.Image{}}
	labels := map[string]string{
		"org.opencontainers.image.title":         "taskfleet",
		"org.opencontainers.image.description":   "Runs graphs of tasks on fleets of machines that it provisions itself",
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.source":        sources,
		"org.opencontainers.image.documentation": sources + "/tree/main/docs",
		"org.opencontainers.image.version":       made.version,
		"org.opencontainers.image.created":       s.created.Format(time.RFC3339),
	}
	if revision := first.setting("vcs.revision"); revision != "" {
		labels["org.opencontainers.image.revision"] = revision
	}
	if s.base != "" {
		labels["org.opencontainers.image.base.name"] = s.base
	}
	made.index = mutate.Annotations(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), labels).(v1.ImageIndex)
	for _, b := range s.binaries {
		one, err := platformImage(ctx, s, b, labels)
		if err != nil {
			return nil, fmt.Errorf("the image for %s: %w", b.platform, err)
		}
		made.index = mutate.AppendManifests(made.index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: &b.platform}})
		text, err := billOfMaterials(b, made.version, s.created, s.roots.from)
		if err != nil {
			return nil, fmt.Errorf("the bill of materials for %s: %w", b.platform, err)
		}
		manifest, err := attachment(one, billType, text)
		if err != nil {
			return nil, err
		}
		made.bills = append(made.bills, bill{b.platform, text, manifest})
	}
	return made, nil
}

func platformImage(ctx context.Context, s spec, b binary, labels map[string]string) (v1.Image, error) {
	var add []mutate.Addendum
	layer := func(about string, files ...file) error {
		l, err := writeLayer(filepath.Join(s.work, fmt.Sprintf("%s-%d.tar.gz", b.platform.Architecture, len(add))), s.created, files)
		add = append(add, mutate.Addendum{Layer: l, MediaType: types.OCILayer, History: v1.History{CreatedBy: "taskfleet packaging/image: " + about, Created: v1.Time{Time: s.created}}})
		return err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if s.base == "" {
		if err := layer("base", baseFiles(s.roots)...); err != nil {
			return nil, err
		}
	} else {
		ref, err := name.ParseReference(s.base)
		if err != nil {
			return nil, usageError{fmt.Errorf("--base: %w", err)}
		}
		if base, err = remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(b.platform), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return nil, err
		}
	}
	if err := layer("program", file{path: programPath, mode: 0o755, from: b.path}, file{path: dataPath + "/", mode: 0o700, owner: userID}); err != nil {
		return nil, err
	}
	made, err := mutate.Append(base, add...)
	if err != nil {
		return nil, err
	}
	was, err := made.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := was.DeepCopy()
	config.OS, config.Architecture, config.Variant = b.platform.OS, b.platform.Architecture, b.platform.Variant
	config.Created = v1.Time{Time: s.created}
	c := &config.Config
	c.User = fmt.Sprintf("%d:%d", userID, userID)
	c.Entrypoint, c.Cmd = []string{"taskfleet"}, nil
	c.WorkingDir = "/" + dataPath // where the data is unless something else is said
	c.ExposedPorts = map[string]struct{}{"8080/tcp": {}}
	if !slices.ContainsFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		c.Env = append(c.Env, searchPath)
	}
	all := maps.Clone(c.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, labels)
	c.Labels = all
	if made, err = mutate.ConfigFile(made, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(made, labels).(v1.Image), nil
}

// baseFiles are what a program that is linked statically still looks for. Time zones are in it.
func baseFiles(r roots) []file {
	return []file{
		{path: "etc/", mode: 0o755},
		{path: "etc/group", mode: 0o644, text: fmt.Sprintf("root:x:0:\n%s:x:%d:\n", userName, userID)},
		{path: "etc/passwd", mode: 0o644, text: fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\n%s:x:%d:%d::/%s:/sbin/nologin\n", userName, userID, userID, dataPath)},
		{path: "etc/ssl/", mode: 0o755},
		{path: "etc/ssl/certs/", mode: 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, text: string(r.pem)},
		{path: "etc/taskfleet/", mode: 0o755}, // for what is mounted there
		{path: "tmp/", mode: 0o1777},
		{path: "usr/", mode: 0o755},
		{path: "usr/local/", mode: 0o755},
		{path: "usr/local/bin/", mode: 0o755},
		{path: "var/", mode: 0o755},
		{path: "var/lib/", mode: 0o755},
	}
}

// A file of a layer. One whose path ends with a slash is a directory.
type file struct {
	path  string
	mode  int64
	owner int    // user and group
	text  string // what is in it, or else
	from  string // the file that has it
}

// writeLayer writes files as a compressed archive, whose bytes follow from its arguments alone, and returns the layer that it is.
func writeLayer(to string, at time.Time, files []file) (_ v1.Layer, err error) {
	out, err := os.Create(to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	compressed := gzip.NewWriter(out)
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		if err := f.write(archive, at); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(to, tarball.WithMediaType(types.OCILayer))
}

func (f file) write(to *tar.Writer, at time.Time) error {
	header := &tar.Header{Name: f.path, Mode: f.mode, Uid: f.owner, Gid: f.owner, ModTime: at, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
	var content io.Reader = strings.NewReader(f.text)
	switch {
	case strings.HasSuffix(f.path, "/"):
		header.Typeflag = tar.TypeDir
	case f.from != "":
		source, err := os.Open(f.from)
		if err != nil {
			return err
		}
		defer source.Close()
		about, err := source.Stat()
		if err != nil {
			return err
		}
		content, header.Size = source, about.Size()
	default:
		header.Size = int64(len(f.text))
	}
	if err := to.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(to, content)
	return err
}
