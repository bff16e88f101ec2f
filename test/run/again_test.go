package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWhichFailuresAreTriedAgain(t *testing.T) {
	const ok = "ok  \tmod/a\t0.1s\n"
	for _, c := range []struct {
		name, printed, want string
		again               bool
	}{
		{"none", ok, "[]", false},
		{"two tests", ok + "--- FAIL: TestA (0.01s)\n    --- FAIL: TestA/sqlite (0.00s)\n        a_test.go:3: no\n--- FAIL: TestB (1.0s)\nFAIL\nFAIL\tmod/b\t1.2s\n" + ok + "FAIL\n",
			"[{mod/b [TestA TestB]}]", true},
		{"of two packages", "--- FAIL: TestA (0.01s)\nFAIL\nFAIL\tmod/a\t1.2s\n--- FAIL: TestA (0.01s)\nFAIL\nFAIL\tmod/b\t1.2s\n", "[{mod/a [TestA]} {mod/b [TestA]}]", true},
		{"many", "--- FAIL: TestA (0s)\n--- FAIL: TestB (0s)\n--- FAIL: TestC (0s)\n--- FAIL: TestD (0s)\nFAIL\nFAIL\tmod/a\t1.2s\n", "[{mod/a [TestA TestB TestC TestD]}]", false},
		{"a race", "==================\nWARNING: DATA RACE\n--- FAIL: TestA (0s)\n    testing.go:1: race detected during execution of test\nFAIL\nFAIL\tmod/a\t1.2s\n", "[{mod/a [TestA]}]", false},
		{"a panic", "--- FAIL: TestA (0s)\npanic: no [recovered]\nFAIL\tmod/a\t1.2s\n", "[{mod/a [TestA]}]", false},
		{"out of time beside a failure", "--- FAIL: TestA (0s)\nFAIL\nFAIL\tmod/a\t1.2s\npanic: test timed out after 30m0s\nFAIL\tmod/b\t1800s\n", "[{mod/a [TestA]} {mod/b []}]", false},
		{"it does not build", "--- FAIL: TestA (0s)\nFAIL\nFAIL\tmod/a\t1.2s\nFAIL\tmod/b [build failed]\n", "[{mod/a [TestA]} {mod/b []}]", false},
		{"killed after a failure", "--- FAIL: TestA (0s)\nsignal: killed\nFAIL\tmod/a\t1.2s\n", "[{mod/a [TestA]}]", false},
		{"ended by itself", "FAIL\tmod/a\t1.2s\n", "[{mod/a []}]", false},
	} {
		f := &failures{}
		if _, err := io.Copy(f, iotest.OneByteReader(strings.NewReader(c.printed))); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(f.packages); got != c.want || f.mayPass() != c.again {
			t.Errorf("%s: %s, tried again: %v; want %s, %v", c.name, got, f.mayPass(), c.want, c.again)
		}
	}
}
