package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticks per second in /proc: what the kernel shows to programs is always in
// hundredths, whatever its own clock.
const userHZ = 100

// cpuTime is what processes and all that they have started have used so far. A
// server of databases has a process for each connection, and one that has ended
// counts by what its parent was told of it.
func cpuTime(pids []int) (total time.Duration, err error) {
	if len(pids) == 0 {
		return 0, nil
	}
	children, err := families()
	if err != nil {
		return 0, err
	}
	own := len(pids)
	for i := 0; i < len(pids); i++ {
		pid := pids[i]
		f, err := stat(pid)
		if i >= own && errors.Is(err, fs.ErrNotExist) {
			continue // it has ended since
		}
		if err != nil {
			return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
		}
		for _, ticks := range f[11:15] { // utime, stime, and those of children that have ended
			n, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
			}
			total += time.Duration(n) * time.Second / userHZ
		}
		pids = append(pids, children[pid]...)
	}
	return total, nil
}

// families are the children of each process.
func families() (map[int][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		f, err := stat(pid)
		if err != nil {
			continue // it has ended
		}
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("the parent of process %d: %w", pid, err)
		}
		children[parent] = append(children[parent], pid)
	}
	return children, nil
}

// stat are the fields of /proc/PID/stat that follow the program's name.
func stat(pid int) ([]string, error) {
	file := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("%s has too few fields", file)
	}
	return fields, nil
}
