// Package saved reads files of PyTorch's torch.save: state dicts in .pt, .pth, .ckpt and .bin files, and the training checkpoints that
// contain one. Nothing in a file is executed: its pickle is read as data by package internal/pickle, which calls no function, and only
// tensors and strings are taken from it.
//
// [Open] maps a file. A [File] is an nn.Source: it has the tensors by name, as views of the map, so that opening a file of gigabytes takes
// milliseconds and needs no memory. Tensors that are not contiguous in the file are copied when they are asked for. A file that holds several
// dictionaries of tensors, such as weights and their EMA, is opened with the keys to prefer; [File.Key] is the one that was used.
//
// Files are untrusted: offsets, shapes and strides are checked against the file, and numbers of opcodes, entries and dimensions are limited.
// Files from before PyTorch 1.6 are read, too. Compressed archives, big-endian files and pickles of whole modules are refused.
package saved
