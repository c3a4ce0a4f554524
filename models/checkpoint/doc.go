// Package checkpoint reads and writes files that hold a whole model: the weights and, in the file's metadata, what is needed to
// build the network again. One safetensors file is enough to sample from.
//
// A [Description] is that metadata: the network's type and configuration, the form (what it predicts: EDM, a chain, a flow,
// TrigFlow), the kind (what it was trained to be: denoiser, consistency function, jumps), the data's standard deviation, the
// range of noise levels, class names, and how it was trained. [Save] writes it with weights; [Describe] makes it from a
// function of package models.
//
// There are three ways to read, each onto one device:
//
//   - [Open] gives a consistency function, ready for package sampling.
//   - [OpenTeacher] gives a denoiser: a trained one, or what can be used as one in distillation.
//   - [OpenFile] gives the network alone, and [File.Function] what its description says it is.
//
// A path is a file, or a run directory, of which the latest snapshot is taken ([Find]). What is opened owns its weights: Close
// frees them. [Describes] reads a description without the weights. Files are untrusted: sizes are checked before memory is
// allocated.
package checkpoint
