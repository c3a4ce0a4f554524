// Package generate generates images from any model file or directory: a consistency model, denoiser or jump model trained with onestep, or
// a Stable Diffusion model.
//
//	m, err := generate.Open("runs/fashion", sd.Options{})
//	// handle err
//	defer m.Close()
//	for img, err := range m.Images(ctx, generate.Request{N: 4, Seed: 1}) {
//		// handle err
//		err = vision.Write(fmt.Sprintf("%d.png", img.Seed), img.Image, vision.WriteOptions{Texts: img.Texts})
//	}
//
// The built-in model is embedded in package builtin: pass what builtin.Open returns to [FromFile], as the example does.
//
// A [Request] says what to generate. Its zero fields take the model's defaults: one step for a consistency model, 18 steps of Heun's method
// for a denoiser, the published sampler for Stable Diffusion. A field that the model does not use is an error. [Model.Plan] resolves a
// request before anything is computed.
//
// With an [Edit] a pixel-space model edits given images instead: inpainting, colorization, super-resolution and more.
//
// Several goroutines may generate with one Model at once. Image i is drawn from seed Seed+i, independently of the other images.
//
// This package depends on Stable Diffusion. Programs without it can use package sampling with package checkpoint or builtin; programs that
// need more of it than a Request has use package texttoimage.
package generate
