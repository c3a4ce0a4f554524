package sd

import (
	"iter"
	"time"

	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Adapter is an adapter for a model's layers, which training runs make, write and read by this interface: package lora's is one.
type Adapter interface {
	// At returns the adapter with a LoRA weight, for a network to run with; 0 disables it.
	At(weight float64) nn.Adapters
	// Parameters yields the adapter's own weights.
	Parameters() iter.Seq2[string, *torch.Tensor]
	// Save writes a file, in place of one that exists.
	Save(path string, f AdapterFile) error
	// Close frees the weights.
	Close() error
}

// LCMTargets are the target modules of LCM-LoRA, by suffixes of their paths: 278 layers of Stable Diffusion 1.5's U-Net (Luo et al. 2023).
var LCMTargets = []string{
	"to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
	"downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
}

// AdapterConfig describes an adapter to train.
type AdapterConfig struct {
	Rank    int      // 0: 64
	Alpha   float64  // the scale is Alpha/Rank; 0: Rank
	Targets []string // target modules, by suffixes of their paths; nil: LCMTargets
	Text    bool     // the attention and MLP layers of the text encoders, too
	Seed    uint64
}

// AdapterPlan is what an adapter to train would have on a model.
type AdapterPlan struct {
	Layers []AdapterLayer
	Unused []string // chosen targets that no layer has
}

// AdapterLayer is a layer that an adapter would change: its weight as a matrix, whose rank no adapter needs to exceed.
type AdapterLayer struct {
	Name    string // part and path
	In, Out int
}

// Parameters is the number of an adapter's own weights, with that rank.
func (p AdapterPlan) Parameters(rank int) (n int64) {
	for _, l := range p.Layers {
		n += int64(rank) * int64(l.In+l.Out)
	}
	return n
}

// AdapterInfo describes the file of an adapter to train further.
type AdapterInfo struct {
	Modules    int
	Parameters int64
	Text       bool // it has modules for text encoders
	// OriginalSteps is the size of the grid of timesteps that it was distilled on; 0: not known, or it is not for few steps.
	OriginalSteps int
	Tensors       string // the file with its tensors
	Sum           string // identifies its weights, in whatever layout they are written
	Idle          bool   // it has no effect on the U-Net: it has no modules there, or all products of their factors are zero
	Stuck         bool   // it cannot be trained: of all products both factors are zero, or the scale
	Run           AdapterRun
}

// AdapterRun is what an adapter's file says of the run that made it; the zero value if that was none of this library's.
type AdapterRun struct {
	Command    string `json:"run"`    // such as train-lcm
	Phases     int    `json:"phases"` // of phased consistency; 0: none
	Trajectory bool   `json:"trajectory"`
}

// UsualGrid is the size of the grid of timesteps of few-step adapters whose files name none.
const UsualGrid = 50

// RunEntry is the entry of an adapter's metadata with the options of that run, as JSON.
const RunEntry = "onestep_options"

// AdapterFile says how an adapter's file is written, and what its metadata tells other programs. Values that are not known stay zero.
type AdapterFile struct {
	Layout string       // kohya, which all programs read, peft or diffusers; "": kohya
	DType  *torch.DType // nil: unchanged

	Title         string       // what programs call the adapter; "": the file's name
	Base          string       // name of the base model
	Kind          weights.Kind // and its family
	Prediction    string       // what its network predicts: epsilon, v_prediction or sample
	Width, Height int          // of the training images, in pixels
	Date          time.Time    // of the training
	// OriginalSteps is the size of the grid of timesteps that a few-step adapter was distilled on (original_inference_steps of LCM samplers).
	OriginalSteps int
	// Metadata are further entries, such as ss_learning_rate and others of kohya's scripts.
	Metadata map[string]string
}
