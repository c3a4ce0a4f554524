// Package engine generates images for many clients at once, with several models, on one machine.
//
//	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "emoji", Open: open}}})
//	// handle err
//	defer e.Close()
//	for event, err := range e.Images(ctx, engine.Request{Model: "emoji", Client: "key 1", N: 4}) {
//		// handle err; event.Image is the next image, or nil
//	}
//
// A [Request] has what servers' interfaces have in common, for models of every kind. What a model does not use, or what is changed, is in
// [Resolved.Notices]; what cannot work is a [*RequestError].
//
// # Queue
//
// Requests wait in a bounded queue ([ErrFull]) in which clients take turns: one with many requests does not hold up another with a single one,
// and one request of many large images is served in parts, between which others have their turn. A request ends when its context does or at its
// deadline: at once for the caller, and between two steps for the sampler. [Engine.Drain] and [Engine.Close] end an engine; each accepted request
// gets all its images or an error.
//
// # Batches
//
// Waiting requests that differ only in prompts, classes, seeds, number and final size are generated in one batch, images of up to 256×256 pixels
// in all: small images take far less time together than one by one. An image is the same in any batch, but for rounding. A request that ends early
// does not end the others; if a batch fails, its requests are tried one by one.
//
// # Models
//
// A model is opened on first use, while others generate, and never twice at once. With a limit of memory the least recently used one
// is closed for another, after a few more requests if clients want both. One that cannot be opened answers its requests with the error and is
// tried again by the next. Adapters (LoRA) belong to each Stable Diffusion model, which has a lora.Cache of them.
//
// # Sizes, steps and guidance
//
// A pixel-space model has one size, and a latent diffusion model generates well at about the size of its training. Requests of more than
// 2.25 times its pixels are generated at its own size in the proportions asked for; all are resized to the size asked for. Few-step models are for up
// to 8 steps, and for small guidance scales or none. Images, steps and pixels above [Options] are reduced.
package engine
