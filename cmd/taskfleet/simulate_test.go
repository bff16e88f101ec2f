//go:build !agent

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const steps = "../../examples/traces/steps.csv"

func TestASimulationIsPrintedForPeopleAndPrograms(t *testing.T) {
	out, errOut, code := command(t, "provisioner", "simulate", steps, "--policy", "reactive,worker-manager", "--json")
	if code != exitOK || errOut != "" {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines for two policies:\n%s", len(lines), out)
	}
	for i, policy := range []string{"reactive", "worker-manager"} {
		var r map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &r); err != nil {
			t.Fatal(err)
		}
		waits, _ := r["wait_s"].(map[string]any)
		for _, name := range []string{"mean", "p50", "p90", "p95", "p99", "max"} {
			if x, is := waits[name].(float64); !is || x <= 0 {
				t.Errorf("%s: wait_s.%s is %v", policy, name, waits[name])
			}
		}
		for _, name := range []string{"tasks", "work_hours", "paid_hours", "overhead", "bound_overhead", "launched", "launched_idle", "api_calls", "throttled", "orphans", "busy_killed"} {
			if _, is := r[name].(float64); !is {
				t.Errorf("%s: %s is %v", policy, name, r[name])
			}
		}
		if r["policy"] != policy || r["tasks"] != 400. {
			t.Errorf("policy %v with %v tasks, want %s with 400", r["policy"], r["tasks"], policy)
		}
	}
	again, _, _ := command(t, "provisioner", "simulate", steps, "--policy", "reactive,worker-manager", "--json")
	if out != again {
		t.Error("the same command prints something else the second time")
	}

	plot := filepath.Join(t.TempDir(), "steps.svg")
	out, errOut, code = command(t, "provisioner", "simulate", steps, "--policy", "reactive,worker-manager", "--plot", plot)
	if code != exitOK || !strings.Contains(out, "overhead 12.60 %") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
	for line := range strings.Lines(out) {
		if utf8.RuneCountInString(line) > 101 {
			t.Errorf("too long a line: %s", line)
		}
	}
	if text, err := os.ReadFile(plot); err != nil || !strings.HasPrefix(string(text), "<svg ") {
		t.Errorf("the plot: %.40s; %v", text, err)
	}
}

func TestASweepMarksTheBestSettings(t *testing.T) {
	out, errOut, code := command(t, "provisioner", "simulate", steps, "--policy", "forecast,ratio", "--sweep")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	rows := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool {
		return !strings.Contains(line, "wait price ") && !strings.Contains(line, "idle ")
	})
	best := slices.DeleteFunc(slices.Clone(rows), func(line string) bool { return !strings.HasPrefix(line, "*") })
	if len(rows) != 14 || len(best) == 0 || len(best) == len(rows) || !strings.HasPrefix(rows[0], "*") {
		t.Errorf("%d settings, %d of them best:\n%s", len(rows), len(best), out)
	}
}

func TestInventedTracesCanBeSimulated(t *testing.T) {
	out, errOut, code := command(t, "provisioner", "trace", "graphs", "--length", "12h", "--rate", "3", "--size", "10")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	file := filepath.Join(t.TempDir(), "graphs.jsonl")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	pool := filepath.Join(t.TempDir(), "pool.yml")
	if err := os.WriteFile(pool, []byte(`
workerPoolId: aws/build
providerId: aws
description: ""
owner: nobody@example.com
emailOnError: false
config:
  maxCapacity: 20
  regions: [{region: eu-central-1}]
  instanceTypes: [{instanceType: m6i.large}, {instanceType: c6i.large}]
  sizing: {policy: ratio}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code = command(t, "provisioner", "simulate", file, "--pool", pool, "--chaos", "--dead", "5%", "--interruptions", "0.2")
	if code != exitOK || !strings.Contains(out, "\nratio ") {
		t.Errorf("exit code %d: %s%s", code, out, errOut)
	}
}
