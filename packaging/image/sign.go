package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// keyVariable has the private key for those who have it in no file, such as CI.
const keyVariable = "TASKFLEET_IMAGE_KEY"

// How cosign writes signatures.
const (
	payloadType         = "cosign container image signature"
	payloadMediaType    = types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")
	signatureAnnotation = "dev.cosignproject.cosign/signature"
)

// A payload is what is signed: the digest of an image, and the name that it has where it is pushed to.
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]string `json:"optional"`
}

// signatureTag is where the signatures of an image are.
func signatureTag(image v1.Hash) string { return image.Algorithm + "-" + image.Hex + ".sig" }

// sign signs all that has a digest: who has one platform's image, or its bill alone, can check that too.
func (m *image) sign(key *ecdsa.PrivateKey, repository name.Repository) error {
	manifests, err := m.index.IndexManifest()
	if err != nil {
		return err
	}
	whole, err := m.index.Digest()
	if err != nil {
		return err
	}
	digests := []v1.Hash{whole}
	for _, d := range manifests.Manifests {
		digests = append(digests, d.Digest)
	}
	for _, b := range m.bills {
		d, err := b.manifest.Digest()
		if err != nil {
			return err
		}
		digests = append(digests, d)
	}
	for _, d := range digests {
		if m.signatures[d], err = signature(key, d, repository); err != nil {
			return fmt.Errorf("signing %s: %w", d, err)
		}
	}
	return nil
}

// signature makes the image that holds the signature of a digest. The repository may be that of nothing.
func signature(key *ecdsa.PrivateKey, digest v1.Hash, repository name.Repository) (v1.Image, error) {
	var p payload
	if repository != (name.Repository{}) {
		p.Critical.Identity.Reference = repository.Name()
	}
	p.Critical.Image.Digest = digest.String()
	p.Critical.Type = payloadType
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(text)
	signed, err := key.Sign(nil, hash[:], crypto.SHA256) // nil: by RFC 6979
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	return mutate.Append(base, mutate.Addendum{
		Layer:       static.NewLayer(text, payloadMediaType),
		MediaType:   payloadMediaType,
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signed)},
	})
}

// signingKey reads the private key from a file or, where none is named, from the environment. It is nil where there is none.
func signingKey(file string) (*ecdsa.PrivateKey, error) {
	text, from := []byte(os.Getenv(keyVariable)), keyVariable
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("--sign-key: %w", err)
		}
		from = file
	}
	if len(text) == 0 && file == "" {
		return nil, nil
	}
	const how = "; openssl ecparam -name prime256v1 -genkey -noout makes one"
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case strings.HasPrefix(block.Type, "ENCRYPTED") || block.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("the key in %s is encrypted; give one that is not, from a store of secrets%s", from, how)
		case block.Type == "EC PRIVATE KEY":
			key, err := x509.ParseECPrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("the key in %s is not readable: %w", from, err)
			}
			return key, onCurve(from, &key.PublicKey)
		case block.Type == "PRIVATE KEY":
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("the key in %s is not readable: %w", from, err)
			}
			key, ok := parsed.(*ecdsa.PrivateKey)
			if !ok {
				return nil, fmt.Errorf("the key in %s is not one of ECDSA%s", from, how)
			}
			return key, onCurve(from, &key.PublicKey)
		}
	}
	return nil, fmt.Errorf("there is no private key in %s; it must be PEM%s", from, how)
}

func readPublicKey(file string) (*ecdsa.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "PUBLIC KEY" {
			continue
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the key in %s is not readable: %w", file, err)
		}
		key, ok := parsed.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("the key in %s is not one of ECDSA", file)
		}
		return key, onCurve(file, key)
	}
	return nil, fmt.Errorf("there is no public key in %s; openssl ec -in PRIVATE -pubout writes it", file)
}

func onCurve(from string, key *ecdsa.PublicKey) error {
	if key.Curve != elliptic.P256() {
		return errors.New("the key in " + from + " is on another curve than P-256")
	}
	return nil
}
