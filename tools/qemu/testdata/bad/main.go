// Command bad stands in for a millraced that cannot run: the version with it is to be taken back.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "this version cannot run")
	os.Exit(1)
}
