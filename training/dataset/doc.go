// Package dataset reads images for training: the embedded emoji, IDX files, CIFAR-10 and CIFAR-100, directories of images
// and WebDataset shards, behind one interface, and a [Loader] that decodes in the background.
//
// It is plain Go and makes no tensors: a loader yields bytes.
//
// # Formats
//
// Images are PNG, JPEG, GIF (first frame), WebP and BMP of any colour model. Transparent images are composited on white. EXIF
// orientation is applied, colour profiles are ignored. With a resolution, images are center-cropped to a square and resampled with an
// antialiased Catmull-Rom filter.
//
// In a directory of images, each subdirectory is a class, numbered in the order of the names, unless there are images outside of
// subdirectories; cat.txt is the caption of cat.jpg. In shards, members with the same name up to the first dot are a sample: an image,
// .cls (a class index), .txt (a caption), .json ("label", "caption"); hard links are followed. Plain .tar shards are read in place; gzipped
// shards are kept in memory, with their images encoded. CIFAR files are the binary or Python version, whose pickles are parsed without
// executing code. [Set.Notices] and [Set.LeftOut] report decisions and skipped files.
//
// # Damaged files
//
// Files are untrusted: sizes are checked before memory is allocated. A damaged archive or table is an error when it is opened. A damaged
// image is a [CorruptError] when it is read. A loader returns that error, or with SkipCorrupt uses another image and counts it.
package dataset
