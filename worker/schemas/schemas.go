// Package schemas holds what the worker says about the tasks it takes: the JSON
// schema of task.payload, in the form in which it is also published.
package schemas

import "embed"

// FS holds one YAML file for each schema.
//
//go:embed *.yml
var FS embed.FS
