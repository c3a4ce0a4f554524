package network

import (
	"slices"

	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet2d"
)

// kinds returns all registered networks. To add one, add an entry here. Its package needs a Config that is a Spec with
// WithDefaults and WithInputs, a function New, and options and presets for training runs.
func kinds() []kind {
	return []kind{
		family[unet.Config, *unet.UNet, unet.Options]{
			key: "unet", create: unet.New, sizeOf: unet.Config.Options, first: true,
			sizes: []size[unet.Config, unet.Options]{
				{"ddpmpp", "U-Net, DDPM++ (Song et al. 2021; Karras et al. 2022)", (*unet.Options).DDPMPP},
				{"ncsnpp", "U-Net, NCSN++ (Song et al. 2021; Karras et al. 2022)", (*unet.Options).NCSNPP},
				{"adm", "U-Net, ADM (Dhariwal & Nichol 2021)", (*unet.Options).ADM},
			},
		},
		family[unet2d.Config, *unet2d.UNet2D, unet2d.Options]{
			key: "unet2d", create: unet2d.New, sizeOf: unet2d.Config.Options,
			sizes: []size[unet2d.Config, unet2d.Options]{{"unet2d", "U-Net of DDPM's shape, as diffusers' UNet2DModel (Ho et al. 2020)", (*unet2d.Options).Config}},
		},
		family[dit.Config, *dit.DiT, dit.Options]{
			key: "dit", create: dit.New, sizeOf: dit.Config.Options,
			sizes: []size[dit.Config, dit.Options]{{"dit", "transformer (Peebles & Xie 2023)", (*dit.Options).Config}},
		},
		family[mlp.Config, *mlp.MLP, mlp.Options]{
			key: "mlp", create: mlp.New, sizeOf: mlp.Config.Options,
			sizes: []size[mlp.Config, mlp.Options]{{"mlp", "multilayer perceptron, for toy problems", (*mlp.Options).Config}},
		},
	}
}

// Names returns the names of the registered networks, which are the keys in a Config's JSON.
func Names() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name())
	}
	return names
}

// Adopting returns the names of the networks that can start from the weights of one with fewer conditioning inputs: see [Config.Adopts].
func Adopting() []string {
	var names []string
	for _, k := range kinds() {
		if k.adopts() {
			names = append(names, k.name())
		}
	}
	return names
}

// kindOf returns the kind of a configuration, or nil if it is not registered.
func kindOf(c Spec) kind {
	all := kinds()
	if i := slices.IndexFunc(all, func(k kind) bool { return k.holds(c) }); i >= 0 {
		return all[i]
	}
	return nil
}
