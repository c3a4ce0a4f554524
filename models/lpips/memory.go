package lpips

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
)

// NetOf returns the network whose weights a file for [Open] holds; "" if they belong to neither.
func NetOf(path string) (Net, error) {
	w, err := torch.OpenWeights(path)
	if err != nil {
		return "", fmt.Errorf("lpips: weights: %w", err)
	}
	defer w.Close()
	shapes := map[string][]int{}
	for t := range w.File().Tensors() {
		shapes[t.Name] = t.Shape
	}
	return recognise(shapes), nil
}

// Count returns the number of weights.
func (c Config) Count() (n int) {
	in := 3
	for _, part := range c.Net.architecture().slices {
		for _, v := range part.convs {
			n += (in*v.kernel*v.kernel + 1) * v.out
			in = v.out
		}
		n += in
	}
	return n
}

// Activations estimates the peak memory in tensor elements, for one pair of images of height h and width w, one of which requires
// gradients: all of its features are kept, and the compared features of the other.
func (c Config) Activations(h, w int) float64 {
	switch {
	case c.Resize == ResizeAll, c.Resize == ResizeSmall && min(h, w) < small:
		h, w = resized, resized
	}
	kept, compared, most := 4*float64(h)*float64(w)*3, 0.0, 0.0
	for _, part := range c.Net.architecture().slices {
		if part.pools {
			kept += float64(h) * float64(w) / 4 // indices of max pooling, roughly
			h, w = h/2, w/2
		}
		var features float64
		for _, v := range part.convs {
			h, w = h/max(v.opt.Stride, 1), w/max(v.opt.Stride, 1)
			features = float64(v.out) * float64(h) * float64(w)
			kept += features
			most = max(most, features)
		}
		compared += features
	}
	return kept + 3*compared + 2*most
}
