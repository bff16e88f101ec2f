//go:build !unix

package stacks

import "os/exec"

func apart(*exec.Cmd) {}

// alive does not know.
func alive(int) bool { return true }
