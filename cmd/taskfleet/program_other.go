//go:build !linux && !agent

package main

// forgetProgram does nothing: only Linux gives back the pages of a program that is asked to.
func forgetProgram() {}
