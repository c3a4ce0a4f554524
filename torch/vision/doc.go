// Package vision reads and writes image files, and what they carry besides their pixels: text chunks, EXIF, animations. PNG, JPEG and
// WebP hold the settings of an image under different names; here they are one list of texts. [FromImages] and [ToImages] turn images into
// tensors and back.
//
// All images are decoded here, by [Decode]: those that models are trained on and those that they start from. [Resize] scales with
// Pillow's filters, [Square] cuts out training images, and [Grid] lays images out.
package vision
