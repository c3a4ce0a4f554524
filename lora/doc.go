// Package lora reads, applies, trains and writes adapters of Stable Diffusion models: LoRA (Hu et al. 2021) and its relatives, small deltas
// of a model's weights in files of their own, such as LCM-LoRA, which turns an ordinary model into a few-step one (Luo et al. 2023).
//
// # Applying
//
// [Load] reads a file and attaches it to a model without modifying it: an [Adapter] with a scale is passed in each call of the networks,
// so that goroutines that share a model can use different adapters.
//
//	lcm, err := lora.Load(model, "lcm-lora-sdv1-5.safetensors", lora.Options{})
//	...
//	p.Adapters = lcm.At(1)                                                    // p is a texttoimage.Pipeline
//	p.Adapters = lcm.At(1).And(style.At(0.8))                                 // several
//	p.Adapters = style.By(lora.Weights{"": 0.8, "text_encoder": 0, "unet.down_blocks.1": 0.3}) // scales by block
//
// [Merge] merges adapters into the model's weights, so that they cost nothing at each step; Merge(model, nil) restores the weights to the
// bit. [MergeWeights] merges adapters into a model that is written to a file.
//
// A [Cache] is for servers and for prompts with tags, <lora:name:0.8>: it finds adapters by name ([Find]), loads each file once even if
// several requests need it at the same time, and closes adapters that have not been used for long.
//
// # Files
//
// [Open] reads safetensors files, files of torch.save, and directories as PEFT and diffusers write them, with the tensor names of kohya's
// scripts, PEFT, diffusers or its older attention processors. A [Module] is the adapter of one layer: LoRA with or without DoRA, LoHa, LoKr,
// OFT, BOFT, or a full difference, for linear layers and convolutions. [File.Match] reports which modules match a model's layers; a module
// without a layer is an error, unless [Options].Partial is set. Untrusted files are safe to open: pickles are parsed without executing code,
// and sizes are limited.
//
// # Making adapters
//
// [New] makes an adapter for training. It is a training.Module, so that a training.Trainer trains it and writes snapshots that are adapter
// files. [Adapter.Write] and [File.Write] write the layout of kohya, PEFT or diffusers, and [Extract] computes an adapter from the
// difference between two models.
package lora
