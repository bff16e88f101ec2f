//go:build unix && !agent && !server

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/stacks"
)

// The test that kills taskfleet stacks runs it as a process, which is the test's binary.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "stacks" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
}

// A stacksTest is an environment, by the example, of a platform that runs.
type stacksTest struct {
	*testing.T
	directory string
	client    *client.Client
}

func newStacksTest(t *testing.T) *stacksTest {
	t.Helper()
	pulumi := os.Getenv("TASKFLEET_TEST_PULUMI")
	if pulumi == "" {
		var err error
		if pulumi, err = exec.LookPath("pulumi"); err != nil {
			t.Fatal("pulumi must be on PATH, or named by TASKFLEET_TEST_PULUMI; make test builds one")
		}
	}
	p := startReal(t)
	t.Setenv("PATH", filepath.Dir(pulumi)+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv(stacks.PassphraseVariable, "correct horse")
	t.Setenv("TASKCLUSTER_ROOT_URL", p.RootURL)
	t.Setenv("TASKCLUSTER_CLIENT_ID", p.Root.ClientID)
	t.Setenv("TASKCLUSTER_ACCESS_TOKEN", p.Root.AccessToken)
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	s := &stacksTest{t, filepath.Join(t.TempDir(), "local"), core}
	expect(t, exitOK, "wrote an example", "stacks", "init", s.directory)
	s.replace("environment.yml", "http://127.0.0.1:8080", p.RootURL)
	t.Setenv("DEPLOY_KEY", `{"key": "hunter2-is-secret"}`)
	s.replace("schedules/hooks.yml", "project/example/deploy-key: {}", "project/example/deploy-key: {valueFrom: {env: DEPLOY_KEY}}")
	return s
}

// replace changes a file of the environment.
func (s *stacksTest) replace(name, from, to string) {
	s.Helper()
	file := filepath.Join(s.directory, name)
	text, err := os.ReadFile(file)
	if err != nil {
		s.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		s.Fatalf("%s has no %q", name, from)
	}
	s.write(name, strings.Replace(string(text), from, to, 1))
}

func (s *stacksTest) write(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.directory, name), []byte(text), 0o644); err != nil {
		s.Fatal(err)
	}
}

// must runs taskfleet stacks, which has to end with code and say all of the parts. It returns what it said.
func (s *stacksTest) must(code int, line string, parts ...string) string {
	s.Helper()
	args := append(strings.Fields("stacks "+line), "--dir", s.directory)
	out, errOut, got := command(s.T, args...)
	text := out + errOut
	if got != code {
		s.Fatalf("taskfleet %s ended with %d, and not %d:\n%s", strings.Join(args, " "), got, code, text)
	}
	for _, p := range parts {
		if !strings.Contains(text, p) {
			s.Errorf("taskfleet %s does not say %q:\n%s", strings.Join(args, " "), p, text)
		}
	}
	s.hasNoSecret(strings.Join(args, " "), text)
	return text
}

func (s *stacksTest) hasNoSecret(what, text string) {
	s.Helper()
	for _, secret := range []string{"correct horse", "hunter2"} {
		if strings.Contains(text, secret) {
			s.Errorf("%s tells %q:\n%s", what, secret, text)
		}
	}
}

func (s *stacksTest) role(id string) *auth.GetRoleResponse {
	s.Helper()
	r, err := auth.New(s.client).Role(s.Context(), id)
	if client.IsNotFound(err) {
		return nil
	} else if err != nil {
		s.Fatal(err)
	}
	return r
}

func (s *stacksTest) makeRole(id, description string) {
	s.Helper()
	if _, err := auth.New(s.client).CreateRole(s.Context(), id, &auth.CreateRoleRequest{Description: description, Scopes: client.List[string]{}}); err != nil {
		s.Fatal(err)
	}
}

var nextLine = regexp.MustCompile(`up --dir \S+ (\S+) --digest (\S+)`)

// The whole life of an environment, with the real engine, on one platform.
func TestPulumiFromPreviewToDestroy(t *testing.T) {
	s := newStacksTest(t)

	// Previewed, changed since, previewed again, brought up: as the same by definitions alone.
	text := s.must(exitOK, "preview", "9 to create; 0 unchanged", "+ Role=project:example:builds", `document: (hidden)`, "+ Hook=project-example/nightly")
	next := nextLine.FindStringSubmatch(text)
	s.must(exitFailed, "up "+next[1]+" --digest sha256:0", "what was looked at was another one")
	s.replace("access/access.yml", "CI of the example", "CI of ours")
	s.must(exitFailed, "up "+next[1]+" --digest "+next[2], "is stale, and nothing was done", "access/access.yml has changed")
	s.replace("access/access.yml", "CI of ours", "CI of the example")
	s.must(exitOK, "up "+next[1]+" --digest "+next[2], "created     Role=project:example:builds", "done after", "9 of 9 changes")
	s.must(exitFailed, "up "+next[1]+" --digest "+next[2], "is stale, and nothing was done", "the state of stack access has changed")
	s.must(exitOK, "preview", "No changes; 9 unchanged", "Nothing is to be done.")
	s.sameAsByFiles()
	err := filepath.WalkDir(filepath.Join(s.directory, ".stacks"), func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(file)
		s.hasNoSecret(file, string(text))
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// By other hands.
	if _, err := auth.New(s.client).UpdateRole(t.Context(), "project:example:builds", &auth.CreateRoleRequest{Description: "theirs", Scopes: client.List[string]{}}); err != nil {
		t.Fatal(err)
	}
	s.makeRole("project:example:stray", "")
	s.must(exitDrift, "drift --stack access", "1 thing of 4 changed by others", "changed  Role=project:example:builds", `-> "theirs"`, "access  Role=project:example:stray")
	s.must(exitFailed, "up --stack access", "nobody can be asked here, and --yes is not given")
	s.must(exitOK, "refresh --stack access", "1 thing had changed")
	s.must(exitOK, "up --stack access --prune --yes", "1 to change, 1 to delete", "!! deletes Role=project:example:stray", "changed     Role=project:example:builds", "strays      deleted, 1")
	if r := s.role("project:example:builds"); r.Description != "What builds of the example may do." || s.role("project:example:stray") != nil {
		t.Errorf("after up the role is %+v", r)
	}
	s.must(exitOK, "drift --stack access", "no drift: 4 things")

	// A failure in the middle: what is done is kept, and the next up does the rest.
	s.replace("pools/pools.yml", "providerId: local", "providerId: nowhere")
	s.replace("access/access.yml", "CI of the example", "CI of ours")
	s.must(exitFailed, "up --stack access --stack pools --yes", "access      done, 1 change", "pools       failed", "WorkerPool=proj-example/build: ", "1 of 2 done, and in the states. taskfleet stacks up")
	s.replace("pools/pools.yml", "providerId: nowhere", "providerId: local")
	s.replace("pools/pools.yml", "maxCapacity: 2", "maxCapacity: 3")
	s.must(exitOK, "up --stack access --stack pools --yes", "1 to change; 4 unchanged", "config.maxCapacity  2 -> 3", "pools       done, 1 change")

	// What is there already, and differs, is refused, or taken over; what leaves the files goes only if it is managed.
	s.makeRole("project:example:theirs", "theirs")
	s.write("access/more.yml", "managed: ['Role=elsewhere']\nroles: {project:example:theirs: {description: ours}, elsewhere: {}}\n")
	s.must(exitViolated, "preview --stack access", "REFUSED (1)", "Role=project:example:theirs", `"theirs" -> "ours"`, "preview with --adopt")
	s.must(exitOK, "up --stack access --adopt --yes", "(is on the platform already, and is changed)", "access      done, 2 changes")
	s.write("access/more.yml", "{}\n")
	s.must(exitOK, "up --stack access --yes", "1 to delete, 1 to forget", "- Role=project:example:theirs", "o Role=elsewhere  (stays on the platform", "forgotten   Role=elsewhere", "kept on the platform, as no managed pattern matches it: Role=elsewhere")
	if s.role("elsewhere") == nil || s.role("project:example:theirs") != nil {
		t.Error("it is not what is managed that was deleted")
	}

	// What is there is taken in, by definitions that are written.
	s.makeRole("old:a", "from before")
	s.must(exitOK, "import", "0 things of ", "left out, as no managed pattern of the environment matches them")
	s.must(exitOK, "import --only Role=old:.* --yes", "  = Role=old:a", "adopted     Role=old:a", "access      done, 1 change")
	const section = "pools:\n  files: [pools]\n"
	s.replace("environment.yml", section, "")
	s.must(exitOK, "preview --stack access", "No changes; 5 unchanged", "stack pools has things (1), and environment.yml has no section pools any more", "taskfleet stacks destroy --dir "+s.directory+" --stack pools")
	s.must(exitDrift, "drift --stack access", "no section pools any more", "0 things drifted, 0 strays, 1 stack without a section")
	s.replace("environment.yml", "schedules:", section+"schedules:")

	// The engine, which notices that a secret is another one, would tell both.
	s.replace("schedules/hooks.yml", "Builds the example every night.", "Builds it every night.")
	next = nextLine.FindStringSubmatch(s.must(exitOK, "preview --stack schedules", "1 to change; 1 unchanged"))
	t.Setenv("DEPLOY_KEY", `{"key": "hunter2-is-another"}`)
	s.must(exitFailed, "up "+next[1]+" --digest "+next[2], "Secret=project/example/deploy-key: it, or a value that its definition takes from elsewhere, has changed since the preview", "0 of 1 done")
	s.must(exitOK, "outputs --stack pools", `pools.workerPools = ["proj-example/build"]`)
	s.must(exitOK, "history --stack pools", "failed", "succeeded", "preview 2")
	saved := filepath.Join(t.TempDir(), "states.json")
	if err := os.WriteFile(saved, []byte(s.must(exitOK, "export")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must(exitOK, "import --state "+saved+" --stack pools --yes", "the state of stack pools is the one in")
	s.must(exitFailed, "import --state "+saved+" --stack mirror", "has no section mirror")

	s.must(exitFailed, "destroy --destroy another", "is not the name of the environment: it is local")
	s.must(exitOK, "destroy --destroy local", "!!! DELETES Secret=project/example/deploy-key", "!!! DELETES WorkerPool=proj-example/build", "done after")
	s.must(exitOK, "destroy", "there is nothing to destroy")
	for _, id := range []string{"project:example:builds", "hook-id:project-example/nightly", "old:a"} {
		if s.role(id) != nil {
			t.Errorf("%s is left", id)
		}
	}
	if out := expect(t, exitOK, "", "resources", "export", "--only", "WorkerPool=proj-example/.*", "--only", "Hook=.*", "--only", "Secret=.*", "--only", "Client=project/.*", "--only", "DenylistAddress=.*"); strings.Contains(out, "\nworkerPools:") || strings.Contains(out, "example/") && !strings.Contains(out, "managed:") {
		t.Errorf("left is\n%s", out)
	}
}

// sameAsByFiles makes another platform as the definitions say, by taskfleet resources, and compares what both have.
func (s *stacksTest) sameAsByFiles() {
	s.Helper()
	by := func(t *testing.T, name string) string {
		file := filepath.Join(t.TempDir(), name)
		expect(t, exitOK, "", "resources", "export", "-o", file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ = bytes.Cut(text, []byte("\n")) // the first line names the platform
		return string(text)
	}
	stacks := by(s.T, "stacks.yml")
	s.Run("the same by files", func(t *testing.T) {
		p := startReal(t)
		t.Setenv("TASKCLUSTER_ROOT_URL", p.RootURL)
		t.Setenv("TASKCLUSTER_ACCESS_TOKEN", p.Root.AccessToken)
		expect(t, exitOK, "7 changes made", "resources", "apply", "--yes", filepath.Join(s.directory, "access"), filepath.Join(s.directory, "pools"), filepath.Join(s.directory, "schedules"))
		if files := by(t, "files.yml"); files != stacks || !strings.Contains(files, "project:example:builds") {
			t.Errorf("by stacks the platform has\n%s\nand by files\n%s", stacks, files)
		}

		// The example of the Terraform provider, whose tests compare it with the same definitions.
		t.Setenv("NIGHTLY_KEY", `{"key": "hunter2-of-the-night"}`)
		const definitions = "../../examples/terraform/resources.yml"
		before := by(t, "before.yml")
		expect(t, exitOK, "8 changes made", "resources", "apply", "--yes", definitions)
		wanted := by(t, "wanted.yml")
		nothing := filepath.Join(t.TempDir(), "nothing.yml")
		if err := os.WriteFile(nothing, []byte("managed: ['Role=(project:|hook-id:project-)nightly.*', 'Client=project/nightly/.*', 'Secret=project/nightly/.*', "+
			"'WorkerPool=proj-nightly/.*', 'Hook=project-nightly/.*', 'DenylistAddress=email/nobody.*']\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		expect(t, exitOK, "", "resources", "apply", "--yes", nothing)
		if after := by(t, "after.yml"); after != before || wanted == before {
			t.Fatalf("there was\n%s\nthen\n%s\nand then\n%s", before, wanted, after)
		}
		text, err := os.ReadFile(definitions)
		if err != nil {
			t.Fatal(err)
		}
		other := &stacksTest{t, t.TempDir(), nil}
		other.write("environment.yml", "name: nightly\nrootUrl: "+p.RootURL+"\nbackend: file://./.stacks/state\nsecrets: passphrase\n"+
			"access: {files: [access.yml]}\npools: {files: [pools.yml]}\nschedules: {files: [schedules.yml]}\n")
		files := map[string]string{}
		file := ""
		for line := range strings.Lines(string(text)) {
			switch key, _, _ := strings.Cut(line, ":"); key {
			case "roles", "clients", "denylist":
				file = "access.yml"
			case "workerPools":
				file = "pools.yml"
			case "hooks", "secrets":
				file = "schedules.yml"
			}
			files[file] += line
		}
		for _, name := range []string{"access.yml", "pools.yml", "schedules.yml"} {
			other.write(name, files[name])
		}
		other.must(exitOK, "up --yes", "8 to create", "done after")
		if byStacks := by(t, "by-stacks.yml"); byStacks != wanted {
			t.Errorf("by files there is\n%s\nand by stacks\n%s", wanted, byStacks)
		}
	})
}

// process runs taskfleet stacks as a process, until the server is being restarted.
func (s *stacksTest) process(line string) (*exec.Cmd, *bytes.Buffer) {
	s.Helper()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], append(strings.Fields("stacks "+line), "--dir", s.directory)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "TMPDIR="+s.TempDir()) // what is killed leaves its work files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	deadline := time.Now().Add(soon)
	for {
		if _, err := os.Stat(filepath.Join(s.directory, "restarting")); err == nil {
			return cmd, &out
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			cmd.Wait()
			s.Fatalf("it does not restart the server:\n%s", out.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Whatever ends an up in the middle, the next one does the rest.
func TestPulumiThatIsCutOff(t *testing.T) {
	s := newStacksTest(t)
	// A restart that takes as long as a file is there.
	hold := filepath.Join(s.directory, "hold")
	s.replace("environment.yml", "restart: []", fmt.Sprintf("restart: [sh, -c, 'touch %s/restarting; while [ -e %s ]; do sleep 0.05; done']", s.directory, hold))
	s.write("hold", "")

	// Killed together with the engine: its lock stays.
	cmd, out := s.process("up --stack platform --yes")
	locks, err := filepath.Glob(filepath.Join(s.directory, ".stacks/state/.pulumi/locks/organization/taskfleet-platform/local/*.json"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("locks are %v, %v\n%s", locks, err, out)
	}
	text, err := os.ReadFile(locks[0])
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(regexp.MustCompile(`"pid":(\d+)`).FindString(string(text)), `"pid":%d`, &pid); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := errors.Join(syscall.Kill(pid, syscall.SIGKILL), syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	os.Remove(hold)
	s.must(exitFailed, "up --stack platform --yes", "stack platform is locked: by ", fmt.Sprintf("(pid %d)", pid), "taskfleet stacks cancel --dir "+s.directory+" --stack platform")
	s.must(exitFailed, "cancel", fmt.Sprintf("(pid %d)", pid), "no such process is on this machine any more", "--yes is not given")
	s.must(exitOK, "cancel --yes", "unlocked")
	s.must(exitOK, "cancel", "no stack is locked")
	s.must(exitOK, "up --stack platform --yes", "platform    done")
	s.must(exitOK, "preview --stack platform", "No changes; 2 unchanged")

	// Killed alone: the engine notices, writes the state, and ends by itself.
	s.write("hold", "")
	os.Remove(filepath.Join(s.directory, "restarting"))
	s.replace("configuration/platform.yml", "50", "60")
	cmd, _ = s.process("up --stack platform --yes")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	os.Remove(hold)
	for deadline := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		if locks, _ = filepath.Glob(filepath.Join(filepath.Dir(locks[0]), "*.json")); len(locks) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the engine does not end")
		}
	}
	s.must(exitOK, "up --stack platform --yes", "platform    done")

	// Interrupted: in good order.
	s.write("hold", "")
	os.Remove(filepath.Join(s.directory, "restarting"))
	s.replace("configuration/platform.yml", "60", "70")
	cmd, out = s.process("up --stack platform --yes")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "platform    interrupted") || !strings.Contains(out.String(), "does the rest") {
		t.Errorf("interrupted, it ends with %v:\n%s", err, out)
	}
	os.Remove(hold)
	s.must(exitOK, "up --stack platform --yes", "platform    done")
	s.must(exitOK, "preview --stack platform", "No changes; 2 unchanged")
}
