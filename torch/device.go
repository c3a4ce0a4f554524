package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Device is a CPU or GPU that holds tensors. Its zero value is the CPU. Devices can be compared with ==.
type Device struct {
	cuda int // 1 + the index of a CUDA device; 0 is the CPU
}

// CPU is the host.
var CPU = Device{}

// CUDA returns the i-th NVIDIA GPU, from 0 on. It panics for a negative number.
func CUDA(i int) Device {
	if i < 0 {
		panic(&Error{Op: "cuda", Msg: fmt.Sprintf("want the number of a GPU, from 0 on, got %d", i)})
	}
	return Device{cuda: i + 1}
}

// ParseDevice reads "cpu", "cuda" (the first GPU) or "cuda:N". It does not check that the device exists; see
// [Device.Available].
func ParseDevice(name string) (Device, error) {
	switch {
	case name == "cpu":
		return CPU, nil
	case name == "cuda":
		return CUDA(0), nil
	case strings.HasPrefix(name, "cuda:"):
		if i, err := strconv.Atoi(name[len("cuda:"):]); err == nil && i >= 0 && i < 128 {
			return CUDA(i), nil
		}
	}
	return CPU, fmt.Errorf("unknown device %s: want cpu, cuda or cuda:N", quote.Quoted(name))
}

// MarshalText writes the device's name.
func (d Device) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses a name as [ParseDevice] does.
func (d *Device) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDevice(string(text))
	return err
}

// IsCUDA reports whether the device is a GPU.
func (d Device) IsCUDA() bool { return d.cuda > 0 }

// Index returns the number of a GPU, and -1 for the CPU.
func (d Device) Index() int { return d.cuda - 1 }

// String returns PyTorch's name of the device: "cpu" or "cuda:0".
func (d Device) String() string {
	if d.cuda == 0 {
		return "cpu"
	}
	return "cuda:" + strconv.Itoa(d.cuda-1)
}

// Available returns nil if tensors can be made on the device, and otherwise an error with the reason.
func (d Device) Available() error {
	if err := Open(); err != nil || d.cuda == 0 {
		return err
	}
	if !cudaOpened {
		return fmt.Errorf("device %s: %s", d, quote.Long(cudaReason, 2000))
	}
	if n := CUDACount(); d.cuda > n {
		if n == 0 {
			return fmt.Errorf("device %s: libtorch found no usable GPU", d)
		}
		return fmt.Errorf("device %s: this machine has %d GPU(s), cuda:0 to cuda:%d", d, n, n-1)
	}
	return nil
}

func (d Device) code() int64 { return int64(d.cuda) - 1 }

func deviceOf(code int64) Device { return Device{cuda: int(code) + 1} }

// Synchronize waits until the device has finished its queued work. On the CPU it does nothing.
func (d Device) Synchronize() error {
	if d.cuda == 0 {
		return nil
	}
	if err := Open(); err != nil {
		return err
	}
	if e := C.ct_cuda_synchronize(C.int32_t(d.code())); e != nil {
		return take(e, "synchronize")
	}
	return nil
}

// MemoryStats are a device's memory figures in bytes.
type MemoryStats struct {
	Allocated, PeakAllocated int64 // held by tensors
	Reserved, PeakReserved   int64 // held by the caching allocator, in use or cached
	Free, Total              int64 // of the device, as reported by its driver or the system
}

// Memory returns the memory figures of a device. On the CPU, tensors of up to 32 KiB are not counted.
func (d Device) Memory() (MemoryStats, error) {
	if err := d.Available(); err != nil {
		return MemoryStats{}, err
	}
	var v [6]C.int64_t
	if d.cuda == 0 {
		C.ct_cpu_memory(&v[0])
	} else if e := C.ct_cuda_memory(C.int32_t(d.code()), &v[0]); e != nil {
		return MemoryStats{}, take(e, "memory")
	}
	return MemoryStats{int64(v[0]), int64(v[1]), int64(v[2]), int64(v[3]), int64(v[4]), int64(v[5])}, nil
}

// EmptyCache releases cached memory to the GPUs and the system. Programs rarely need it: before something else on the machine
// needs the memory that a model has used.
func EmptyCache() error {
	if err := Open(); err != nil {
		return err
	}
	C.ct_cpu_empty_cache()
	if !cudaOpened {
		return nil
	}
	if e := C.ct_cuda_empty_cache(); e != nil {
		return take(e, "empty cache")
	}
	return nil
}
