package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticks per second in /proc: what the kernel shows to programs is always in
// hundredths, whatever its own clock.
const userHZ = 100

// cpuTime is what processes have used so far, children not counted.
func cpuTime(pids []int) (total time.Duration, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
		}
		// The name of the program, in parentheses, may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("the CPU time of process %d: /proc/%d/stat has too few fields", pid, pid)
		}
		for _, f := range fields[11:13] { // utime, stime
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("the CPU time of process %d: %w", pid, err)
			}
			total += time.Duration(n) * time.Second / userHZ
		}
	}
	return total, nil
}
