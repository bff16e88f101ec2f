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

func TestADirectoryOfConfigurationIsMergedByItsEntries(t *testing.T) {
	directory := t.TempDir()
	f := configFlags{}
	f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
	f.file = directory
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(wants ...string) {
		t.Helper()
		_, err := f.load()
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
	fails("no file *.yml is in the directory " + directory)
	write("a.yml", "rootUrl: https://tasks.example.com\ns3: {region: eu-central-1}\n")
	write("b.yml", "# A comment.\nmetricsToken: hunter2\nlogLevel: debug\n")
	write("c.yml", "# Nothing.\n")
	write("d.yml", "")
	write("e.yaml", "lissten: this is another kind of file")
	write(".f.yml", "lissten: this is being written")
	c, err := f.load()
	if err != nil || c.RootURL != "https://tasks.example.com" || c.S3.Region != "eu-central-1" || c.S3.Bucket != "artifacts" || c.MetricsToken != "hunter2" || c.LogLevel != "debug" {
		t.Errorf("%v, %+v", err, c)
	}
	write("c.yml", "logFormat: loud\n")
	fails(filepath.Join(directory, "c.yml") + ":1: logFormat is")
	write("c.yml", "lissten: here\n")
	fails(filepath.Join(directory, "c.yml")+": [1:1]", `unknown field "lissten"`)
	write("c.yml", "logFormat: json\n---\nlogLevel: hunter2\n")
	fails(filepath.Join(directory, "c.yml") + ": has several documents")
	write("c.yml", "metricsToken: hunter2\n")
	fails("metricsToken is in " + filepath.Join(directory, "b.yml") + " and in " + filepath.Join(directory, "c.yml"))
}
