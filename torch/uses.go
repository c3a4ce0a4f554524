package torch

/*
#include "../csrc/ct.h"
*/
import "C"

// uses counts the storages over mapped memory, which stays mapped until the count is 0. Its owner's lock guards it. The counter is made with
// the first storage, so that files can be inspected without libtorch.
type uses struct {
	n      *C.int64_t // nil: no storage yet
	closed bool
}

// counter returns the counter for the next storage. libtorch has to be open.
func (u *uses) counter() *C.int64_t {
	if u.n == nil {
		u.n = C.ct_counter_new()
	}
	return u.n
}

// count is the number of storages.
func (u *uses) count() int64 {
	if u.n == nil {
		return 0
	}
	return int64(C.ct_counter_value(u.n))
}

// close frees the counter; the count has to be 0.
func (u *uses) close() {
	if u.n != nil {
		C.ct_counter_free(u.n)
	}
	*u = uses{closed: true}
}
