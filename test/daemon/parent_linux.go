package daemon

import "syscall"

// withParent has a process end in an orderly way when we die without having stopped it.
func withParent(attr *syscall.SysProcAttr) {
	attr.Pdeathsig = syscall.SIGINT
}
