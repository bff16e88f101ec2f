//go:build !linux

package daemon

import "syscall"

// withParent does nothing: only Linux tells a process that its parent died.
func withParent(*syscall.SysProcAttr) {}
