// Package taskfleet is the root of the module. It has no code: the program is
// cmd/taskfleet, and ARCHITECTURE.md says where everything else is.
package taskfleet
