//go:build !agent

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
)

// secrets are what a platform made up for itself at its first start. They stay
// in a file that only its user can read.
type secrets struct {
	RootToken        string `json:"rootToken"`
	QueueToken       string `json:"queueToken"`
	ProvisionerToken string `json:"provisionerToken"`
	SealKeys         string `json:"sealKeys"` // of secrets at rest in the database
	S3Secret         string `json:"s3Secret"` // of the gateway inside the process
}

// openSecrets reads DATA/secrets.json, or makes it.
func openSecrets(data string) (s secrets, err error) {
	file := filepath.Join(data, "secrets.json")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		s = secrets{slugid.Token(), slugid.Token(), slugid.Token(), seal.NewKey().Text(), slugid.Token()}
		return s, writePrivate(file, s)
	}
	if err != nil {
		return s, fmt.Errorf("reading the platform's secrets: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s is damaged (%v). Restore it from a backup: without it, what is encrypted in the database is lost", file, err)
	}
	if s.RootToken == "" || s.QueueToken == "" || s.ProvisionerToken == "" || s.SealKeys == "" || s.S3Secret == "" {
		return s, fmt.Errorf("%s lacks an entry. Restore it from a backup", file)
	}
	return s, nil
}

// writePrivate writes v as JSON to a file of mode 0600, whole or not at all.
func writePrivate(file string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err == nil && runtime.GOOS != "windows" { // which keeps names by itself
		err = syncDirectory(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// syncDirectory has the names in a directory survive a power failure.
func syncDirectory(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// replicaID names this process to the others on its database. It stays the same
// over restarts on a data directory, of which one process at a time has the
// lock: so a process that was killed has its leases back at once. A file that a
// crash left without an id is written anew.
func replicaID(data string) (string, error) {
	file := filepath.Join(data, "replica")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slugid.Valid(string(text)) {
		id := slugid.New()
		return id, os.WriteFile(file, []byte(id), 0o600)
	}
	return string(text), err
}
