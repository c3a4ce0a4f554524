package job

import (
	"fmt"
	"runtime"

	"github.com/onestep-go/onestep/internal/memory"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/torch"
)

// MemoryError is work that would not fit into memory. It is an estimate: Force tries all the same.
type MemoryError struct{ Msg string }

// Error returns the message.
func (e *MemoryError) Error() string { return e.Msg }

// host is what a process with libtorch has in memory before it does anything, and some room.
const host = 256 << 20

// need is the memory that work takes, in bytes, by where it is.
type need struct{ device, host float64 }

// enough returns an error if what is needed on a device or beside it is more than there is. what is the work, less what needs less.
func (n need) enough(dev torch.Device, what, less string) error {
	inHost := n.host + host
	if !dev.IsCUDA() {
		inHost += n.device
	} else if st, err := dev.Memory(); err == nil && n.device > float64(st.Free+st.Reserved-st.Allocated) {
		return tooMuch(what, less, n.device, st.Free+st.Reserved-st.Allocated, dev.String())
	}
	if space, ok := memory.Available(); ok && inHost > float64(space.Bytes) {
		return tooMuch(what, less, inHost, space.Bytes, space.Limit)
	}
	return nil
}

func tooMuch(what, less string, need float64, have int64, limit string) error {
	return &MemoryError{fmt.Sprintf("%s needs about %s of memory and only %s are available (limit: %s): %s, or pass --force to try anyway",
		what, memory.Size(need), memory.Size(float64(have)), limit, less)}
}

// threads bounds a number of threads by the processors that the process may use; the notice says so.
func threads(n int) (bounded int, notice string) {
	if most := runtime.NumCPU(); n > most {
		return most, fmt.Sprintf("--threads %d: this process may use %s, and uses as many threads", n, plural.N(most, "processor"))
	}
	return n, ""
}
