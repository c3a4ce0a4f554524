// Package builtintext has the text-to-image model that ships with onestep: a latent consistency model of 64×64 emoji, which generates
// images of prompts such as "a smiling cat" in 1 to 4 steps. Use it to try prompts, samplers, adapters and fine-tuning without training
// or downloading a model. docs/results/emoji-text.md describes how it was made.
//
// It is an ordinary diffusers directory. [Open] opens it; [Dir] unpacks it and returns its path, for whatever reads Stable Diffusion models,
// such as training/finetune. Its autoencoder is the decoder alone: there is no img2img, and training needs the encoder of TAEF2 as another
// autoencoder. Importing the package adds the model's files, 20 MB, to a program.
//
// The network and the text encoder were trained on Noto Emoji (Apache License 2.0); the decoder is TAEF2's (MIT); NOTICE has the texts.
package builtintext
