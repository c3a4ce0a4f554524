// Package webui serves the API of Stable Diffusion web UI (A1111), /sdapi/v1, for its clients: txt2img, img2img, options, lists of models,
// samplers and adapters, progress, interrupt, png-info and the small requests that clients send when they connect.
//
//	e, err := engine.New(engine.Options{Models: models})
//	// handle err
//	http.Handle("/sdapi/v1/", webui.New(e, webui.Options{}))
//
// Requests have A1111's names and forms, and its leniency: numbers may be strings, null is the default. Each unsupported
// setting, such as the highres fix or an extension's script, is a line in the reply's info, under the extra key notices, and in the log; the
// engine's notices are in info, too, and logged by package serve.
// Errors have A1111's form, and FastAPI's for fields of the wrong type. No path or URL of a request is opened, and no file is written.
//
// Inpainting is A1111's: the mask's edge is soft, by default only the masked part is generated, enlarged, and what is not masked stays as it is
// to the bit. Samplers have A1111's names. A model that does not have the sampler that a client sends, as all do, uses its own.
//
// A1111 has one user and one state. Here each client has its own, by its API key or address: the model chosen with options, what progress
// reports, and what interrupt and skip end. The number of clients remembered is bounded. interrupt ends all requests of the client, whose
// replies have the images that are finished; skip ends only the one that is generated, and those that wait go on.
//
// progress has the latest finished image, and previews of unfinished images in requests that start within ten minutes after the client
// asked for progress with its image: previews take time, so clients that never ask for them get none.
package webui
