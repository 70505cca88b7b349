// Command belay shows and checks what Belay does on this host. It asks the agent
// over its control socket; checking policies and journals needs no agent.
//
// It owns no state and decides nothing. Row: command.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &terminal{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now,
		colours: wantColours(os.Stdout),
		screen:  isScreen(os.Stdin) && isScreen(os.Stdout),
		live:    isScreen(os.Stderr),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}
