package evaluation

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"image"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// store is a file with the features of a set. It is named by the hash of all that they depend on, so that it never has to be made invalid;
// a damaged file is made anew.
type store struct {
	path string // "": none
	key  string
}

// newStore returns the file for the features of the images of a set at the places drawn, of which the first rows are kept.
func newStore(dir, identity string, f Features, set Set, drawn []int, rows int) (store, error) {
	if dir == "" || identity == "" || f.Identity == "" {
		return store{}, nil
	}
	images, err := content(set, drawn)
	if err != nil {
		return store{}, err
	}
	key := fmt.Sprintf("onestep features 4\nset %q\ncontent %x\nfeatures %q %q %q\nimages %d\nrows %d\n", identity, images, f.Name, f.Resize, f.Identity, len(drawn), rows) //quote: a key, not for printing
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:])
	return store{filepath.Join(dir, name+".safetensors"), name}, nil
}

// sampledImages is the number of images whose pixels are part of a key, if the set does not have their content.
const sampledImages = 32

// content returns a hash of what the images drawn are stored as, which reads faster than it decodes, or of the pixels of the first of them.
func content(set Set, drawn []int) ([]byte, error) {
	sum := sha256.New()
	if stored, ok := set.(interface{ Content(i int) ([]byte, error) }); ok {
		for _, i := range drawn {
			data, err := stored.Content(i)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(sum, "%d\n", len(data))
			sum.Write(data)
		}
		return sum.Sum(nil), nil
	}
	for _, i := range drawn[:min(sampledImages, len(drawn))] {
		img, err := set.Image(i)
		if err != nil {
			return nil, err
		}
		size := img.Bounds().Size()
		fmt.Fprintf(sum, "%d×%d\n", size.X, size.Y)
		planes := make([]byte, 3*size.X*size.Y)
		vision.Planes(planes, img)
		sum.Write(planes)
	}
	return sum.Sum(nil), nil
}

// read fills in the reference, and reports whether the file was there and whole.
func (c store) read(r *Reference) bool {
	if c.path == "" {
		return false
	}
	w, err := torch.OpenWeights(c.path)
	if err != nil {
		return false
	}
	defer w.Close()
	metadata := w.File().Metadata()
	if metadata["key"] != c.key {
		return false
	}
	var size image.Point
	if n, err := fmt.Sscanf(metadata["size"], "%dx%d", &size.X, &size.Y); n != 2 || err != nil || size.X < 1 || size.Y < 1 {
		return false
	}
	shape, _, ok := w.Info("rows")
	if !ok || len(shape) != 2 || shape[0] != len(r.order) {
		return false
	}
	rows, d := shape[0], shape[1]
	err = r.scope.NoGrad(func(s *torch.Scope) error {
		sum := sha256.New()
		var read [3]*torch.Tensor
		for i, want := range []struct {
			name  string
			shape []int
		}{{"rows", []int{rows, d}}, {"mean", []int{d}}, {"cov", []int{d, d}}} {
			shape, dtype, ok := w.Info(want.name)
			if !ok || dtype != torch.Float64 || fmt.Sprint(shape) != fmt.Sprint(want.shape) {
				return fs.ErrInvalid
			}
			t, err := w.Get(s, want.name)
			if err != nil {
				return err
			}
			read[i] = t.Clone(s)
			digest(sum, read[i])
		}
		if hex.EncodeToString(sum.Sum(nil)) != metadata["sum"] {
			return fs.ErrInvalid
		}
		r.rows, r.Size = read[0].Clone(r.scope), size
		r.moments = Moments{N: int64(r.Images), Mean: torch.ToSlice[float64](read[1]), Cov: torch.ToSlice[float64](read[2])}
		return nil
	})
	return err == nil
}

// write writes the reference's features.
func (c store) write(r *Reference) error {
	if c.path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o777); err != nil {
		return err
	}
	return r.scope.NoGrad(func(s *torch.Scope) error {
		d := len(r.moments.Mean)
		all := []struct {
			name string
			is   *torch.Tensor
		}{{"rows", r.rows}, {"mean", torch.FromSlice(s, r.moments.Mean)}, {"cov", torch.FromSlice(s, r.moments.Cov, d, d)}}
		sum := sha256.New()
		for _, t := range all {
			digest(sum, t.is)
		}
		metadata := map[string]string{
			"key": c.key, "sum": hex.EncodeToString(sum.Sum(nil)), "features": r.Features.Name, "resize": r.Features.Resize, "images": strconv.Itoa(r.Images),
			"size": fmt.Sprintf("%dx%d", r.Size.X, r.Size.Y),
		}
		err := torch.SaveSafetensors(c.path, func(yield func(string, *torch.Tensor) bool) {
			for _, t := range all {
				if !yield(t.name, t.is) {
					return
				}
			}
		}, torch.SaveOptions{Metadata: metadata, Overwrite: true})
		if err != nil {
			return fmt.Errorf("evaluation: cache: %w", err)
		}
		return nil
	})
}

// digest adds a tensor's values to a hash.
func digest(h hash.Hash, t *torch.Tensor) {
	_ = binary.Write(h, binary.LittleEndian, torch.ToSlice[float64](t)) // a hash reports no errors
}
