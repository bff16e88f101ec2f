//go:build unix

package artifact

import "syscall"

// nonblocking keeps opening a pipe from waiting for somebody to write to it.
const nonblocking = syscall.O_NONBLOCK
