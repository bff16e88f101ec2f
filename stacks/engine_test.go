package stacks

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/resource"
)

// What has been taken out of the environment, and still has things, is told; from the files that the engine has written.
func TestAStackWithoutASection(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Environment: e, names: []string{"pools"}, engine: &engine{environment: e, command: &command{path: "/is/not/there"}, home: t.TempDir()}}
	write := func(name, text string) {
		file := filepath.Join(e.states(), ".pulumi", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("meta.yaml", "version: 1\n")
	const pools = "stacks/taskfleet-pools/local.json"
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"pulumi:pulumi:Stack"},{"type":"taskfleet:index:WorkerPool","id":"a/b"}]}}}`)
	write("stacks/taskfleet-access/local.json", `{"version":3,"checkpoint":{"latest":{}}}`)
	if told, err := d.left(t.Context()); err != nil || len(told) != 0 {
		t.Errorf("as all is described it tells %q, %v", told, err)
	}
	// Without an answer of the platform nothing can be said of it.
	d.inputs = &inputs{rootURL: "http://127.0.0.1:1", sets: map[string]*resource.Set{"pools": setOf(t, "managed: [WorkerPool=a/.*]\n")}}
	if d.client, err = client.New(client.Options{RootURL: d.inputs.rootURL, Retry: client.Retry{For: -1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Preview(t.Context(), PreviewOptions{}); err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "--stack platform") {
		t.Errorf("without an answer: %v", err)
	}
	e.Pools, e.Access = nil, nil
	told, err := d.left(t.Context())
	if err != nil || len(told) != 1 || !strings.Contains(told[0], "stack pools has things (1)") || !strings.Contains(told[0], "taskfleet stacks destroy --dir "+e.Directory+" --stack pools") {
		t.Errorf("it tells %q, %v", told, err)
	}
	// Any other form is the engine's to read, which is not there.
	for _, text := range []string{`{"version":4,"checkpoint":{"latest":{}}}`, "not JSON", `{"version":3}`, `{"version":3,"checkpoint":{"latest":null}}`} {
		write(pools, text)
		if _, err := d.engine.state(t.Context(), "pools"); err == nil || !strings.Contains(err.Error(), "/is/not/there") {
			t.Errorf("%s is read: %v", text, err)
		}
	}
	// A state that others have written since it was read is not overwritten.
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"t"}],"pending_operations":[{"type":"creating"}]}}}`)
	was, err := d.engine.state(t.Context(), "pools")
	if err != nil {
		t.Fatal(err)
	}
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"u"}]}}}`)
	if err := d.engine.clearPending(t.Context(), "pools", was); err == nil || !strings.Contains(err.Error(), "somebody else has changed the state") {
		t.Errorf("it is overwritten: %v", err)
	}
}

// The end of an engine cancels what its provider does, and nothing of the others'.
func TestEnginesShareNoProvider(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	names := e.Stacks()
	d := &Driver{Environment: e, names: names, engine: &engine{environment: e, ports: map[string]int{}, home: t.TempDir()}, inputs: &inputs{rootURL: e.RootURL}}
	d.options.Client = func(rootURL string) (*client.Client, error) { return client.New(client.Options{RootURL: rootURL}) }
	defer d.Close()
	if err := d.serve(t.Context(), names); err != nil {
		t.Fatal(err)
	}
	if ports := slices.Compact(slices.Sorted(maps.Values(d.engine.ports))); len(ports) != len(names) || ports[0] == 0 {
		t.Errorf("the ports are %v", d.engine.ports)
	}
}

// What a process left that was killed goes after a day; what others have, or may have, stays.
func TestWhatKilledProcessesLeftIsRemoved(t *testing.T) {
	base, dead := t.TempDir(), 1<<30 // no system has that many processes
	old := time.Now().Add(-25 * time.Hour)
	for name, stays := range map[string]bool{fmt.Sprintf("%s%d-1", homePrefix, dead): false, fmt.Sprintf("%s%d-1", homePrefix, os.Getpid()): true, homePrefix + "other": true, "other": true} {
		directory := filepath.Join(base, name)
		if err := errors.Join(os.Mkdir(directory, 0o700), os.WriteFile(filepath.Join(directory, "f"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, age := range []time.Time{time.Now(), old} {
			if err := os.Chtimes(directory, age, age); err != nil {
				t.Fatal(err)
			}
			forgetHomes(base)
			if _, err := os.Stat(directory); (err == nil) != (stays || age != old) {
				t.Errorf("%s of %s: %v", name, age, err)
			}
		}
	}
}

// A process that has ended is not at work, whether somebody has waited for it or not.
func TestWhoIsAlive(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if !alive(pid) {
		t.Error("it is at work")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" {
		for begun := time.Now(); alive(pid); time.Sleep(time.Millisecond) {
			if time.Since(begun) > time.Minute {
				t.Fatal("it has ended, and is taken for alive")
			}
		}
	}
	cmd.Wait()
	if alive(pid) {
		t.Error("it is gone, and is taken for alive")
	}
}

func TestABalancerIsNoPlatform(t *testing.T) {
	for _, c := range []struct {
		err  error
		away bool
	}{
		{&client.Error{StatusCode: 503}, true},
		{&client.Error{StatusCode: 503, Code: "InternalServerError"}, false},
		{&client.Error{StatusCode: 404}, false},
		{errors.New("another"), false},
	} {
		if got := unreachable(fmt.Errorf("asking: %w", c.err)); got != c.away {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}

func TestPulumiThatIsNotThereOrTooOld(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("PATH", directory)
	if _, err := findPulumi(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "no pulumi on PATH: with --install") {
		t.Error(err)
	}
	path := filepath.Join(directory, "pulumi")
	for version, want := range map[string]string{"v3.100.0": "is Pulumi 3.100.0; 3.259.0 or later is needed", "v4.0.0": "is Pulumi 4.0.0", "hello": "is no Pulumi"} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := findPulumi(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", version, err)
		}
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n[ -z \"$PULUMI_ACCESS_TOKEN\" ] && echo v3.260.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PULUMI_ACCESS_TOKEN", "not for us")
	if c, err := findPulumi(t.Context(), Options{}); err != nil || c.path != path {
		t.Errorf("%+v, %v", c, err)
	}
}
