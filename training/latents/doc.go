// Package latents is the data of latent diffusion training: images as latents of an autoencoder, captions as features of text encoders.
//
// [Open] takes a captioned.Set and an sd.Model and returns a [Source] for training.Trainer. Its batches have
//
//   - X [B, C, H/f, W/f], float32, latents in the U-Net's scale. Those of a KL autoencoder are drawn anew from the moments of their image at
//     each position of the run, from a stream seeded by (seed, position); those of a tiny autoencoder are the same each time;
//   - Cond.Text [B, 77, W] and, for Stable Diffusion XL, Cond.Pooled [B, P] and Cond.Sizes [B, 6], in pixels: the image's own height and
//     width, the top and left of the crop, height and width of the bucket. Captions are encoded as by diffusers' training scripts: without
//     prompt weighting, truncated to 77 tokens. Without a caption, or where it is dropped, they are those of [Source.Null];
//   - Weight [B], if regularisation images have another one than 1.
//
// A batch depends only on the set, the models, the seed and the position, so that a run resumes exactly at any position.
//
// # Cache
//
// Autoencoder and text encoders take longer than a training step, and their weights take memory. With [Config.Cache] Open encodes each image
// and caption once and keeps the results in files; then batches read the files ahead, and [Source.Complete] reports whether the encoders may
// be closed. Images with random crops, and captions that change at random, are encoded at each step instead. A flipped image has a second
// entry.
//
// An entry's file is named by the SHA-256 of all that its values depend on: the image file's content, size, crop and flip, or the caption's
// tokens; configuration, weights and data type of the encoders, clip skip and tiles. So a cache never has to be emptied when data or models
// change; several sets, models and runs may use it at once; and files that are no longer needed may be deleted. Only the device is not
// part of the name, though its rounding differs. Each entry is a safetensors file of its own, so that runs need neither an index nor a lock,
// a file is complete or not there at any moment, and a damaged one costs one sample. Checksums are verified when a source is opened, which
// makes damaged entries anew, and whenever an entry is read. An SD1.5 image of 512×512 pixels takes 131 kB, its caption 237 kB, in float32.
//
// # Text encoders that are trained
//
// With [Config.Captions] batches have the captions themselves (training.Batch.Captions), and [Encode] makes the Prepare function that
// encodes them at each step, with gradients.
package latents
