//go:build !agent && !server

package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks"
)

// spans are what may be a command in a text: a line of an example, or what is set as code.
var spans = regexp.MustCompile("(?m)^    (?:\\$ )?(taskfleet .*)$|`(taskfleet [^`]*)`")

// TestCommandsOfTheGuides looks whether commands that the guides name are there, with their flags.
func TestCommandsOfTheGuides(t *testing.T) {
	for _, name := range []string{"deploy.md", "operations.md", "backup.md", "upgrade.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range spans.FindAllStringSubmatch(string(text), -1) {
			line := strings.TrimSpace(m[1] + m[2])
			if program, _, _ := strings.Cut(line, "  #"); !strings.HasPrefix(program, "taskfleet: ") {
				found++
				checkCommand(t, name, regexp.MustCompile(`[|>(] *|&&|;`).Split(program, 2)[0])
			}
		}
		if found == 0 {
			t.Errorf("no command is found in %s", name)
		}
	}
}

func checkCommand(t *testing.T, guide, line string) {
	t.Helper()
	words := strings.Fields(line)[1:]
	root := newRootCommand()
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(words)
	if err != nil {
		t.Errorf("%s: %s: %v", guide, line, err)
		return
	}
	// A group takes no arguments: what is left would have to be a command. The log says "taskfleet is up".
	if len(rest) > 0 && cmd.HasSubCommands() && !strings.HasPrefix(rest[0], "-") && rest[0] != "is" {
		t.Errorf("%s: %s: %s has no command %s", guide, line, cmd.CommandPath(), rest[0])
	}
	for _, word := range rest {
		if word == "--" {
			return // the rest is a task's
		}
		flag := regexp.MustCompile(`^(--?)([a-z][a-z-]*)`).FindStringSubmatch(word)
		if flag != nil && findFlag(cmd, flag[1], flag[2]) == nil {
			t.Errorf("%s: %s: %s has no flag %s", guide, line, cmd.CommandPath(), flag[0])
		}
	}
}

func findFlag(cmd *cobra.Command, dashes, name string) *pflag.Flag {
	cmd.InitDefaultHelpFlag()
	if dashes == "-" {
		return cmd.Flags().ShorthandLookup(name[:1])
	}
	return cmd.Flag(name)
}

// TestFilesOfTheDeployGuide looks whether the environment and the pool that the guide shows are good.
func TestFilesOfTheDeployGuide(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "deploy.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("the guide shows %d files, not an environment and a pool", len(blocks))
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"environment.yml":            strings.ReplaceAll(blocks[0][1], "@sha256:…", "@sha256:"+strings.Repeat("0", 64)),
		"configuration/platform.yml": "", "access/a.yml": "", "pools/pools.yml": blocks[1][1], "schedules/a.yml": "",
	} {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stacks.Load(dir); err != nil {
		t.Error(err)
	}

	set, err := resource.Load(nil, filepath.Join(dir, "pools"))
	if err != nil {
		t.Fatal(err)
	}
	c := Config{RootURL: "https://tasks.example.com"}
	p, err := c.openAWS(ProviderConfig{Type: "aws", Cluster: "taskfleet-prod", Regions: []string{"eu-central-1"}, Accounts: []AccountConfig{{ID: cloudAccount}}},
		func(aws.Account, string) aws.Clients { return aws.Clients{} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Definitions) != 1 {
		t.Fatalf("there are %d pools", len(set.Definitions))
	}
	var pool struct{ Config json.RawMessage }
	if err := json.Unmarshal(set.Definitions[0].Document, &pool); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.ParseSettings(pool.Config); err != nil {
		t.Error(err)
	}
	if list, err := p.Parse(pool.Config); err != nil || len(list) != 1 {
		t.Errorf("the pool has %d launch configurations, %v", len(list), err)
	}
}
