// Package weightsum identifies weights by sums that files keep: the names of cached latents and the options.json of runs.
package weightsum

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/onestep-go/onestep/torch"
)

// Form is what a sum has of a tensor before its values. The forms must stay as they are: with another one caches would be encoded again, and
// runs could not be resumed.
type Form string

const (
	Cached   Form = "%[1]q %[2]s %[3]v\n" // name, data type and shape
	Recorded Form = "%[1]q %[3]v "        // name and shape
)

// Sum is the SHA-256 of configurations and weights.
type Sum struct {
	form Form
	hash hash.Hash
}

// New makes an empty sum.
func New(form Form) *Sum { return &Sum{form, sha256.New()} }

// Config adds a configuration.
func (s *Sum) Config(text []byte) { _, _ = s.hash.Write(text) } // never fails

// Tensor adds a tensor.
func (s *Sum) Tensor(name string, t *torch.Tensor) {
	fmt.Fprintf(s.hash, string(s.form), name, t.DType(), t.Shape()) //quote: a sum is made of it
	_, _ = s.hash.Write(t.Bytes())                                  // never fails
}

// Hex is the sum in hexadecimal.
func (s *Sum) Hex() string { return hex.EncodeToString(s.hash.Sum(nil)) }
