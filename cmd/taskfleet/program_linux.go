//go:build !agent

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// forgetProgram gives back the pages of the program that are mapped. After a start that is nearly all of it: every
// package has been initialised, and the kernel maps what lies around each page that is touched. What is used from here on
// is mapped again, from the cache of files, at some hundred page faults. They count for the resident memory of the
// process, so of two programs the larger one would seem to need more, for all the commands that it is not running. That
// it may not work changes nothing else.
func forgetProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		// Such as "00400000-01db6000 r-xp 00000000 fe:00 1234    /usr/bin/taskfleet": see proc_pid_maps(5).
		var start, end uintptr
		var access string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &access); n < 3 || !strings.HasSuffix(lines.Text(), " "+program) {
			continue
		}
		if access == "r-xp" || access == "r--p" { // what may have been written to has nowhere else to be
			unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}
