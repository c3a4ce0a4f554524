package job

import (
	"fmt"
	"image"
	"os"
	"slices"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch/vision"
)

// canWrite checks the directory of the cache, and the file of the picture of nearest images.
func (o Eval) canWrite() error {
	if st, err := os.Stat(o.Cache); err == nil && !st.IsDir() {
		return usage("--cache %s: a file; wanted a directory", quote.Path(o.Cache))
	}
	if o.Nearest == "" {
		return nil
	}
	if err := atomicfile.Writable(directoryOf(o.Nearest)); err != nil {
		return fmt.Errorf("--nearest: %w", err)
	}
	return mayWrite(o.Nearest, o.Overwrite)
}

// drawNearest writes the generated images, the most similar ones first, in rows, each above a row of the real images nearest to them.
func (o Eval) drawNearest(set evaluation.Set, pairs []evaluation.Pair) error {
	const columns = evalPairs / 2
	var all []image.Image
	for row := range slices.Chunk(pairs, columns) {
		size := row[0].Image.Bounds().Size()
		blank := vision.OnWhite(image.NewNRGBA(image.Rectangle{Max: size}))
		upper, lower := make([]image.Image, columns), make([]image.Image, columns)
		for i := range columns {
			upper[i], lower[i] = blank, blank
			if i >= len(row) {
				continue
			}
			real, err := set.Image(row[i].Real)
			if err != nil {
				return err
			}
			upper[i], lower[i] = vision.OnWhite(row[i].Image), vision.OnWhite(real)
			if real.Bounds().Size() != size {
				lower[i] = vision.Resize(lower[i], size.X, size.Y, vision.Bicubic)
			}
		}
		all = append(append(all, upper...), lower...)
	}
	grid, err := vision.Grid(all, columns)
	if err != nil {
		return err
	}
	if err := makeDirectories(o.Nearest); err != nil {
		return err
	}
	return vision.Write(o.Nearest, grid, vision.WriteOptions{Overwrite: o.Overwrite})
}
