// Package lora reads, applies, trains and writes adapters of Stable Diffusion models: LoRA (Hu et al. 2021) and its relatives, small deltas
// of a model's weights in files of their own, such as LCM-LoRA, which turns an ordinary model into a few-step one (Luo et al. 2023).
//
// # Applying
//
// [Load] reads a file and attaches it to a model, which stays as it is: an [Adapter] with a scale goes along with each call of the networks,
// so that goroutines that share the model may each use others.
//
//	lcm, err := lora.Load(model, "lcm-lora-sdv1-5.safetensors", lora.Options{})
//	...
//	p.Adapters = lcm.At(1)                                                    // p is a texttoimage.Pipeline
//	p.Adapters = lcm.At(1).And(style.At(0.8))                                 // several
//	p.Adapters = style.By(lora.Weights{"": 0.8, "text_encoder": 0, "unet.down_blocks.1": 0.3}) // scales by block
//
// [Merge] makes a model compute with changed weights, at no further cost for each step, until Merge(model, nil) takes them out again,
// to the last bit. [MergeWeights] makes adapters part of a model that is written to a file.
//
// A [Cache] is for servers and for prompts with tags, <lora:name:0.8>: it finds adapters by name ([Find]), loads each file once even if several
// requests ask for it at the same time, and closes what nobody has used for long.
//
// # Files
//
// [Open] reads safetensors files, those of torch.save, and directories as PEFT and diffusers write them, in the names of kohya's scripts,
// PEFT, diffusers and its older attention processors. A [Module] is what a file has for one layer: LoRA with or without DoRA, LoHa, LoKr, OFT, BOFT,
// or a full difference, for linear layers and convolutions. [File.Match] tells which of them fit a model; a module without a
// layer there is an error, unless [Options].Partial is set. Files of strangers are safe to open: pickles are read as data, and sizes are
// bounded.
//
// # Making adapters
//
// [New] makes an adapter to be trained; it is a training.Module, so that a training.Trainer takes it as its model and writes its snapshots as
// adapters. [Adapter.Write] and [File.Write] write kohya's, PEFT's or diffusers' layout, and [Extract] makes an adapter of the
// difference between two models.
package lora
