package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// Most of the heap is the codes of one head. Collecting early keeps it from
	// doubling on long sequences and costs no time that can be measured.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(20)
	}
	ctx := context.Background()
	if on := interrupts(); on != nil { // none would stand for all
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, on...)
		// The first signal ends the command in order, a second one kills it.
		context.AfterFunc(ctx, stop)
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// interrupts are the signals that end a command, but for those that the process was
// started to ignore, as nohup does.
func interrupts() []os.Signal {
	var on []os.Signal
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			on = append(on, s)
		}
	}
	return on
}
