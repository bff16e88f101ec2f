// Command small stands for the program in tests of the image, which have no need of all of it.
package main

import (
	"os"
	"runtime"
)

var version = "dev"

func main() { os.Stdout.WriteString("small " + version + " " + runtime.Version() + "\n") }
