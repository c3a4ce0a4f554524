// Package dataset reads images for training: the embedded emoji, IDX files, CIFAR-10 and CIFAR-100, folders of images
// and WebDataset shards, behind one interface, and a [Loader] that decodes beside training.
//
// It is plain Go and makes no tensors: a loader's goroutines hand over bytes.
//
// # What is read
//
// Images are PNG, JPEG, GIF (first frame), WebP and BMP of any colour model. Transparent ones are put on white, a JPEG's
// EXIF orientation is obeyed, colour profiles are not. With a resolution, the middle square is resampled by a Catmull-Rom
// kernel that widens when it shrinks, so that nothing aliases.
//
// A folder's subfolders are classes, numbered in the order of their names, when no image lies beside them; cat.txt is the caption of
// cat.jpg. In shards, members of one name up to the first dot are a sample: an image, .cls (a class index), .txt (a caption), .json
// ("label", "caption"); a hard link is what it is a link to. Plain .tar shards are read in place; gzipped ones cannot be, so their images
// stay in memory, encoded. CIFAR's files are its binary or Python version, of which the pickles are read as data. What is decided or
// left out on the way is in [Set.Notices] and [Set.LeftOut].
//
// # Damage
//
// Files are hostile until proven otherwise: what they declare is checked before anything is allocated for it. An archive
// or a table that is damaged is not opened. An image that is damaged is a [CorruptError] when it is read, which a loader
// returns, or with SkipCorrupt replaces and counts.
package dataset
