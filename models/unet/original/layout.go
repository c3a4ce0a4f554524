package original

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch/nn"
)

// Code is the code that a network was trained with, by whose names and shapes its weights are stored.
type Code string

// The codes.
const (
	ConsistencyModels  Code = "consistency_models"   // openai/consistency_models
	GuidedDiffusion    Code = "guided_diffusion"     // openai/guided-diffusion
	GuidedDiffusionNew Code = "guided_diffusion_new" // the same with use_new_attention_order
	EDM                Code = "edm"                  // NVlabs/edm
)

// Codes lists all codes.
func Codes() []Code { return []Code{ConsistencyModels, GuidedDiffusion, GuidedDiffusionNew, EDM} }

// Name is the name of the code's repository.
func (c Code) Name() string {
	switch c {
	case ConsistencyModels:
		return "openai/consistency_models"
	case GuidedDiffusion, GuidedDiffusionNew:
		return "openai/guided-diffusion"
	case EDM:
		return "NVlabs/edm"
	}
	return "unknown code"
}

// Layout is a network in the names and shapes of its original code.
type Layout struct {
	Code   Code
	Config unet.Config
	Prefix string // of all names, such as "model." for EDM's preconditioned networks
}

// For returns the layout of a network in the names of a code. A network that the code does not have is an error that names the fields of its
// configuration.
func For(code Code, c unet.Config) (Layout, error) {
	if !slices.Contains(Codes(), code) {
		return Layout{}, fmt.Errorf("original: want one of the codes %v, got %s", Codes(), quote.Quoted(code)) //quote: our own names
	}
	c = c.WithDefaults()
	l := Layout{Code: code, Config: c}
	if code == EDM {
		l.Prefix = edmPrefix
	}
	if fields := differ(c, l.fixed(c)); len(fields) > 0 {
		return Layout{}, fmt.Errorf("original: %s has no network with %s", code.Name(), strings.Join(fields, ", ")) //quote: differ quotes values
	}
	return l, nil
}

// Of is [For] for the configuration of any network, such as that of a network.Config. Only networks of package unet have a layout.
func Of(code Code, config any) (Layout, error) {
	c, ok := config.(unet.Config)
	if !ok {
		return Layout{}, fmt.Errorf("original: %s has U-Nets only, got a %T", code.Name(), config)
	}
	return For(code, c)
}

// edmPrefix is the prefix of the network's names in EDM's preconditioned networks.
const edmPrefix = "model."

// fixed returns c with everything that the code's networks have in common.
func (l Layout) fixed(c unet.Config) unet.Config {
	c.PadAfter, c.NoMidAttention, c.Until, c.Guidance, c.MidSkipScale = false, false, false, false, 0
	c.NormEps, c.SkipScale, c.EndpointFreqs, c.SinFirst = 1e-5, 1, false, false
	switch {
	case l.Code != EDM:
		c.LastDecoderAttention, c.ResampleSkip, c.Filter, c.ResidualInput = false, false, nil, false
		c.NormGroups, c.Embedding, c.LabelsFirst, c.Augment = 32, unet.Positional, false, 0
	case c.ScaleShift: // DhariwalUNet
		c.LastDecoderAttention, c.Resample, c.ResampleSkip, c.Filter, c.ResidualInput = false, unet.ResampleResidual, false, nil, false
		c.NormGroups, c.Embedding, c.LabelsFirst = 0, unet.Positional, false
		c.HeadDim, c.Heads = edmHeadDim, 0
	default: // SongUNet
		c.LastDecoderAttention, c.Resample, c.ResampleSkip = true, unet.ResampleResidual, true
		c.NormGroups, c.NormEps, c.SkipScale, c.LabelsFirst = 0, 1e-6, math.Sqrt(0.5), c.Classes > 0
		c.HeadDim, c.Heads = 0, 0
		c.SinFirst, c.EndpointFreqs = c.Embedding == unet.Positional, c.Embedding == unet.Positional
	}
	return c.WithDefaults()
}

// edmHeadDim is the number of channels of an attention head of DhariwalUNet.
const edmHeadDim = 64

// differ lists the fields of two configurations that differ, by their JSON names with the value of the first.
func differ(a, b unet.Config) (fields []string) {
	if b.MidSkipScale != 0 && math.Abs(a.MidSkipScale-b.MidSkipScale) < 1e-12 && math.Abs(a.SkipScale-b.SkipScale) < 1e-12 {
		a.MidSkipScale, a.SkipScale = b.MidSkipScale, b.SkipScale // as read from other files
	}
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			continue
		}
		name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
		value, _ := json.Marshal(x.Field(i).Interface())
		fields = append(fields, fmt.Sprintf("%s %s", name, quote.Text(value))) //quote: name is ours
	}
	return fields
}

// Shapes returns the names and shapes of the weights in the order of the code's state dict.
func (l Layout) Shapes() []nn.Shape {
	var all []nn.Shape
	for _, t := range l.tensors() {
		all = append(all, nn.Shape{Name: t.name, Dims: t.dims, Buffer: t.how == filter || t.how == fixedAs})
	}
	return all
}

// Fits checks that src has exactly the layout's tensors; the error lists missing and unexpected ones and shape mismatches.
func (l Layout) Fits(src nn.Source) error { return nn.Fits(src, l.Shapes()) }
