package torch

/*
#include "../csrc/ct.h"
*/
import "C"

// uses counts the storages over mapped memory, which stays until there is none left. Its owner's lock guards it. Without a storage libtorch is
// not needed: files can be looked at where it is missing.
type uses struct {
	n      *C.int64_t // nil: there was none yet
	closed bool
}

// counter is what the next storage is to count in. libtorch has to be open.
func (u *uses) counter() *C.int64_t {
	if u.n == nil {
		u.n = C.ct_counter_new()
	}
	return u.n
}

// count is how many storages there are.
func (u *uses) count() int64 {
	if u.n == nil {
		return 0
	}
	return int64(C.ct_counter_value(u.n))
}

// close ends the counting, of which nothing may be left.
func (u *uses) close() {
	if u.n != nil {
		C.ct_counter_free(u.n)
	}
	*u = uses{closed: true}
}
