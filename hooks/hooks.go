// Package hooks creates tasks on schedules, on messages and on request.
package hooks

import (
	"embed"
	"io/fs"
)

//go:embed all:schemas
var schemaFiles embed.FS

// Hooks is the service.
type Hooks struct{}

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}
