//go:build !cgo

package torch

import _ "github.com/onestep-go/onestep/csrc" // says that cgo is needed, before the compiler meets this package without half of its files
