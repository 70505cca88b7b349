// Command belay-scanner reads one image in a sandbox and says what is in it. belay
// starts it; it is of no use by hand. It reads a job on its standard input, the image
// by descriptors that it inherited, and writes a result to its standard output.
//
// It owns no state, opens no network and starts nothing. Row: command.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/belay-project/belay/internal/scan/worker"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "belay-scanner is started by belay scan and takes no arguments: a job comes on its standard input")
		os.Exit(2)
	}
	if err := worker.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "belay-scanner: "+err.Error())
		os.Exit(1)
	}
}
