package job

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/memory"
	"github.com/onestep-go/onestep/torch"
)

// MemoryError is the error of work whose estimated memory exceeds what is available. Force skips this check.
type MemoryError struct{ Msg string }

// Error returns the message.
func (e *MemoryError) Error() string { return e.Msg }

// host is the memory of an idle process with libtorch, with a margin.
const host = 256 << 20

// need is the memory that work takes, in bytes, on the device and on the host.
type need struct{ device, host float64 }

// enough returns an error if the device or the host has less memory than needed. what names the work, less the options that need less.
func (n need) enough(dev torch.Device, what, less string) error {
	inHost := n.host + host
	if !dev.IsCUDA() {
		inHost += n.device
	} else if space, ok := roomOn(dev); ok && n.device > float64(space.Bytes) {
		return tooMuch(what, less, n.device, space.Bytes, space.Limit)
	}
	if space, ok := memory.Available(); ok && inHost > float64(space.Bytes) {
		return tooMuch(what, less, inHost, space.Bytes, space.Limit)
	}
	return nil
}

// roomOn is the memory that is available on a device; false: it is not known.
func roomOn(dev torch.Device) (memory.Space, bool) {
	if !dev.IsCUDA() {
		return memory.Available()
	}
	st, err := dev.Memory()
	return memory.Space{Bytes: st.Free + st.Reserved - st.Allocated, Limit: dev.String()}, err == nil
}

func tooMuch(what, less string, need float64, have int64, limit string) error {
	return &MemoryError{fmt.Sprintf("%s needs about %s of memory and only %s are available (limit: %s): %s, or pass --force to try anyway",
		what, memory.Size(need), memory.Size(float64(have)), limit, less)}
}
