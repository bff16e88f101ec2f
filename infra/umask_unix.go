//go:build unix

package infra

import "syscall"

// PrivateFiles makes all files that this process and its children make from here on readable by their owner alone, as
// states that terraform keeps in files have secrets in them. It is for commands, not for servers.
func PrivateFiles() { syscall.Umask(0o077) }
