// Package taskfleet is the root of the module. It has no code but the migrations of all services in one place
// (migrations.go): the program is cmd/taskfleet, and ARCHITECTURE.md says where everything else is.
package taskfleet
