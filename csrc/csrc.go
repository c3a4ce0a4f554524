// Package csrc is the project's C++ code, a thin layer over libtorch, and opens it at run time.
//
// scripts/setup compiles layer/ once per version of libtorch, into a shared library of its own: a program that imports this
// package builds without libtorch and its headers, starts without it, and can report what is missing. [Open] loads the layer
// and libtorch with it. ct.h is the layer's complete interface, and package torch its only user.
package csrc

/*
#cgo CFLAGS: -O2
#cgo linux LDFLAGS: -ldl
#include <stdlib.h>
#include "ct.h"
#include "open.h"
*/
import "C"

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/onestep-go/onestep/internal/libtorch"
)

// sources are the sources of the layer, and layer/found.json, which setup writes.
//
//go:embed ct.h functions.h table.h layer
var sources embed.FS

// sourceSum is the checksum of these sources, as setup computes it.
var sourceSum = sync.OnceValue(func() string {
	sum, err := libtorch.Sum(sources)
	if err != nil {
		panic(err) // they are embedded
	}
	return sum
})

// found is the layer that setup made last from these sources; empty if it made none, as in the module cache.
func found() string {
	var f struct {
		Layer string `json:"layer"`
	}
	text, err := sources.ReadFile("layer/found.json")
	if err != nil || json.Unmarshal(text, &f) != nil {
		return ""
	}
	return f.Layer
}

// Supported returns the versions of libtorch that the layer can be compiled for; setup fetches the first.
func Supported() []string {
	var list []string
	for _, r := range libtorch.Supported() {
		list = append(list, r.Version)
	}
	return list
}

// Open loads the layer and libtorch, once: later calls return the first call's result. The error is an [*OpenError].
func Open() error { return open() }

var open = sync.OnceValue(func() error {
	place := here()
	layer, err := place.find()
	if err != nil {
		return err
	}
	// The loader maps a truncated file too, and the program would die of it.
	damage := libtorch.Damaged("")
	if errors.As(libtorch.Whole(layer.Path), &damage) {
		return place.damaged(layer, damage)
	}
	// Checked before loading, if possible: a library of another version may crash with the layer.
	if v := layer.libraryVersion(); v != "" && layer.Version != "" && v != layer.Version {
		return place.otherVersion(layer, v)
	}
	if layer.Library != "" && errors.As(libtorch.Whole(layer.Library), &damage) {
		return place.explain(layer, fmt.Sprintf("%s is damaged: %v", layer.Library, damage))
	}
	path, sum := C.CString(layer.Path), C.CString(sourceSum())
	defer C.free(unsafe.Pointer(path))
	defer C.free(unsafe.Pointer(sum))
	var other C.int
	if msg := C.ct_open(path, sum, &other); msg != nil {
		defer C.free(unsafe.Pointer(msg))
		if other != 0 {
			return place.otherSources(layer)
		}
		return place.explain(layer, C.GoString(msg))
	}
	layer.Version = C.GoString(C.ct_compiled_version())
	if v := C.GoString(C.ct_version()); v != layer.Version {
		return place.otherVersion(layer, v)
	}
	return nil
})

// OpenError says why libtorch cannot be used and what to do.
type OpenError struct {
	Layer    string   // the layer's file; empty if there is none
	Want     string   // the required version of libtorch
	Library  string   // the libtorch that the loader finds, lib/libtorch_cpu.so; empty if none
	Searched []string // directories searched for libtorch or, if there is no layer, for the layer
	Reason   string   // what is wrong
	Remedy   string   // the command that fixes it
}

// Error returns what is wrong and the command that fixes it, in one line.
func (e *OpenError) Error() string { return fmt.Sprintf("%s; to fix it: %s", e.Reason, e.Remedy) }
