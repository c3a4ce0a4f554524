package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/onestep-go/onestep/csrc"
)

// Open loads libtorch. Functions that need libtorch call it; programs call it to find out early whether libtorch is usable.
// Later calls return the first call's result. The error is a [*csrc.OpenError]: what is missing, and the command that fixes it.
func Open() error { return open() }

// CUDA has to be opened before anything queries it through libtorch, which would disable it for the whole process (call_once
// in CUDAHooksInterface.cpp).
var open = sync.OnceValue(func() error {
	if err := csrc.Open(); err != nil {
		return err
	}
	var reason *C.char
	cudaOpened = C.ct_init(&reason) == 1
	cudaReason = C.GoString(reason)
	if cudaOpened {
		C.ct_cuda_allow_tf32(0) // libtorch allows it in convolutions
	}
	limitThreads()
	return nil
})

// limitThreads limits libtorch's threads to Go's: libtorch counts the machine's processors and ignores a container's CPU limit.
// OMP_NUM_THREADS and MKL_NUM_THREADS, which libtorch reads, take precedence.
func limitThreads() {
	n := runtime.GOMAXPROCS(0)
	if os.Getenv("OMP_NUM_THREADS") == "" && os.Getenv("MKL_NUM_THREADS") == "" && int(C.ct_get_threads()) > n {
		C.ct_set_threads(C.int32_t(n))
	}
}

// Set by Open.
var (
	cudaOpened bool
	cudaReason string
)

// mustOpen is Open for operators, which panic.
func mustOpen(op string) {
	if err := Open(); err != nil {
		panic(&Error{Op: op, Msg: err.Error(), Err: err})
	}
}

// CUDAOpened reports whether the CUDA half of libtorch was loaded; if not, the string is the loader's reason.
func CUDAOpened() (bool, string) {
	if err := Open(); err != nil {
		return false, err.Error()
	}
	return cudaOpened, cudaReason
}

// CUDACount returns the number of usable GPUs; 0 without libtorch.
func CUDACount() int {
	if Open() != nil {
		return 0
	}
	return int(C.ct_cuda_count())
}

// AllowTF32 lets float32 matrix products and convolutions on GPUs use TensorFloat-32, which is several times faster and
// keeps 10 bits of mantissa. It is off by default.
func AllowTF32(on bool) {
	if Open() == nil {
		C.ct_cuda_allow_tf32(flag(on))
	}
}

// BenchmarkConvolutions lets cuDNN time its algorithms for each new shape and keep the fastest.
func BenchmarkConvolutions(on bool) {
	if Open() == nil {
		C.ct_cuda_benchmark(flag(on))
	}
}

// Deterministic makes operators use deterministic kernels, which give the same bits every time, where there is one.
func Deterministic(on bool) {
	if Open() == nil {
		C.ct_deterministic(flag(on))
	}
}

func flag(on bool) C.int32_t {
	if on {
		return 1
	}
	return 0
}

// Version returns the version of the libtorch in use, such as "2.11.0"; like [LibraryPath] and [CPUCapability] it is empty
// if [Open] fails.
func Version() string { return text(func() *C.char { return C.ct_version() }) }

func text(f func() *C.char) string {
	if Open() != nil {
		return ""
	}
	return C.GoString(f())
}

// LibraryPath returns the file that libtorch_cpu was loaded from.
func LibraryPath() string { return text(func() *C.char { return C.ct_library_path() }) }

// CPUCapability returns the instruction set libtorch's kernels use, such as "AVX512".
func CPUCapability() string { return text(func() *C.char { return C.ct_cpu_capability() }) }

// SetThreads sets how many threads one operator may use, for the whole process. With one thread, results repeat bit
// by bit. n must be at least 1.
func SetThreads(n int) error {
	if n < 1 || n > 4096 {
		return fmt.Errorf("threads: want 1 to 4096, got %d", n)
	}
	if err := Open(); err != nil {
		return err
	}
	C.ct_set_threads(C.int32_t(n))
	return nil
}

// Threads returns how many threads one operator may use: as set by [SetThreads] or OMP_NUM_THREADS, or else the number
// of processors, at most runtime.GOMAXPROCS at [Open], which respects a container's limit. Without libtorch it is 0.
func Threads() int {
	if Open() != nil {
		return 0
	}
	return int(C.ct_get_threads())
}
