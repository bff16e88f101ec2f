//go:build !agent

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatAPlatformMadeUpStaysTheSame(t *testing.T) {
	data := t.TempDir()
	made, err := openSecrets(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := openSecrets(data); err != nil || again != made {
		t.Errorf("the secrets have changed, %v", err)
	}
	if info, err := os.Stat(filepath.Join(data, "secrets.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets.json: %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(data, "replica"), nil, 0o600); err != nil { // by a crash
		t.Fatal(err)
	}
	id, err := replicaID(data)
	if again, err2 := replicaID(data); err != nil || err2 != nil || id == "" || again != id {
		t.Errorf("replica %q, then %q; %v, %v", id, again, err, err2)
	}
}
