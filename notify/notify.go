// Package notify sends messages to people and machines.
package notify

import (
	"embed"
	"io/fs"
)

//go:embed all:schemas
var schemaFiles embed.FS

// Notify is the service.
type Notify struct{}

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}
