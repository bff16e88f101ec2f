package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// A source is where an image is looked at: a registry, or a directory.
type source interface {
	// index returns the image for all platforms.
	index() (v1.ImageIndex, error)
	// signatures returns the image with the signatures of a digest, or nil.
	signatures(v1.Hash) (v1.Image, error)
	// attached returns what has a digest as its subject.
	attached(v1.Hash) ([]v1.Descriptor, error)
}

func openSource(ctx context.Context, where string) (source, error) {
	if _, err := os.Stat(where); err == nil {
		p, err := layout.FromPath(where)
		if err != nil {
			return nil, fmt.Errorf("%s is not an image in the layout of OCI: %w", where, err)
		}
		return directory{p}, nil
	}
	ref, err := name.ParseReference(where)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s is neither a directory nor a reference: %w", where, err)}
	}
	return registry{ref, []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}}, nil
}

// verify checks the signatures of the image, which by their digests vouch for the images of its platforms, and those of their bills of
// materials.
func verify(from source, key *ecdsa.PublicKey, out io.Writer) error {
	index, err := from.index()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := signedBy(from, digest, key); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s is signed by this key\n", digest)
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, m := range manifest.Manifests {
		fmt.Fprintf(out, "  %s %s\n", m.Platform, m.Digest)
		attached, err := from.attached(m.Digest)
		if err != nil {
			return err
		}
		for _, a := range attached {
			if a.ArtifactType != billType {
				continue
			}
			if err := signedBy(from, a.Digest, key); err != nil {
				return fmt.Errorf("the bill of materials for %s: %w", m.Platform, err)
			}
			fmt.Fprintf(out, "    bill of materials %s, signed by this key\n", a.Digest)
		}
	}
	return nil
}

// signedBy looks for a signature of the digest by the key. Others may be beside it.
func signedBy(from source, digest v1.Hash, key *ecdsa.PublicKey) error {
	image, err := from.signatures(digest)
	if err != nil {
		return err
	}
	if image == nil {
		return fmt.Errorf("%s is not signed", digest)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	wrong := fmt.Errorf("%s has no signature by this key", digest)
	for _, d := range manifest.Layers {
		if d.MediaType != payloadMediaType {
			continue
		}
		err := check(image, d, digest, key)
		if err == nil {
			return nil
		}
		wrong = errors.Join(wrong, err)
	}
	return wrong
}

// longestPayload is more than any has.
const longestPayload = 1 << 20

func check(image v1.Image, signature v1.Descriptor, digest v1.Hash, key *ecdsa.PublicKey) error {
	layer, err := image.LayerByDigest(signature.Digest)
	if err != nil {
		return err
	}
	content, err := layer.Compressed() // it is stored as it is
	if err != nil {
		return err
	}
	defer content.Close()
	text, err := io.ReadAll(io.LimitReader(content, longestPayload))
	if err != nil {
		return err
	}
	signed, err := base64.StdEncoding.DecodeString(signature.Annotations[signatureAnnotation])
	if err != nil {
		return fmt.Errorf("its signature is not Base64: %w", err)
	}
	hash := sha256.Sum256(text)
	if !ecdsa.VerifyASN1(key, hash[:], signed) {
		return errors.New("one is by another key, or was changed")
	}
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("what this key has signed is not JSON: %w", err)
	}
	if p.Critical.Type != payloadType || p.Critical.Image.Digest != digest.String() {
		return fmt.Errorf("one by this key is of something else, %q", p.Critical.Image.Digest)
	}
	return nil
}

// A registry is a source by the registry's API. What is fetched has the digest by which it is asked for.
type registry struct {
	ref     name.Reference
	options []remote.Option
}

func (r registry) index() (v1.ImageIndex, error) { return remote.Index(r.ref, r.options...) }

func (r registry) signatures(digest v1.Hash) (v1.Image, error) {
	return taggedImage(r.ref.Context().Tag(signatureTag(digest)), r.options)
}

// taggedImage is nil where there is none.
func taggedImage(tag name.Tag, options []remote.Option) (v1.Image, error) {
	image, err := remote.Image(tag, options...)
	if refusal := (*transport.Error)(nil); errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	return image, err
}

func (r registry) attached(digest v1.Hash) ([]v1.Descriptor, error) {
	index, err := remote.Referrers(r.ref.Context().Digest(digest.String()), r.options...)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return manifest.Manifests, nil
}

// A directory is a source in the layout that publish.go writes.
type directory struct{ layout.Path }

// index also reads all there is: nobody else compares bytes with their digests here. That nothing is missing is for validate.
func (d directory) index() (v1.ImageIndex, error) {
	all, entries, err := d.entries()
	if err != nil {
		return nil, err
	}
	if err := d.intact(); err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.MediaType.IsIndex() {
			continue
		}
		index, err := all.ImageIndex(e.Digest)
		if err != nil {
			return nil, err
		}
		return index, validate.Index(index)
	}
	return nil, fmt.Errorf("there is no image for several platforms in %s", d.Path)
}

func (d directory) signatures(digest v1.Hash) (v1.Image, error) {
	all, entries, err := d.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Annotations[refName] == signatureTag(digest) {
			return all.Image(e.Digest)
		}
	}
	return nil, nil
}

func (d directory) attached(digest v1.Hash) (found []v1.Descriptor, err error) {
	all, entries, err := d.entries()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.MediaType.IsImage() {
			continue
		}
		image, err := all.Image(e.Digest)
		if err != nil {
			return nil, err
		}
		manifest, err := image.Manifest()
		if err != nil {
			return nil, err
		}
		if manifest.Subject != nil && manifest.Subject.Digest == digest {
			found = append(found, e)
		}
	}
	return found, nil
}

// intact compares everything with the digest that is its name.
func (d directory) intact() error {
	folder := filepath.Join(string(d.Path), "blobs", "sha256")
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, f := range files {
		blob, err := os.Open(filepath.Join(folder, f.Name()))
		if err != nil {
			return err
		}
		is, _, err := v1.SHA256(blob)
		if err = errors.Join(err, blob.Close()); err != nil {
			return err
		}
		if is.Hex != f.Name() {
			return fmt.Errorf("sha256:%s was changed: it is %s", f.Name(), is)
		}
	}
	return nil
}

func (d directory) entries() (v1.ImageIndex, []v1.Descriptor, error) {
	all, err := d.ImageIndex()
	if err != nil {
		return nil, nil, err
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return nil, nil, err
	}
	return all, manifest.Manifests, nil
}
