// Package index finds tasks by names that stay the same from one task to the next.
package index

import (
	"embed"
	"io/fs"
)

//go:embed all:schemas
var schemaFiles embed.FS

// Index is the service.
type Index struct{}

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}
