//go:build unix

package infra_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An account's secrets are files: VALUES/NAME is the current value of the secret whose ARN ends with NAME, VALUES/NAME#VERSION that of a version.
const awsCommand = `#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
  --secret-id) secret=${2##*/} ;;
  --version-id) secret=$secret#$2 ;;
  esac
  shift
done
echo "a warning" >&2
if [ -f "$VALUES/$secret" ]; then exec cat "$VALUES/$secret"; fi
echo "An error occurred (ResourceNotFoundException) when calling the GetSecretValue operation: Secrets Manager can't find the specified secret${NOTHING-" value for staging label: AWSCURRENT"}." >&2
exit 254
`

// The script that brings the servers their files is run as it is, but for where the files are. It is not run beside other tests: a
// program that was just written cannot be run while a process that one of them is starting still has it open.
func TestServersGetTheirConfigurationAsFiles(t *testing.T) {
	text, err := os.ReadFile("modules/service/files.sh")
	if err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/"
	run := func(t *testing.T, more string, values map[string]string, environment ...string) (root, said string) {
		t.Helper()
		root = t.TempDir()
		script := string(text)
		for _, directory := range []string{"etc", "var", "tmp"} {
			for _, of := range []string{"lib/", ""} {
				script = strings.ReplaceAll(script, " /"+directory+"/"+of+"taskfleet", " "+root+"/"+directory)
			}
			if err := os.Mkdir(filepath.Join(root, directory), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		values = maps.Clone(values)
		values["db-AbCdEf"] = `{"username":"u","password":"p"}`
		if err := os.Mkdir(filepath.Join(root, "values"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, value := range values {
			if err := os.WriteFile(filepath.Join(root, "values", name), []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(root, "aws"), []byte(awsCommand), 0o700); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "sh", "-c", script)
		command.Env = append([]string{
			"PATH=" + root + ":" + os.Getenv("PATH"), "VALUES=" + root + "/values", fmt.Sprintf("OWNER=%d", os.Getuid()), "REFRESH_SECONDS=1000",
			"CONFIGURATION=logFormat: json\n", "MORE_CONFIGURATION=" + more, "FILES=server.json=" + arn + "server-AbCdEf",
			"DATABASE_SECRET=" + arn + "db-AbCdEf", "DATABASE_PLACE=db.example.com/taskfleet", "DATABASE_CA_PEM=certificates",
		}, environment...)
		var errOut bytes.Buffer
		command.Stderr = &errOut
		command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it sleeps in a process of its own
		command.WaitDelay = time.Minute
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- command.Wait() }()
		for end := time.Now().Add(5 * time.Minute); ; {
			if exists(filepath.Join(root, "etc", "ready")) {
				break
			}
			select {
			case err := <-ended:
				return root, fmt.Sprintf("%v: %s", err, errOut.String())
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(end) {
				t.Fatal("it is not ready after five minutes")
			}
		}
		// It may be about to sleep, and what sleeps holds its output.
		if err := syscall.Kill(-command.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-ended
		return root, errOut.String()
	}
	values := map[string]string{
		"server-AbCdEf": "{}", "configuration-platform-AbCdEf": "notify: {emailLimit: 2}", "configuration-platform-AbCdEf#v1": "notify: {emailLimit: 1}",
	}
	more := arn + "configuration-platform-AbCdEf#v1 " + arn + "configuration-mirror-AbCdEf"
	root, said := run(t, more, values)
	for name, want := range map[string]string{
		"conf.d/infra.yml":                         "logFormat: json\n\n",
		"conf.d/configuration-platform-AbCdEf.yml": "notify: {emailLimit: 1}\n", // though there is a later one
		"conf.d/configuration-mirror-AbCdEf.yml":   "\n",                        // which has no value yet
		"secrets/server.json":                      "{}\n",
		"secrets/database.json":                    `{"url":"postgres://db.example.com/taskfleet","username":"u","password":"p"}` + "\n",
	} {
		path := filepath.Join(root, "etc", name)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, %q, want %q", name, err, got, want)
		} else if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o400 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(root, "etc", "conf.d", "*")); err != nil || len(left) != 3 {
		t.Errorf("%v, %v", left, err)
	}
	if !strings.Contains(said, "configuration-mirror-AbCdEf has no value yet") || strings.Contains(said, "emailLimit") {
		t.Errorf("it said:\n%s", said)
	}
	root, _ = run(t, arn+"configuration-platform-AbCdEf", values)
	if got, err := os.ReadFile(filepath.Join(root, "etc/conf.d/configuration-platform-AbCdEf.yml")); err != nil || string(got) != "notify: {emailLimit: 2}\n" {
		t.Errorf("%v, %q", err, got)
	}
	// A secret, or a version, that is not there is no reason to start without what it should say.
	for _, more := range []string{arn + "configuration-mirror-AbCdEf", arn + "configuration-platform-AbCdEf#v9"} {
		root, said := run(t, more, values, "NOTHING=")
		if exists(filepath.Join(root, "etc", "ready")) || !strings.Contains(said, "can't find the specified secret") {
			t.Errorf("%s: %s", more, said)
		}
	}
}
