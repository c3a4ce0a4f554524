// Package engine generates images for many clients at once, with several models, on one machine.
//
//	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "emoji", Open: open}}})
//	// handle err
//	defer e.Close()
//	for event, err := range e.Images(ctx, engine.Request{Model: "emoji", Client: "key 1", N: 4}) {
//		// handle err; event.Image is the next image, or nil
//	}
//
// Models are opened when they are first asked for. Requests wait in a bounded queue ([ErrFull]) in which clients take turns. A request ends when its
// context does, between two steps of the sampler.
//
// A [Request] has what servers' interfaces have in common, for models of every kind. What a model does not use, or what is changed, is in
// [Resolved.Notices]; what cannot work is a [*RequestError].
package engine
