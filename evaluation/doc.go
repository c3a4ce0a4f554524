// Package evaluation measures sets of images by their features: how far generated images are from those of a data set, and whether a
// model covers the data or repeats it.
//
// An Extractor maps images [B, 3, H, W] in [-1, 1] to features [B, D]: models/efficientnet, or a program's own network. A Collector
// adds up the features of one set, batch by batch: their Moments, for the Fréchet distance, and a limited number of rows, for distances
// that compare single images. So memory does not grow with the number of images.
//
//   - Frechet is the squared Fréchet distance of two normal distributions (Heusel et al. 2017). It is FID only with the features of
//     the Inception network of FID, and depends on the features, on how images were resized, and on the number of images.
//   - Kernel is the kernel distance (KID), an unbiased estimate (Bińkowski et al. 2018).
//   - Neighbours counts precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).
//
// All are computed in float64.
package evaluation
