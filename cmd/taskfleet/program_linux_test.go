//go:build !agent

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestPagesOfTheProgramAreGivenBack(t *testing.T) {
	before := residentFile(t)
	forgetProgram()
	if after := residentFile(t); after >= before {
		t.Errorf("%d KiB of files are resident, of %d before", after, before)
	}
}

// residentFile is how much of the process's memory is that of files, in KiB.
func residentFile(t *testing.T) (size int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(line, &size); err != nil {
		t.Fatal(err)
	}
	return size
}
