// Command onestep trains consistency models and generates images.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = ""

// The command runs on the main thread, where malloc grows in large steps. On another one it grows by a page at a time, and
// opening libtorch takes a tenth longer.
func init() { runtime.LockOSThread() }

func main() {
	signal.Ignore(syscall.SIGXFSZ) // a file over the limit of ulimit -f is then an error of the write that says which file
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop() // the command ends in order: a training run saves
		again := <-signals
		fmt.Fprintln(os.Stderr, "onestep: interrupted again: stopped at once, without saving (a training run resumes from its last checkpoint)")
		signal.Reset(again)
		if err := syscall.Kill(os.Getpid(), again.(syscall.Signal)); err != nil { // a shell is to see the signal
			os.Exit(exitInterrupted)
		}
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
