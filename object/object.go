// Package object keeps named, immutable data.
package object

import (
	"embed"
	"io/fs"
)

//go:embed all:schemas
var schemaFiles embed.FS

// Objects is the service.
type Objects struct{}

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}
