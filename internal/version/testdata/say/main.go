// Command say prints the line of its build, as the command sageacc does.
package main

import (
	"fmt"

	"github.com/sageacc/sageacc/internal/version"
)

func main() { fmt.Println(version.Line()) }
