//go:build !agent

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestWhatAPlatformMadeUpStaysTheSame(t *testing.T) {
	data := t.TempDir()
	made, err := openSecrets(Config{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := openSecrets(Config{Data: data}); err != nil || again != made {
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

func TestReplicasShareSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets.json")
	shared := Config{Data: t.TempDir(), SecretsFile: file, S3: S3Config{Region: "us-east-1"}}
	if _, err := openSecrets(shared); err == nil || !strings.Contains(err.Error(), "taskfleet config secrets") {
		t.Errorf("a file that is not there: %v", err)
	}
	out, _, code := command(t, "config", "secrets")
	if code != 0 {
		t.Fatal(out)
	}
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := openSecrets(shared)
	if err != nil {
		t.Fatal(err)
	}
	shared.Data = t.TempDir()
	other, err := openSecrets(shared)
	if err != nil || one != other {
		t.Errorf("two replicas have different secrets, %v", err)
	}
	if one.tokenFor("static/a") != other.tokenFor("static/a") || one.tokenFor("static/a") == one.tokenFor("static/b") {
		t.Error("the tokens of the platform's clients are not what follows from the root's")
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(file, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := openSecrets(shared); err == nil || !strings.Contains(err.Error(), "others can get at the secrets") {
			t.Errorf("a file that others can read: %v", err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, []byte(`{"rootToken":"x","queueToken":"x","sealKeys":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSecrets(shared); err == nil || !strings.Contains(err.Error(), "provisionerToken") {
		t.Errorf("an entry that is missing: %v", err)
	}
}
