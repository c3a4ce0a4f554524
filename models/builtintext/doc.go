// Package builtintext has the text-to-image model that ships with onestep: a latent consistency model of 64×64 emoji, which generates
// images of prompts such as "a smiling cat" in 1 to 4 steps. Use it to try prompts, samplers, adapters and fine-tuning without training
// or downloading a model. docs/results/emoji-text.md describes how it was made.
//
// It is an ordinary diffusers directory. [Open] opens it; [Dir] unpacks it and returns its path, for whatever reads Stable Diffusion models,
// such as training/finetune. Its weights are embedded compressed: importing the package adds 19 MB to a program, and the directory has 22 MB.
// Each version of the model has a directory of its own, and those of earlier versions stay: another program may be using them.
//
// The network and the text encoder were trained on Noto Emoji (Apache License 2.0); the autoencoder is TAEF2 (MIT); NOTICE has the texts.
package builtintext
