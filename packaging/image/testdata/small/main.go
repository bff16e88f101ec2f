// Command small stands for the program in tests of the image, which have no need of all of it.
package main

import (
	"fmt"

	"github.com/google/uuid"
)

func main() { fmt.Println("small", uuid.Nil) }
