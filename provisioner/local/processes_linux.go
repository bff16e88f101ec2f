package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// endAll kills every process that carries cookie in its environment, their
// descendants, and the members of session (0: none), and waits until none is
// left. They are all stopped before any is killed: one that still ran could
// fork, and whose parent is dead nobody can tell where it belongs.
func endAll(ctx context.Context, cookie string, session int) error {
	var all []int
	for {
		pids, err := marked([]byte(cookie), session)
		if err != nil {
			return err
		}
		fresh := slices.DeleteFunc(pids, func(pid int) bool { return slices.Contains(all, pid) })
		all = append(all, fresh...)
		if err := sendAll(fresh, syscall.SIGSTOP); err != nil {
			return err
		}
		if len(fresh) > 0 {
			continue
		}
		if err := sendAll(all, syscall.SIGKILL); err != nil {
			return err
		}
		left := slices.DeleteFunc(slices.Clone(all), func(pid int) bool { _, _, lives := parents(pid); return !lives })
		if len(left) == 0 {
			return nil
		}
		select { // the killed take a moment to go
		case <-ctx.Done():
			return fmt.Errorf("processes %v are still there after they were killed: %w", left, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func sendAll(pids []int, s syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("sending %v to pid %d: %w", s, pid, err)
		}
	}
	return nil
}

// marked finds the processes that belong to a worker. It reads /proc, which
// takes some ten microseconds a process, and is done only when a worker ends.
// It looks again while a process is just changing its program, and with that
// its environment: it may be a worker that a server started as it died.
func marked(cookie []byte, session int) (pids []int, err error) {
	for range 100 {
		var changing bool
		if pids, changing, err = look(cookie, session); err != nil || !changing {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return pids, err
}

func look(cookie []byte, session int) (pids []int, changing bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, false, fmt.Errorf("looking for the processes of a worker: %w", err)
	}
	children := map[int][]int{}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		ppid, sid, ok := parents(pid)
		if !ok {
			continue // gone, or a zombie: nothing that runs
		}
		children[ppid] = append(children[ppid], pid)
		changing = changing || ppid != kthreadd && pid != kthreadd && blank(pid)
		if session != 0 && sid == session || carries(pid, cookie) {
			found = append(found, pid)
		}
	}
	seen := map[int]bool{}
	for len(found) > 0 {
		pid := found[0]
		found = found[1:]
		if !seen[pid] {
			seen[pid] = true
			pids = append(pids, pid)
			found = append(found, children[pid]...)
		}
	}
	return pids, changing, nil
}

// kthreadd is the parent of the kernel's threads.
const kthreadd = 2

// blank reports whether a process has neither arguments nor environment: so it
// looks in the middle of an exec.
func blank(pid int) bool {
	for _, name := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name)); err != nil || len(text) > 0 {
			return false
		}
	}
	return true
}

// parents reads the parent and the session of a process that is not a zombie.
func parents(pid int) (ppid, sid int, ok bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, false
	}
	// pid (name) state ppid pgrp session …; the name may contain anything
	_, rest, found := bytes.Cut(text, []byte(") "))
	if i := bytes.LastIndex(text, []byte(") ")); i >= 0 {
		rest = text[i+2:]
	}
	var state string
	var pgrp int
	if _, err := fmt.Sscan(string(rest), &state, &ppid, &pgrp, &sid); !found || err != nil {
		return 0, 0, false
	}
	return ppid, sid, state != "Z" && state != "X"
}

func carries(pid int, cookie []byte) bool {
	for v := range bytes.SplitSeq(environment(pid), []byte{0}) {
		if bytes.Equal(v, cookie) {
			return true
		}
	}
	return false
}

// environment is that of a process; none where it is another user's, or gone.
// In the middle of execve there is none to see for some microseconds, or longer
// where the machine is busy, so that is waited for; not for ever, lest a process
// that is stuck keeps all others.
func environment(pid int) []byte {
	const longest = time.Second
	complete := false
	for wait := 50 * time.Microsecond; ; wait *= 2 {
		env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err != nil || len(env) > 0 || complete || wait > longest {
			return env
		}
		if complete = !replaced(pid); !complete {
			time.Sleep(wait)
		}
	}
}

// replaced reports whether a process has given up its old program and has not
// been given its new environment yet.
func replaced(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const vsize, envEnd = 23 - 3, 51 - 3 // as proc(5) counts, from the state, which is the third
	if len(fields) <= envEnd {
		return false
	}
	// Threads of the kernel and processes that are ending have no memory at all.
	return string(fields[vsize]) != "0" && string(fields[envEnd]) == "0"
}
