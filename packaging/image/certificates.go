package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Mozilla's certificates, as the Go project distributes them. To renew them, write the latest version and its sum here:
//
//	go mod download -json golang.org/x/crypto/x509roots/fallback@latest
const (
	rootsModule  = "golang.org/x/crypto/x509roots/fallback"
	rootsVersion = "v0.0.0-20261030153154-30a33513ff6d"
	rootsSum     = "h1:5NBkmd8MXirajj6AAEpi4HFVJnVkBNPTL1ggYAKqaws="
)

// roots are the certificates of authorities that the program trusts.
type roots struct {
	pem  []byte
	from string // purl, or nothing where they come from a file
}

// readRoots reads a file, or fetches Mozilla's certificates where none is named.
func readRoots(ctx context.Context, file string) (roots, error) {
	if file == "" {
		return mozillaRoots(ctx)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return roots{}, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return roots{}, fmt.Errorf("--certificates: there is no certificate in %s; it must be PEM", file)
	}
	return roots{pem: text}, nil
}

// mozillaRoots has the go command fetch the module, as it does with those that we are built of: from a proxy or from its cache. It
// is not one of these, since no code of it is used.
func mozillaRoots(ctx context.Context) (roots, error) {
	elsewhere, err := os.MkdirTemp("", "taskfleet-roots-") // not in a module, whose requirements would count
	if err != nil {
		return roots{}, err
	}
	defer os.RemoveAll(elsewhere)
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", rootsModule+"@"+rootsVersion)
	cmd.Dir = elsewhere
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var module struct{ Dir, Sum, Error string }
	if wrong := json.Unmarshal(out, &module); wrong != nil || module.Error != "" {
		return roots{}, fmt.Errorf("fetching certificates, which --certificates FILE avoids: %w", errors.Join(err, wrong, errors.New(module.Error)))
	}
	if module.Sum != rootsSum {
		return roots{}, fmt.Errorf("the sum of %s %s is %s, not %s: it is not what it was", rootsModule, rootsVersion, module.Sum, rootsSum)
	}
	der, err := os.ReadFile(filepath.Join(module.Dir, "bundle", "bundle.der"))
	if err != nil {
		return roots{}, err
	}
	certificates, err := x509.ParseCertificates(der)
	if err != nil {
		return roots{}, fmt.Errorf("the certificates in %s: %w", rootsModule, err)
	}
	var text bytes.Buffer
	for _, c := range certificates {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			return roots{}, err
		}
	}
	return roots{pem: text.Bytes(), from: "pkg:golang/" + rootsModule + "@" + rootsVersion}, nil
}
