package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// Adopt makes this process the parent of all orphans among its descendants, and
// waits for them until ctx ends. It also sees to it that no file this process
// inherited reaches a command, and that commands begin with the usual umask.
func Adopt(ctx context.Context, log *slog.Logger) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans (PR_SET_CHILD_SUBREAPER): %w", err)
	}
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("keeping inherited files from commands: %w", err)
	}
	unix.Umask(0o022)
	if err := family.recognize(); err != nil {
		return fmt.Errorf("looking for children that are there already: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		defer signal.Stop(died)
		for {
			select {
			case <-ctx.Done():
				return
			case <-died:
			}
			if err := reap(); err != nil {
				log.Warn("adopted processes could not be waited for", "err", err)
			}
			select { // a build that makes many orphans is not to cost a look at all processes for each
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return nil
}

// closeOnExec is for the files that were open before this program began. Those
// that it opens have the mark from the beginning.
func closeOnExec() error {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd) // one that is closed by now needs none
		}
	}
	return nil
}

// yielding makes a command, rather than the worker, what the kernel ends when
// the machine runs out of memory.
func yielding(pid int) {
	os.WriteFile(inProc(pid, "oom_score_adj"), []byte("500"), 0) // at worst all is as it was
}

// recognize notes the children that this program had before it was this
// program, as the one that a shell's exec replaces it by may have.
func (r *registry) recognize() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := eachProcess(func(p proc) {
		if p.parent == os.Getpid() {
			r.children[p.pid] = true
		}
	})
	return err
}

// reap waits for the adopted children that have ended.
func reap() error {
	family.mu.Lock()
	defer family.mu.Unlock()
	_, err := eachProcess(func(p proc) {
		if p.parent == os.Getpid() && p.dead && !family.children[p.pid] {
			unix.Wait4(p.pid, nil, unix.WNOHANG, nil) // gone if that fails
		}
	})
	return err
}

// looks is how often to find nothing before it is believed, where the list of
// processes was not complete.
const looks = 5

func (g *Group) terminate() {
	members, _, err := g.members()
	if err != nil {
		return // Kill follows, and says so
	}
	for _, p := range members {
		unix.Kill(p.pid, unix.SIGTERM)
	}
}

func (g *Group) kill(ctx context.Context) error {
	wait := time.Millisecond
	for empty := 0; ; {
		members, complete, err := g.members()
		if err != nil {
			return fmt.Errorf("looking for the task's processes: %w", err)
		}
		if len(members) > 0 {
			empty = 0
		} else if empty++; complete || empty == looks {
			return reap()
		}
		for _, p := range members {
			// The whole group, as that leaves no time to fork. It is never the
			// worker's, whose session the members are not in.
			if p.group > 1 && p.session != ownSession() {
				unix.Kill(-p.group, unix.SIGKILL)
			}
			unix.Kill(p.pid, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			var left []string
			for _, p := range members {
				left = append(left, fmt.Sprintf("%d (%s)", p.pid, p.name))
			}
			return fmt.Errorf("processes survive SIGKILL: %s", strings.Join(left, ", "))
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

func ownSession() int {
	sid, err := unix.Getsid(0)
	if err != nil {
		return 0
	}
	return sid
}

// members are the living processes of the group, and whether none can have
// escaped notice.
func (g *Group) members() (living []proc, complete bool, err error) {
	family.mu.Lock()
	defer family.mu.Unlock()
	children := map[int][]proc{}
	alone := len(family.groups) == 1 && family.groups[g]
	complete, err = eachProcess(func(p proc) {
		if p.dead || p.pid == os.Getpid() || p.pid == 1 {
			return
		}
		adopted := p.parent == os.Getpid() && !family.children[p.pid]
		if adopted && alone || g.owns(p) {
			living = append(living, p)
		} else {
			children[p.parent] = append(children[p.parent], p)
		}
	})
	for i := 0; i < len(living); i++ {
		living = append(living, children[living[i].pid]...)
		delete(children, living[i].pid)
	}
	return living, complete, err
}

// owns reports whether the process itself shows that it is the group's.
func (g *Group) owns(p proc) bool {
	if owner := family.sessions[p.session]; owner != nil {
		return owner == g
	}
	return g.marked(p.pid) || g.worksHere(p.pid)
}

func (g *Group) marked(pid int) bool {
	if len(g.opts.Cookie) == 0 {
		return false
	}
	env, err := os.ReadFile(inProc(pid, "environ"))
	if err != nil {
		return false // another user's, or gone
	}
	env = append([]byte{0}, env...)
	for _, entry := range g.opts.Cookie {
		if !bytes.Contains(env, []byte("\x00"+entry+"\x00")) {
			return false
		}
	}
	return true
}

func (g *Group) worksHere(pid int) bool {
	if g.opts.Within == "" {
		return false
	}
	dir, err := os.Readlink(inProc(pid, "cwd"))
	if err != nil {
		return false
	}
	dir = strings.TrimSuffix(dir, " (deleted)")
	return dir == g.opts.Within || strings.HasPrefix(dir, g.opts.Within+"/")
}

// A proc is a line of the process table.
type proc struct {
	pid, parent, group, session int
	name                        string
	dead                        bool // only its exit status is left
}

// eachProcess visits all processes. It is complete if every one that was there
// when it returned had been visited. That takes some doing where a task's
// processes do nothing but fork and end, as listing /proc takes longer than they
// live: those that were made meanwhile are looked up by their numbers, which
// the kernel gives out one after the other, until no more are made. For this to
// work a visitor has to find out all it wants to know at once.
func eachProcess(visit func(proc)) (complete bool, err error) {
	last := lastPID()
	names, err := os.ReadDir("/proc")
	if err != nil {
		return false, err
	}
	look := func(pid int) error {
		p, err := readProc(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err == nil {
			visit(p)
		}
		return err
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name.Name()); err == nil {
			if err := look(pid); err != nil {
				return false, err
			}
		}
	}
	for range 100 {
		now := lastPID()
		if now == last && now != 0 {
			return true, nil
		}
		if now < last || now-last > 10000 {
			break // the numbers began again from below
		}
		for pid := last + 1; pid <= now; pid++ {
			if isThread(pid) {
				continue
			}
			if err := look(pid); err != nil {
				return false, err
			}
		}
		last = now
	}
	return false, nil
}

// lastPID is the number that the newest process or thread got, or 0.
func lastPID() int {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 5 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[4])
	return pid
}

// isThread tells threads, which have numbers of the same kind, from processes.
func isThread(pid int) bool {
	status, err := os.ReadFile(inProc(pid, "status"))
	return err == nil && !bytes.Contains(status, fmt.Appendf(nil, "\nTgid:\t%d\n", pid))
}

// readProc reads "pid (name) state parent group session …", where the name may
// contain anything.
func readProc(pid int) (proc, error) {
	file := inProc(pid, "stat")
	text, err := os.ReadFile(file)
	if err != nil {
		return proc{}, err
	}
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return proc{}, fmt.Errorf("%s has an unknown form", file)
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 18 {
		return proc{}, fmt.Errorf("%s has an unknown form", file)
	}
	p := proc{pid: pid, name: string(text[open+1 : end])}
	var threads int
	for i, to := range map[int]*int{1: &p.parent, 2: &p.group, 3: &p.session, 17: &threads} {
		if *to, err = strconv.Atoi(fields[i]); err != nil {
			return proc{}, fmt.Errorf("%s has an unknown form: %w", file, err)
		}
	}
	// A process whose first thread has ended looks dead while others run.
	p.dead = (fields[0] == "Z" || fields[0] == "X") && threads <= 1
	return p, nil
}

func inProc(pid int, file string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), file)
}
