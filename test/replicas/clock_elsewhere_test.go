//go:build !(linux && amd64)

package replicas

// A clock of another process can be set wrong on Linux on x86-64 only: see clock_test.go.
type clock struct{}

var clockFaults []fault
