// Package sampling draws images from consistency functions and denoisers, and turns tensors into pictures.
//
// Every image has its own random stream, so image 17 is the same whatever the batch it is drawn in.
package sampling
