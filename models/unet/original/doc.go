// Package original reads and writes the weights of U-Nets under the names and shapes of the code that they were trained with:
// openai/consistency_models, openai/guided-diffusion with its predecessor improved-diffusion, and NVlabs/edm (SongUNet, which is DDPM++ and
// NCSN++, and DhariwalUNet, which is ADM). All of them are networks of package unet.
//
// [Recognize] tells by names and shapes which [Code] weights belong to. [Infer] finds the network's configuration from the shapes. What
// shapes do not show, such as the number of attention heads, is given by [Settings] or taken from the published models, which Infer reports.
// The result is a [Layout]: [Layout.Ours] presents a file's tensors under the names of package unet, and [Layout.Theirs] the tensors of a
// network under the original names, so that a file that is read and written again has the same names and values.
//
// The three codes order the rows of an attention layer's queries, keys and values differently. The shapes are the same, and the wrong order
// gives bad images without an error; so the order follows from the code, never from the values.
package original
