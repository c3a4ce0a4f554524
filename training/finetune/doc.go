// Package finetune trains latent diffusion models on images with captions: it opens the model and the data, encodes images and captions
// once, makes the adapter or the network that is trained, and runs the trainer of package training with them. [LCM] is latent consistency
// distillation, to an adapter (LCM-LoRA) or to a full model; [LoRA] trains adapters for styles and subjects; [LDM] trains a small model from
// nothing. A run is what onestep train-lcm, train-lora and train-ldm run, to the same bits, and a run directory of the one can be resumed by
// the other.
//
//	run := finetune.LCM{LoRA: true, Run: finetune.Run{Model: "sd15", Data: "photos", Steps: 1000, Out: "runs/lcm", Adapters: lora.Adapters{}}}
//	result, err := run.Train(ctx)
//
// The zero value of every option is its default: if zero means something else, the field is a pointer, and new(0.0) is zero. The tags of the
// fields declare the options: name, help, default and range. Flags, options.json and the options in an adapter's metadata come from them.
//
// # The run directory
//
// It is that of package rundir, with options.json, stats.jsonl, log.txt and checkpoints, from which a run resumes exactly. Its snapshots
// are of use as they are: adapter files (model-0000500.safetensors) with the metadata that other programs read, or directories of diffusers
// (model-0000500/). best.safetensors is the one with the lowest validation loss, and best.json says which.
//
// # Validation
//
// After each snapshot a run reads the file that it has just written as any program would, and compares the network's output with it to that
// of the weights in training. A file that cannot be read, or changes nothing, ends the run with a [SnapshotError]; its checkpoint is there,
// and the file is renamed to NAME.rejected. With Keep, old snapshots are removed once a new one has passed, and the best never is.
// The validation loss has the same samples and noise each time. Run.Draw generates images from the file that was read, for fixed prompts
// and seeds. A failure in these is logged, and training continues.
//
// # Memory
//
// Student and teacher share the frozen model, which may be in half precision; with images and captions in the cache, the autoencoder and
// the text encoders are freed before training, unless validation images need them. [Plan.Need] estimates what a run takes.
package finetune
