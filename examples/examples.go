// Package examples is graphs and a worker pool to try Taskfleet with. Two of
// the files are part of the program, so that it has something to show where
// there is no checkout.
package examples

import "embed"

// FS holds pool.yml and hello/graph.yml.
//
//go:embed pool.yml hello/graph.yml
var FS embed.FS
