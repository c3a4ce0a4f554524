// Package csrc is the only C++ of the project: a thin C layer over libtorch that cgo itself compiles, so that plain
// `go build` works. ct.h is its whole interface; package torch is its only user.
//
// The compiler and linker flags come from the pkg-config module onestep-libtorch, which `make libtorch` writes
// (scripts/libtorch.sh). Only libtorch_cpu and libc10 are linked: CUDA is opened at run time, see ct_init.
package csrc

/*
#cgo pkg-config: onestep-libtorch
#cgo CXXFLAGS: -std=c++20 -O2 -fvisibility=hidden -Wall -Wno-unknown-pragmas -Wno-deprecated-declarations -Wno-maybe-uninitialized
#cgo linux LDFLAGS: -ldl
*/
import "C"

import "embed"

// Headers are the texts of this folder's headers. Embedding them makes them part of this package's build identity: without
// it a change to ct.h alone, or to libtorch_found.h, which scripts/libtorch.sh writes, would leave package torch stale and
// its tests passing from the cache.
//
//go:embed *.h
var Headers embed.FS
