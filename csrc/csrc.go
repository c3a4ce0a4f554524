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

import _ "embed"

// Header is the text of ct.h. Embedding it makes the header part of this package's build identity: without it a change
// to the header alone would leave package torch stale and its tests passing from the cache.
//
//go:embed ct.h
var Header string
