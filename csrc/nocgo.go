//go:build !cgo

package csrc

// onestep calls libtorch through cgo. Go switches cgo off where it finds no C compiler. The compiler's message is this name.
var _ = onestep_needs_cgo__install_a_C_compiler_such_as_gcc_and_do_not_set_CGO_ENABLED_to_0
