// Package evaluation measures sets of images by their features: how far generated images are from those of a data set, and whether a
// model covers the data or repeats it.
//
// An Extractor maps images [B, 3, H, W] in [-1, 1] to features [B, D]: models/efficientnet, or a program's own network. A Collector
// adds up the features of one set, batch by batch: their Moments, for the Fréchet distance, and a limited number of rows, for distances
// that compare single images. So memory does not grow with the number of images.
//
// Compare does it all: it streams the images of a set and generated ones, and reports every measure with the numbers of images on both sides,
// the same measures of real images in place of generated ones, an interval of the Fréchet distance, and how near generated images are to
// training images. A Reference is the set's part of it, for several comparisons; it can be cached on disk. Parts can be used alone:
//
//   - Frechet is the squared Fréchet distance of two normal distributions (Heusel et al. 2017). It is FID only with the features of
//     the Inception network of FID, and depends on the features, on how images were resized, and on the number of images.
//   - Kernel is the kernel distance (KID), an unbiased estimate (Bińkowski et al. 2018).
//   - Neighbours counts precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
//   - Sliced is the sliced Wasserstein distance (Bonneel et al. 2015).
//   - Nearest finds the nearest real image of each generated one.
//   - Reference.Agreement tells whether images lie near the real images of the captions that they were generated from.
//
// All are computed in float64.
package evaluation
