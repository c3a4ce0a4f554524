package lora

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Config describes a new adapter.
type Config struct {
	Rank  int     // 0: 64
	Alpha float64 // the scale is Alpha/Rank; 0: Rank
	// Targets are the target modules, by suffixes of their paths; nil: those of LCM-LoRA, which are all layers of a U-Net except the first and
	// the last convolution and the timestep embedding.
	Targets []string
	Seed    uint64
	// DType is the type of A and B; nil: float32, or float64 for networks in float64. In half precision most updates would be rounded away:
	// a step of 1e-4 is less than half the distance of 0.05 to the next bfloat16 number.
	DType *torch.DType
}

// LCMTargets are the target modules of LCM-LoRA; see [sd.LCMTargets].
var LCMTargets = sd.LCMTargets

// TextTargets are the attention and MLP layers of CLIP's text encoders.
var TextTargets = []string{"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}

// New makes an adapter for training. Its initial delta is zero: A is drawn as in PEFT, uniformly within ±1/√in (He et al. 2015, with a slope
// of √5), and B is zero. It is on the device of the networks; if its type differs from theirs, it is cast in each call. Targets that match no
// layer are an error. The networks' weights are not packed from then on; see [nn.Store.Unpack].
func New(n Networks, c Config) (*Adapter, error) {
	if c.Rank == 0 {
		c.Rank = 64
	}
	if c.Alpha == 0 {
		c.Alpha = float64(c.Rank)
	}
	if c.Targets == nil {
		c.Targets = LCMTargets
	}
	if c.Rank < 0 || c.Rank > 1<<16 || math.IsNaN(c.Alpha) || math.IsInf(c.Alpha, 0) {
		return nil, fmt.Errorf("want a rank from 1 to %d and a finite alpha, got %d and %g", 1<<16, c.Rank, c.Alpha)
	}
	if err := n.open(); err != nil {
		return nil, err
	}
	spots, unused := tableOf(n).targeted(c.Targets)
	if len(unused) > 0 && c.strict() {
		return nil, fmt.Errorf("target modules that match no layer: %s", strings.Join(quote.Texts(unused), ", "))
	}
	if len(spots) == 0 {
		return nil, errors.New("the networks have none of the target modules")
	}
	base := n[slices.Sorted(maps.Keys(n))[0]]
	dtype := torch.Float32
	switch {
	case c.DType != nil && !c.DType.IsFloat():
		return nil, fmt.Errorf("DType: want a floating-point type, got %s", *c.DType)
	case c.DType != nil:
		dtype = *c.DType
	case base.DType() == torch.Float64:
		dtype = torch.Float64
	}
	a := &Adapter{second: n[text2Part] != nil}
	var err error
	a.store, err = nn.Build(base.Device(), dtype, c.Seed, func(root nn.Path) {
		for _, s := range spots {
			fan := nn.FanIn(product(s.shape[1:]))
			scale := c.Alpha / float64(c.Rank)
			a.Modules = append(a.Modules, Module{
				Name: s.name(), Layout: PEFT, Kind: LowRank, Rank: c.Rank, Alpha: c.Alpha, Scale: scale, DType: dtype,
				order: []role{down, up},
			})
			a.spots = append(a.spots, s)
			a.made = append(a.made, plain(s, c.Rank, scale, lowRank(s, c.Rank, root.Sub(s.part, s.path), fan, nn.Zeros)))
		}
	})
	if err != nil {
		return nil, err
	}
	for _, st := range n {
		st.Unpack()
	}
	return a, nil
}

// strict reports whether every target has to match a layer. Not all networks have all of LCM-LoRA's.
func (c Config) strict() bool {
	return !slices.Equal(c.Targets, LCMTargets) && !slices.Equal(c.Targets, slices.Concat(LCMTargets, TextTargets))
}
