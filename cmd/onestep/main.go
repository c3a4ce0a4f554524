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
	signal.Notify(signals, ends()...)
	go func() {
		again := endBy(signals, stop)
		fmt.Fprintln(os.Stderr, "onestep: interrupted again: stopped at once, without saving (a training run resumes from its last checkpoint)")
		signal.Reset(again)
		if err := syscall.Kill(os.Getpid(), again.(syscall.Signal)); err != nil { // a shell is to see the signal
			os.Exit(exitInterrupted)
		}
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// ends are the signals that end a command in order. A terminal that is closed sends SIGHUP, unless the command was started by nohup.
func ends() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

// endBy ends the command in order at the first signal, so that a training run saves and a server finishes its requests, and returns the next one. It
// leaves out SIGHUP, which a terminal and its shell send one after the other.
func endBy(signals <-chan os.Signal, stop func()) os.Signal {
	<-signals
	stop()
	for {
		if again := <-signals; again != syscall.SIGHUP {
			return again
		}
	}
}
