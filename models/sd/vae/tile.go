package vae

import (
	"github.com/onestep-go/onestep/models/blocks"
	"github.com/onestep-go/onestep/torch"
)

// overlap is the fraction of a tile that overlaps the next one, as in diffusers.
const overlap = 0.25

// code encodes images or decodes latents.
type code func(s *torch.Scope, x *torch.Tensor) *torch.Tensor

// sliced applies f to the whole batch, or to one image at a time.
func (k *KL) sliced(s *torch.Scope, x *torch.Tensor, f code) *torch.Tensor {
	n := x.Dim(0)
	if !k.Slice || n == 1 {
		return f(s, x)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		each := make([]*torch.Tensor, n)
		for i := range each {
			each[i] = f(s, x.Narrow(s, 0, i, 1))
		}
		return torch.Cat(s, each, 0)
	})
}

// tile returns Tile rounded so that the overlap of two tiles, and the rest, is a whole number of latents.
func (k *KL) tile() int {
	if k.Tile <= 0 {
		return 0
	}
	unit := int(1/overlap) * k.Factor()
	return max(k.Tile/unit, 1) * unit
}

// tiled applies f to x: at once, or, if x is larger than tile, in overlapping tiles of tile×tile pixels with results of result×result
// pixels, one after the other. Overlaps are blended linearly (diffusers' tiled_encode and tiled_decode).
func tiled(s *torch.Scope, x *torch.Tensor, tile, result int, f code) *torch.Tensor {
	height, width := x.Dim(2), x.Dim(3)
	if tile <= 0 || (height <= tile && width <= tile) {
		return f(s, x)
	}
	stride := int(float64(tile) * (1 - overlap))
	blend := int(float64(result) * overlap)
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		var above, rows []*torch.Tensor
		for i := 0; i < height; i += stride {
			var row, cut []*torch.Tensor
			for j := 0; j < width; j += stride {
				piece := x.Narrow(s, 2, i, min(tile, height-i)).Narrow(s, 3, j, min(tile, width-j))
				t := f(s, piece)
				if i > 0 {
					t = blocks.Release(fade(s, above[len(row)], t, 2, blend), t)
				}
				if j > 0 {
					t = blocks.Release(fade(s, row[len(row)-1], t, 3, blend), t)
				}
				row = append(row, t)
				kept := result - blend
				cut = append(cut, t.Narrow(s, 2, 0, min(kept, t.Dim(2))).Narrow(s, 3, 0, min(kept, t.Dim(3))))
			}
			rows = append(rows, torch.Cat(s, cut, 3))
			for _, t := range append(above, cut...) {
				t.Free()
			}
			above = row
		}
		return torch.Cat(s, rows, 2)
	})
}

// fade returns b with its first extent elements along dim blended with the last ones of a, from only a to nearly only b.
func fade(s *torch.Scope, a, b *torch.Tensor, dim, extent int) *torch.Tensor {
	extent = min(extent, a.Dim(dim), b.Dim(dim))
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		shape := []int{1, 1, 1, 1}
		shape[dim] = extent
		w := torch.Arange(s, extent, torch.Float64).DivScalar(s, float64(extent)).Reshape(s, shape...).To(s, b.DType())
		end := a.Narrow(s, dim, a.Dim(dim)-extent, extent)
		mixed := end.Mul(s, w.Neg(s).AddScalar(s, 1)).Add(s, b.Narrow(s, dim, 0, extent).Mul(s, w))
		return torch.Cat(s, []*torch.Tensor{mixed, b.Narrow(s, dim, extent, b.Dim(dim)-extent)}, dim)
	})
}

// tile returns Tile rounded so that a tile and the overlap of two are whole numbers of latents, the overlap at least 2.
func (t *Tiny) tile() int {
	if t.Tile <= 0 {
		return 0
	}
	unit := tinyOverlap * t.Factor()
	return max(t.Tile/unit, 2) * unit
}

// tinyOverlap: two tiles overlap by 1/tinyOverlap of their size, as in diffusers.
const tinyOverlap = 8

// pasted applies f to x: at once, or, if x is larger than tile, in overlapping tiles of tile×tile pixels with results of result×result
// pixels, one after the other. Each tile is blended over those before it, with weights from 0 at its top and left edges to 1 at the end of
// the overlap (diffusers' AutoencoderTiny). The blending is in place, so there is no tiling while gradients are recorded.
func pasted(s *torch.Scope, x *torch.Tensor, tile, result int, f code) *torch.Tensor {
	height, width := x.Dim(2), x.Dim(3)
	if tile <= 0 || (height <= tile && width <= tile) || s.GradEnabled() {
		return f(s, x)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		ramp := torch.Arange(s, result, torch.Float64).DivScalar(s, float64(result/tinyOverlap-1)).Clamp(s, 0, 1).To(s, x.DType())
		stride := tile - tile/tinyOverlap
		var out *torch.Tensor
		for i := 0; i < height; i += stride {
			for j := 0; j < width; j += stride {
				s.Tidy(func(c *torch.Scope) *torch.Tensor {
					t := f(c, x.Narrow(c, 2, i, min(tile, height-i)).Narrow(c, 3, j, min(tile, width-j)))
					if out == nil {
						out = torch.Zeros(s, t.DType(), t.Dim(0), t.Dim(1), height*result/tile, width*result/tile)
					}
					h, w := t.Dim(2), t.Dim(3)
					under := out.Narrow(c, 2, i*result/tile, h).Narrow(c, 3, j*result/tile, w)
					part := torch.Ones(c, t.DType(), h, w)
					if i > 0 {
						part = part.Mul(c, ramp.Narrow(c, 0, 0, h).Reshape(c, h, 1))
					}
					if j > 0 {
						part = part.Mul(c, ramp.Narrow(c, 0, 0, w))
					}
					under.CopyFrom(c, part.Mul(c, t).Add(c, part.Neg(c).AddScalar(c, 1).Mul(c, under)))
					return nil
				})
			}
		}
		return out
	})
}
