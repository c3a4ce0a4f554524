// Package builtin has the model that ships with onestep: a consistency model of 32×32 emoji, trained with improved consistency
// training (iCT). Use it to try samplers without training or downloading a model.
//
// [Open] builds it on a device, ready for package sampling; [File] returns its weights and metadata. Importing the package adds
// the model's file, 7 MB, to a program. An opened model owns its weights: Close frees them.
package builtin
