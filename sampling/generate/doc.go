// Package generate generates images with a model of any kind, opened from any model file or directory: a consistency model, a denoiser or
// a model of jumps that onestep trained, or a Stable Diffusion model.
//
//	m, err := generate.Open("runs/fashion", sd.Options{})
//	// handle err
//	defer m.Close()
//	for img, err := range m.Images(ctx, generate.Request{N: 4, Seed: 1}) {
//		// handle err
//		err = vision.Write(fmt.Sprintf("%d.png", img.Seed), img.Image, img.Texts, false)
//	}
//
// A [Request] says what to generate; what it leaves out is chosen by the model: a consistency model takes one step, a denoiser 18 of Heun's
// method, Stable Diffusion the sampler that it was published with. What a model does not take is an error, never without effect.
// [Model.Plan] decides everything before anything is computed.
//
// Several goroutines may generate with one Model at once. Image i has the random stream of seed Seed+i, so that it is the same whatever
// else is generated.
//
// This package depends on Stable Diffusion. Programs that need none of it use package sampling with packages checkpoint or builtin, and
// those that need more of it than a Request has, package texttoimage.
package generate
