package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is the annotation that names what is in a layout.
const refName = "org.opencontainers.image.ref.name"

// billType is the type of a bill of materials.
const billType = "application/vnd.cyclonedx+json"

// attachment makes an image that has content, and another image as its subject. The type is that of the configuration, which
// registries that know subjects, and those that do not, both take.
func attachment(to v1.Image, kind types.MediaType, content []byte) (v1.Image, error) {
	subject, err := partial.Descriptor(to)
	if err != nil {
		return nil, err
	}
	// Annotations are the image's own, which has them in its manifest.
	subject.Annotations = nil
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), kind)
	if made, err = mutate.Append(made, mutate.Addendum{Layer: static.NewLayer(content, kind), MediaType: kind}); err != nil {
		return nil, err
	}
	return mutate.Subject(made, *subject).(v1.Image), nil
}

// replaceable tells whether a directory is not there, is empty, or holds what write has written.
func replaceable(directory string) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	if _, err := os.Stat(filepath.Join(directory, "oci-layout")); err != nil {
		return fmt.Errorf("--output: %s holds something else than an image; name another directory", directory)
	}
	return nil
}

// write writes all into a directory in the layout of OCI, and the bills of materials beside it.
func (m *image) write(directory string) error {
	if err := os.MkdirAll(filepath.Dir(directory), 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(directory), filepath.Base(directory)+".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	to, err := layout.Write(fresh, empty.Index)
	if err != nil {
		return err
	}
	if err := to.AppendIndex(m.index, layout.WithAnnotations(map[string]string{refName: m.version})); err != nil {
		return err
	}
	for _, b := range m.bills {
		if err := to.AppendImage(b.manifest); err != nil {
			return err
		}
		beside := fmt.Sprintf("%s.%s.cdx.json", directory, strings.ReplaceAll(b.platform.String(), "/", "-"))
		if err := os.WriteFile(beside, b.text, 0o644); err != nil {
			return err
		}
	}
	for _, digest := range m.signed() {
		if err := to.AppendImage(m.signatures[digest], layout.WithAnnotations(map[string]string{refName: signatureTag(digest)})); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(fresh, 0o755), os.RemoveAll(directory), os.Rename(fresh, directory))
}

// signed are the digests that have signatures, always in the same order.
func (m *image) signed() []v1.Hash {
	return slices.SortedFunc(maps.Keys(m.signatures), func(a, b v1.Hash) int { return strings.Compare(a.Hex, b.Hex) })
}

// push puts all into a registry. The tag comes last: whoever sees it finds the signatures.
func (m *image) push(ctx context.Context, tag name.Tag) error {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	repository := tag.Context()
	digest, err := m.index.Digest()
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(repository.Digest(digest.String()), m.index, options...); err != nil {
		return err
	}
	for _, b := range m.bills {
		digest, err := b.manifest.Digest()
		if err != nil {
			return err
		}
		if err := remote.Write(repository.Digest(digest.String()), b.manifest, options...); err != nil {
			return fmt.Errorf("attaching the bill of materials for %s: %w", b.platform, err)
		}
	}
	for _, digest := range m.signed() {
		if err := pushSignature(repository.Tag(signatureTag(digest)), m.signatures[digest], options); err != nil {
			return fmt.Errorf("pushing the signature of %s: %w", digest, err)
		}
	}
	return remote.Tag(tag, m.index, options...)
}

// pushSignature adds a signature to those that there are, by other keys.
func pushSignature(tag name.Tag, made v1.Image, options []remote.Option) error {
	there, err := taggedImage(tag, options)
	if err != nil {
		return err
	}
	if there == nil {
		return remote.Write(tag, made, options...)
	}
	before, err := there.Manifest()
	if err != nil {
		return err
	}
	now, err := made.Manifest()
	if err != nil {
		return err
	}
	for _, d := range now.Layers {
		same := func(e v1.Descriptor) bool {
			return e.Annotations[signatureAnnotation] == d.Annotations[signatureAnnotation]
		}
		if slices.ContainsFunc(before.Layers, same) {
			continue
		}
		layer, err := made.LayerByDigest(d.Digest)
		if err != nil {
			return err
		}
		if there, err = mutate.Append(there, mutate.Addendum{Layer: layer, MediaType: d.MediaType, Annotations: d.Annotations}); err != nil {
			return err
		}
	}
	return remote.Write(tag, there, options...)
}
