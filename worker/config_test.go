package worker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const config = `{
	"rootUrl": "http://127.0.0.1:8080", "providerId": "local", "workerPoolId": "local/build", "workerGroup": "local", "workerId": "w-1",
	"workerIdentityProof": {"token": "token-secret"}, "directory": "data"}`

func TestLoadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "worker.json")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(config, 0o600)
	c, err := LoadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.WorkerPoolID != "local/build" || !filepath.IsAbs(c.Directory) {
		t.Errorf("the configuration is %+v", c)
	}
	for name, test := range map[string]struct {
		text  string
		mode  os.FileMode
		wants string
	}{
		"readable by all": {config, 0o644, "chmod 600 " + file},
		"no JSON":         {config[:100], 0o600, "is not valid"},
		"misspelt":        {strings.Replace(config, "rootUrl", "rootURI", 1), 0o600, `unknown field "rootURI"`},
		"incomplete":      {`{"rootUrl": "http://x"}`, 0o600, "lacks directory, providerId, workerGroup, workerId, workerIdentityProof, workerPoolId"},
	} {
		write(test.text, test.mode)
		_, err := LoadConfig(file)
		if err == nil || !strings.Contains(err.Error(), test.wants) {
			t.Errorf("%s: err is %v, want %q", name, err, test.wants)
		} else if strings.Contains(err.Error(), "secret:") || strings.Contains(err.Error(), "token-secret") {
			t.Errorf("%s: %v tells the secret", name, err)
		}
	}
	if _, err := LoadConfig(file + ".absent"); err == nil {
		t.Error("no error for an absent file")
	}
}

func TestSettings(t *testing.T) {
	s, unknown, err := parseSettings(json.RawMessage(`{"idleTimeoutSecs": 30, "genericWorker": {}, "capacity": 4}`))
	if err != nil || s.Capacity != 4 || seconds(s.IdleTimeoutSecs) != 30*time.Second || seconds(s.ShutdownGraceSecs) != 30*time.Second {
		t.Errorf("settings are %+v, %v", s, err)
	}
	if !slices.Equal(unknown, []string{"genericWorker"}) {
		t.Errorf("unknown are %q", unknown)
	}
	for text, wants := range map[string]string{
		`{"capacity": 0}`:               `workerConfig.capacity of the pool is 0`,
		`{"capacity": "many"}`:          `capacity`,
		`{"idleTimeoutSecs": -1}`:       `idleTimeoutSecs`,
		`{"shutdownGraceSecs": 1e300}`:  `shutdownGraceSecs`,
		`{"interruptionGraceSecs": 91}`: `workerConfig.interruptionGraceSecs of the pool is 91; it has to be from 0 to 90`,
		`{"mountBytes": 0}`:             `mountBytes`,
		`{"env": {"A=B": "x"}}`:         `cannot have a variable "A=B"`,
		`{"env": {"A": "x\u0000"}}`:     `cannot have a variable "A"`,
		`{"env": {"A": 1}}`:             `env`,
		`[]`:                            `workerConfig of the pool`,
	} {
		if _, _, err := parseSettings(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), wants) {
			t.Errorf("%s: err is %v, want %q", text, err, wants)
		}
	}
}
