//go:build !agent

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// What docs/mirror.md shows is right: configurations load, the policy allows what
// the mirror does with S3 and nothing else, and commands are there.
func TestWhatTheGuideToTheMirrorShows(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "mirror.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	blocks := func(kind string) (list []string) {
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
			list = append(list, m[1])
		}
		return list
	}
	loaded := 0
	for _, b := range blocks("yaml") {
		if strings.HasPrefix(b, "groups:") {
			continue // of Prometheus
		}
		if !strings.Contains(b, "  regions:\n") { // a part of one
			b += "  regions: [{name: there}]\n"
		}
		file := filepath.Join(t.TempDir(), "taskfleet.yml")
		if err := os.WriteFile(file, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		var f configFlags
		f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
		f.file = file
		if c, err := f.load(); err != nil || c.Mirror == nil {
			t.Errorf("%v in\n%s", err, b)
		}
		loaded++
	}
	if loaded != 3 {
		t.Errorf("%d configurations were loaded", loaded)
	}
	var policy struct {
		Statement []struct{ Action json.RawMessage }
	}
	if err := json.Unmarshal([]byte(blocks("json")[0]), &policy); err != nil {
		t.Fatal(err)
	}
	var allowed []string
	for _, s := range policy.Statement {
		allowed = append(allowed, regexp.MustCompile(`s3:\w+`).FindAllString(string(s.Action), -1)...)
	}
	slices.Sort(allowed)
	need := []string{
		"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetLifecycleConfiguration", "s3:GetObject", "s3:ListBucket", "s3:ListBucketMultipartUploads",
		"s3:ListMultipartUploadParts", "s3:PutLifecycleConfiguration", "s3:PutObject",
	}
	if allowed = slices.Compact(allowed); !slices.Equal(allowed, need) {
		t.Errorf("the policy allows\n%q\nand the mirror needs\n%q", allowed, need)
	}
	for _, line := range regexp.MustCompile("taskfleet mirror( [a-z]+)+").FindAllString(text, -1) {
		words := strings.Fields(line)
		if cmd, _, err := newMirrorCommand().Find(words[2:]); err != nil || cmd.Name() == "mirror" {
			t.Errorf("there is no command %q: %v", line, err)
		}
	}
}
