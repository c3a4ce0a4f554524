// Package vision reads and writes what images carry besides their pixels: text chunks, EXIF and the parts of their files. PNG, JPEG and
// WebP hold the settings of an image under different names; here they are one list of texts.
package vision
