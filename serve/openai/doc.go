// Package openai serves the images API of OpenAI, as its clients use it, with the models of package engine:
//
//	POST /v1/images/generations  images from a prompt                                    JSON
//	POST /v1/images/edits        image to image, and with a mask inpainting              multipart form, or JSON with images in base64
//	POST /v1/images/variations   image to image without a prompt                         the same
//	GET  /v1/models              the models, and /v1/models/{id} one of them
//	GET  /v1/files/{name}        an image of a reply with response_format url            for a limited time
//
// [New] returns their handler; [OpenAPI] describes them. The handler checks neither keys nor origins: what is in front of it does. Names of
// files are random, so that no key is needed to get them.
//
// # Parameters
//
// All of OpenAI's are accepted: model, prompt, n, size, response_format, output_format, output_compression, stream, partial_images and the images
// are used; what is not used is listed in the reply's notices. A number or bool may be a string, as forms and some clients send it. Further
// parameters are negative_prompt, seed, steps, guidance, sampler, strength, loras and labels. The reply has further fields, too: model, sampler,
// steps, guidance and notices, and for each image its seed.
//
// The transparent part of a mask is repainted, as OpenAI says. In a mask without transparent pixels white is repainted, as in other programs.
//
// Names of OpenAI's image models (dall-e-3, gpt-image-1, ...) select the first model here, since many programs send one to any server.
// Without response_format images are in base64, and for names of DALL·E URLs, which is OpenAI's default for each.
//
// # Limits
//
// Bodies, images and the memory of images served by URL are bounded by [Options]; how many bodies there are at once is up to what is in front of the
// handler. Input images are reduced to the size of the largest image that is generated. No path or URL of a request is opened.
package openai
