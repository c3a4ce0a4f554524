// Package vision reads and writes image files, and what they carry besides their pixels: text chunks, EXIF, animations. PNG, JPEG and
// WebP hold the settings of an image under different names; here they are one list of texts. [FromImages] and [ToImages] turn images into
// tensors and back.
package vision
