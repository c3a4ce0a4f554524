package builtin

import (
	_ "embed"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// docs/results/emoji.md describes how the file was made.
//
//go:embed emoji.safetensors
var emoji []byte

// Data returns the contents of the model's file. They must not be changed.
func Data() []byte { return emoji }

// Open reads the model onto dev.
func Open(dev torch.Device) (*checkpoint.Model, error) {
	return checkpoint.Read("builtin", emoji, dev)
}

// File returns the model's file: its tensors and metadata.
func File() (*safetensors.File, error) { return safetensors.Parse("builtin", emoji) }
