// Package vision reads and writes image files with their metadata: text chunks and EXIF. PNG, JPEG and WebP store the settings of a
// generated image under different names; here they are one list of texts. [FromImages] and [ToImages] convert images to tensors and back.
//
// [Decode] decodes training images and input images alike. Of an animation it reads the first frame. [Resize] scales with Pillow's
// filters, [Square] makes a square training image, and [Grid] arranges images in a grid.
package vision
