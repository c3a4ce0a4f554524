package job

import (
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
)

// architecture is a network that runs can have, and its size by default.
type architecture struct {
	name, about      string
	channels, blocks int
	options          []string // those that it reads and other networks do not
	// config fits the network to images of that many colours and pixels, and fills in options that were left to it.
	config func(o *Train, colors, side int) network.Config
}

// levels are the options of networks with levels of resolution.
var levels = []string{"mult", "attention"}

// architectures are all of them, in the order of help texts.
var architectures = []architecture{
	{"ddpmpp", "U-Net, DDPM++ (Song et al. 2021; Karras et al. 2022)", 32, 2, levels, func(o *Train, colors, side int) network.Config {
		o.unet(side)
		c := unet.DDPMPP(side, colors, o.Channels, o.Mult, o.Blocks, o.Attention...)
		return network.Config{UNet: &c}
	}},
	{"ncsnpp", "U-Net, NCSN++ (Song et al. 2021; Karras et al. 2022)", 32, 2, levels, func(o *Train, colors, side int) network.Config {
		o.unet(side)
		c := unet.NCSNPP(side, colors, o.Channels, o.Mult, o.Blocks, o.Attention...)
		c.FourierScale = 0.02 // neighbouring noise levels have to look alike
		return network.Config{UNet: &c}
	}},
	{"adm", "U-Net, ADM (Dhariwal & Nichol 2021)", 32, 2, levels, func(o *Train, colors, side int) network.Config {
		o.unet(side)
		c := unet.ADM(side, colors, o.Channels, o.Mult, o.Blocks, o.Attention...)
		for o.Channels%c.HeadDim != 0 { // 64 in the paper, whose networks are larger
			c.HeadDim /= 2
		}
		for o.Channels%c.NormGroups != 0 { // 32, likewise
			c.NormGroups /= 2
		}
		return network.Config{UNet: &c}
	}},
	{"dit", "transformer (Peebles & Xie 2023)", 192, 6, []string{"patch"}, func(o *Train, colors, side int) network.Config {
		if o.Patch == 0 {
			// Up to 16 patches a side, where the size allows it.
			for o.Patch = max(1, side/16); side%o.Patch != 0; {
				o.Patch++
			}
		}
		return network.Config{DiT: &dit.Config{Resolution: side, InChannels: colors, Patch: o.Patch, Width: o.Channels, Depth: o.Blocks}}
	}},
	{"mlp", "multilayer perceptron, for toys", 512, 3, nil, func(o *Train, colors, side int) network.Config {
		return network.Config{MLP: &mlp.Config{Shape: []int{colors, side, side}, Width: o.Channels, Depth: o.Blocks}}
	}},
}

// unet fills in what a U-Net for images of that size needs.
func (o *Train) unet(side int) {
	if o.Mult == nil {
		o.Mult = []int{1, 2, 2}
		for len(o.Mult) > 1 && side%(1<<(len(o.Mult)-1)) != 0 {
			o.Mult = o.Mult[:len(o.Mult)-1]
		}
	}
	if o.Attention == nil {
		o.Attention = []int{}
		if smallest := side >> (len(o.Mult) - 1); smallest <= 16 {
			o.Attention = []int{smallest}
		}
	}
}

// Networks returns the networks' names.
func Networks() []string {
	var names []string
	for _, a := range architectures {
		names = append(names, a.name)
	}
	return names
}

// AboutNetworks returns a line for each network.
func AboutNetworks() string {
	var b strings.Builder
	for _, a := range architectures {
		fmt.Fprintf(&b, "  %-7s %s; %d channels and %d blocks by default\n", a.name, a.about, a.channels, a.blocks)
	}
	return b.String()
}

func networkNamed(name string) (architecture, error) {
	for _, a := range architectures {
		if a.name == name {
			return a, nil
		}
	}
	return architecture{}, usage("--network: %s", suggest.OneOf(name, Networks()))
}

// shape fits the network to images of that many colours and pixels, and fills in what was left to it.
func (o *Train) shape(colors, side int) (network.Config, error) {
	if o.Network == "" {
		o.Network = architectures[0].name
	}
	a, err := networkNamed(o.Network)
	if err != nil {
		return network.Config{}, err
	}
	o.Resolution, o.Colors = side, colors
	if o.Channels == 0 {
		o.Channels = a.channels
	}
	if o.Blocks == 0 {
		o.Blocks = a.blocks
	}
	if err := o.used(); err != nil {
		return network.Config{}, err
	}
	cfg := a.config(o, colors, side)
	cfg = cfg.With(cfg.Classes(), o.Dropout)
	if err := cfg.Validate(); err != nil {
		_, rest, _ := strings.Cut(err.Error(), ": ")
		return cfg, usage("%s", rest)
	}
	return cfg, nil
}
