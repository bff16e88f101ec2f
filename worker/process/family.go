package process

import (
	"os/exec"
	"sync"
)

// family is who is whose in this operating system process. There is one, as
// there is one set of children to wait for: a child that Start started is
// waited for by its own goroutine, and any other was adopted.
var family = &registry{groups: map[*Group]bool{}, children: map[int]bool{}, sessions: map[int]*Group{}}

type registry struct {
	mu       sync.Mutex
	groups   map[*Group]bool
	children map[int]bool   // that Start started and that have not been waited for
	sessions map[int]*Group // by the command that leads it; the last one, as numbers are reused
}

func (r *registry) join(g *Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[g] = true
}

func (r *registry) leave(g *Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.groups, g)
	for session, owner := range r.sessions {
		if owner == g {
			delete(r.sessions, session)
		}
	}
}

// start starts cmd under the lock, so that a command that ends at once is not
// taken for an adopted one.
func (r *registry) start(g *Group, cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	yielding(cmd.Process.Pid)
	r.children[cmd.Process.Pid] = true
	r.sessions[cmd.Process.Pid] = g
	return nil
}

func (r *registry) ended(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.children, pid)
}
