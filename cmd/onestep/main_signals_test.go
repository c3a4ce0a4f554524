package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A terminal that is closed ends a command in order, and a second SIGHUP does not cut it short.
func TestSignals(t *testing.T) {
	assert.Equal(t, !signal.Ignored(syscall.SIGHUP), slices.Contains(ends(), os.Signal(syscall.SIGHUP)), "but for a command of nohup, as these tests may be")
	signals, stopped := make(chan os.Signal, 3), 0
	signals <- syscall.SIGHUP
	signals <- syscall.SIGHUP
	signals <- syscall.SIGTERM
	assert.Equal(t, os.Signal(syscall.SIGTERM), endBy(signals, func() { stopped++ }))
	assert.Equal(t, 1, stopped)
}
