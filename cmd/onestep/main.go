// Command onestep trains consistency models and draws images from them.
package main

import (
	"context"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second Ctrl-C ends the process at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
