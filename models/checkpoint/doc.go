// Package checkpoint reads and writes model files: safetensors files with the weights and, in the metadata, the description that is
// needed to rebuild the network. One file is enough for sampling.
//
// A [Description] is that metadata: the network's type and configuration, the form (its parameterisation: EDM, DDPM, flow,
// TrigFlow and so on), the kind (denoiser, consistency function or trajectory), the data's standard deviation, the range of
// noise levels, class names, and how it was trained. [Save] writes it with the weights; [Describe] makes it from a denoiser or
// consistency function of package models.
//
// There are three ways to read a file, each onto one device:
//
//   - [Open] returns a consistency function, ready for package sampling.
//   - [OpenTeacher] returns a denoiser, such as the teacher of a distillation.
//   - [OpenFile] returns any model; [File.Function] is its denoiser or consistency function.
//
// A path is a file, a run directory, whose best or else last snapshot is read ([Find]), or a directory of diffusers with a UNet2DModel, such as
// openai/diffusers-cd_imagenet64_l2 or google/ddpm-cifar10-32: the directory of a pipeline, or that of the network alone. Its
// scheduler_config.json says what the network predicts and stays in the description: [Description.Chain], [Description.Grid].
// [SaveFolder] writes such a directory. The returned values own their weights: Close frees them. [ReadDescription] reads a
// description without the weights, [ReadContents] the names and shapes of the weights, too. Files are untrusted: sizes are checked before memory is
// allocated.
package checkpoint
