package main

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// aRegistry runs one in this process, with or without the API for what is attached.
func aRegistry(t *testing.T, referrers bool) string {
	t.Helper()
	server := httptest.NewServer(ociregistry.New(ociregistry.WithReferrersSupport(referrers), ociregistry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestPushed(t *testing.T) {
	for name, referrers := range map[string]bool{"to a registry that lists what is attached": true, "to one that does not": false} {
		t.Run(name, func(t *testing.T) { pushed(t, aRegistry(t, referrers)) })
	}
}

func pushed(t *testing.T, host string) {
	key := newKey(t)
	tag, err := name.NewTag(host + "/fleet/taskfleet:1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	m := made(t, spec{binaries: binaries, version: "1.2.3", roots: someRoots})
	if err := errors.Join(m.sign(key, tag.Repository), m.push(t.Context(), tag)); err != nil {
		t.Fatal(err)
	}

	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"linux/amd64", "linux/arm64"} {
		if d := manifest.Manifests[i]; d.Platform.String() != want {
			t.Errorf("platform %d is %s", i, d.Platform)
		}
		one, err := remote.Image(tag, remote.WithPlatform(binaries[i].platform))
		if err != nil {
			t.Fatal(err)
		}
		config, err := one.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != strings.TrimPrefix(want, "linux/") || config.Config.Labels["org.opencontainers.image.version"] != "1.2.3" ||
			config.Config.Labels["org.opencontainers.image.source"] != sources {
			t.Errorf("%s: %s, labels %v", want, config.Architecture, config.Config.Labels)
		}
		if _, bodies := contents(t, one); !bytes.Contains(bodies[programPath], []byte("\xff Go buildinf:")) {
			t.Errorf("%s: the program is not there", want)
		}
	}

	check := func(where string, key *ecdsa.PrivateKey) (string, error) {
		from, err := openSource(t.Context(), where)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err = verify(from, &key.PublicKey, &out)
		return out.String(), err
	}
	out, err := check(tag.String(), key)
	if err != nil || strings.Count(out, "bill of materials sha256:") != 2 || !strings.HasPrefix(out, digestOf(t, m.index).String()+" is signed") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if _, err := check(tag.String(), newKey(t)); err == nil || !strings.Contains(err.Error(), "no signature by this key") {
		t.Errorf("verify with another key: %v", err)
	}

	// A second key signs the same: both count.
	second := newKey(t)
	if err := errors.Join(m.sign(second, tag.Repository), m.push(t.Context(), tag), m.push(t.Context(), tag)); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*ecdsa.PrivateKey{key, second} {
		if _, err := check(tag.String(), k); err != nil {
			t.Error(err)
		}
	}
	signatures, err := remote.Image(tag.Tag(signatureTag(digestOf(t, m.index))))
	if err != nil {
		t.Fatal(err)
	}
	if layers, err := signatures.Layers(); err != nil || len(layers) != 2 {
		t.Errorf("%d signatures, %v: pushing again must not add another", len(layers), err)
	}

	// Somebody puts another image in its place, with the signature of this one.
	other, err := random.Index(100, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(remote.WriteIndex(tag, other), remote.Write(tag.Tag(signatureTag(digestOf(t, other))), signatures)); err != nil {
		t.Fatal(err)
	}
	if _, err := check(tag.String(), key); err == nil || !strings.Contains(err.Error(), "of something else") {
		t.Errorf("verify of an image with the signature of another: %v", err)
	}
	// And one without any.
	if other, err = random.Index(100, 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, other); err != nil {
		t.Fatal(err)
	}
	if _, err := check(tag.String(), key); err == nil || !strings.Contains(err.Error(), "is not signed") {
		t.Errorf("verify of an image without signature: %v", err)
	}
}
