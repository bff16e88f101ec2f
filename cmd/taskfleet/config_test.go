//go:build !agent

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestAMistakeInTheConfigurationIsToldWithItsLineAndWithoutSecrets(t *testing.T) {
	const around = "metricsToken: hunter2\n%s\ndatabase: postgres://u:hunter2@h/n\n"
	for entry, want := range map[string]string{
		"listen: here":                    ":2: listen is",
		"rootUrl: https://example.com/":   ":2: rootUrl is",
		"s3: {secretAccessKey: hunter2}":  ":2: s3 needs",
		"s3: {bucket: ''}":                ":2: s3.bucket must",
		"logLevel: loud\nlogFormat: loud": ":3: logFormat is",
		"lissten: here":                   `[2:1] unknown field "lissten"`,
		"data: [hunter2]":                 "[2:7] cannot unmarshal",
		`data: "hunter2`:                  "[2:7] could not find end",
	} {
		file := filepath.Join(t.TempDir(), "taskfleet.yml")
		if err := os.WriteFile(file, []byte(strings.Replace(around, "%s", entry, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		f := configFlags{}
		f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
		f.file = file
		_, err := f.load()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %s", entry, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a secret leaks: %v", entry, err)
		}
	}
}
