// Package sampling draws images from consistency functions and denoisers: [Multistep] in one step or a few, the others by solving a
// denoiser's ODE or SDE over descending noise levels. Package texttoimage below it generates images from prompts with Stable Diffusion.
//
// Every image has its own random stream, so image 17 is the same whatever the batch it is drawn in.
package sampling
