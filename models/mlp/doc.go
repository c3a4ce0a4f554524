// Package mlp implements a multilayer perceptron for toy problems: points in a few dimensions, or very small images. It trains in
// seconds on a CPU, so that it is useful for trying out a method and for tests.
//
// [Config] has the shape of a sample (by default [2], a point in the plane), the width and the depth; its zero value works. [New]
// makes the network with random weights. [MLP] is a models.Network like those of packages unet and dit: class labels, the end
// of a jump and a guidance scale are options. It owns its weights: Close frees them.
//
// The first layer takes the input and its sines and cosines. They halve the error of a denoiser of points around a grid of spacing
// 0.6, at noise level 0.2 and after 1,200 training steps.
package mlp
