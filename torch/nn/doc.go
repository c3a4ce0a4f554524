// Package nn has neural-network layers, and the store that owns their weights.
//
// A layer is a plain struct, made under a [Path] of a [Store], a prefix in its tree of names. Making a layer creates its
// parameters under that prefix, so that their names follow from the structure of the network. Networks in this project use
// the names of published checkpoints, which load without renaming:
//
//	st, err := nn.Build(dev, torch.Float32, seed, func(p nn.Path) {
//		n.conv = nn.NewConv2D(p.Sub("conv_in"), 3, 64, 3, torch.Conv2DOptions{Padding: []int{1, 1}})
//		n.norm = nn.NewGroupNorm(p.Sub("blocks", 0, "norm1"), 8, 64, 1e-5) // blocks.0.norm1.weight and .bias
//	})
//
// [Build] samples initial weights ([Init]) from a seed; [BuildFrom] takes them from a file, without a copy if dtype and device
// match. The store counts, loads, converts and frees them, and yields them in the order of creation ([Store.Parameters],
// [Store.Tensors]). [Shapes] runs the same function without making tensors, so that a file can be checked against a network
// before any memory is used.
//
// Inputs are [B, C, H, W] for convolutions and group norms, [..., features] for linear layers and layer norms, and int64
// indices for embeddings. A layer's Forward takes the scope that owns the result first, as every operator of package torch.
//
// A layer computes in its parameters' dtype. One with float32 parameters also takes an input in half precision and then computes in that
// dtype (mixed precision): its weights are cast in each call, and their gradients are float32. Norms keep float32 parameters and statistics.
//
// [Adapters] map weights to deltas ([Adapter], such as LoRA's [LowRank]). They are passed with a call and do not modify the
// store, so goroutines that share a network can each use their own; [Store.Merge] merges them into the weights and unmerges
// them.
package nn
