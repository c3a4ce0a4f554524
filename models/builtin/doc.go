// Package builtin is the model that ships with onestep: a consistency model of 32×32 emoji, trained by improved consistency
// training. It is for trying out samplers without training or downloading anything.
//
// [Open] builds it on a device, ready for package sampling; [File] gives its weights and metadata. Importing the package adds
// the model's file, 7 MB, to a program. What is opened owns its weights: Close frees them.
package builtin
