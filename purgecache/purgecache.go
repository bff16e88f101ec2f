// Package purgecache tells workers which caches they must not use any more.
package purgecache

import (
	"embed"
	"io/fs"
)

//go:embed all:schemas
var schemaFiles embed.FS

// PurgeCache is the service.
type PurgeCache struct{}

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}
