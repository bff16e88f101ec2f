//go:build !unix

package credentials

import "os"

const canChmod = false

func keepOwner(*os.File, os.FileInfo) error { return nil }

func syncFolder(string) error { return nil }
