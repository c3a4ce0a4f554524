package lora

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Extracted describes the extracted module of one layer.
type Extracted struct {
	Name string
	Rank int
	Kept float64 // fraction of the difference's squared norm that the module keeps
}

// Extract writes the LoRA of the given rank that approximates the difference of tuned from base best: the leading singular vectors of each
// layer's difference (Eckart & Young 1936). Layers without a difference are omitted. It also returns the names of the other weights that
// differ, or that only tuned has, which the adapter does not cover: biases, norms, embeddings. progress is called before each weight.
func Extract(ctx context.Context, path string, base, tuned *weights.Model, rank int, o WriteOptions, progress func(done, all int)) (modules []Extracted, others []string, err error) {
	if rank == 0 {
		rank = 64
	}
	if rank < 1 {
		return nil, nil, fmt.Errorf("rank: want 1 or more, got %d", rank)
	}
	plans, err := plansOf(base)
	if err != nil {
		return nil, nil, err
	}
	t := tableOfPlan(plans)
	layers := map[string]*spot{}
	for _, s := range t.spots {
		if len(s.shape) > 1 { // a norm's weight has no low-rank factors
			layers[s.name()+".weight"] = s
		}
	}
	theirs := components(tuned)
	var differ []string
	total := 0
	for part, plan := range plans {
		if theirs[part] == nil {
			return nil, nil, fmt.Errorf("the tuned model has no %s", quote.Text(part))
		}
		for _, w := range plan {
			shape, _, ok := theirs[part].Info(w.Name)
			if !ok || product(shape) != product(w.Dims) {
				differ = append(differ, quote.Text(part+"."+w.Name))
			}
			total++
		}
	}
	if differ != nil {
		return nil, nil, fmt.Errorf("the models have different architectures: %s", list("weight", " missing from the tuned model, or with another shape there", differ))
	}
	if others, err = added(plans, tuned); err != nil {
		return nil, nil, err
	}
	scope := torch.NewScope(torch.CPU)
	defer scope.Close()
	var all []output
	done := 0
	for _, part := range []string{unetPart, textPart, text2Part} {
		mine, other := components(base)[part], theirs[part]
		for _, w := range plans[part] {
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			progress(done, total)
			done++
			name := part + "." + w.Name
			var a, b *torch.Tensor
			var kept float64
			same := true
			err := scope.NoGrad(func(s *torch.Scope) error {
				delta, err := difference(s, mine, other, w.Name)
				if err != nil {
					return err
				}
				if same = delta.Abs(s).Max(s).Item() == 0; same || layers[name] == nil {
					return nil
				}
				a, b, kept, err = leading(s, delta.Flatten(s, 1, -1), rank)
				if err == nil {
					s.Keep(a)
					s.Keep(b)
				}
				return err
			})
			switch {
			case err != nil:
				return nil, nil, fmt.Errorf("%s: %w", quote.Text(name), err)
			case same:
				continue
			case layers[name] == nil:
				others = append(others, name)
				continue
			}
			spot := layers[name]
			r := a.Dim(0)
			shapeA, shapeB := []int{r, spot.shape[1]}, []int{spot.shape[0], r}
			if spot.convolution() {
				shapeA, shapeB = append(shapeA, spot.shape[2:]...), append(shapeB, 1, 1)
			}
			all = append(all, output{
				part: part, path: spot.path, kind: LowRank, rank: r, alpha: float64(r), alphaType: torch.Float32, order: []role{down, up},
				get: func(s *torch.Scope, which role) (*torch.Tensor, error) {
					if which == down {
						return a.Reshape(s, shapeA...), nil
					}
					return b.Reshape(s, shapeB...), nil
				},
				info: func(which role) ([]int, torch.DType) {
					if which == down {
						return shapeA, torch.Float32
					}
					return shapeB, torch.Float32
				},
			})
			modules = append(modules, Extracted{spot.name(), r, kept})
		}
	}
	if all == nil {
		return nil, others, errors.New("the models have the same weights in all layers: there is nothing to extract")
	}
	return modules, others, write(path, all, nil, plans[text2Part] != nil, o)
}

// added returns the names of the weights that only tuned has, such as the embedding of a guidance scale.
func added(base map[string][]nn.Shape, tuned *weights.Model) (names []string, err error) {
	plans, err := plansOf(tuned)
	if err != nil {
		return nil, err
	}
	for _, part := range []string{unetPart, textPart, text2Part} {
		for _, w := range plans[part] {
			if !slices.ContainsFunc(base[part], func(b nn.Shape) bool { return b.Name == w.Name }) {
				names = append(names, part+"."+w.Name)
			}
		}
	}
	return names, nil
}

// difference returns tuned's tensor minus base's, in float32.
func difference(s *torch.Scope, base, tuned nn.Source, name string) (*torch.Tensor, error) {
	a, err := base.Get(s, name)
	if err != nil {
		return nil, err
	}
	b, err := tuned.Get(s, name)
	if err != nil {
		return nil, err
	}
	base.Release(name)
	tuned.Release(name)
	delta := b.To(s, torch.Float32).Reshape(s, a.Shape()...).Sub(s, a.To(s, torch.Float32))
	if delta.IsFinite(s).All(s).Item() == 0 {
		return nil, errors.New("the difference of the models is NaN or infinite")
	}
	return delta, nil
}

// leading returns factors a [r, n] and b [m, r], of equal norm, of the best approximation b·a of d [m, n], and the fraction of d's squared
// norm that it keeps. Large matrices use a randomised SVD with power iterations (Halko et al. 2011, algorithms 4.4 and 5.1).
func leading(s *torch.Scope, d *torch.Tensor, rank int) (a, b *torch.Tensor, kept float64, err error) {
	const (
		small = 320 // up to this many rows or columns use a full SVD
		more  = 16  // oversampling: columns beyond the rank
		times = 4   // power iterations
	)
	m, n := d.Dim(0), d.Dim(1)
	rank = min(rank, m, n)
	var left *torch.Tensor // [m, k], orthonormal
	core := d
	if min(m, n) > small && rank+more < min(m, n) {
		y := d.MatMul(s, torch.Randn(s, torch.NewGenerator(s, 0), torch.Float32, n, rank+more))
		for i := range times + 1 {
			if left, err = orthonormal(s, y); err != nil {
				return nil, nil, 0, err
			}
			if i == times {
				break
			}
			z, err := orthonormal(s, d.Transpose(s, 0, 1).MatMul(s, left))
			if err != nil {
				return nil, nil, 0, err
			}
			y = d.MatMul(s, z)
		}
		core = left.Transpose(s, 0, 1).MatMul(s, d)
	}
	out, err := torch.Call(s, "aten::linalg_svd", core, false)
	if err != nil {
		return nil, nil, 0, err
	}
	u, sigma, v := out[0].(*torch.Tensor), out[1].(*torch.Tensor), out[2].(*torch.Tensor)
	u, sigma, v = u.Narrow(s, 1, 0, rank), sigma.Narrow(s, 0, 0, rank), v.Narrow(s, 0, 0, rank)
	if left != nil {
		u = left.MatMul(s, u)
	}
	root := sigma.Sqrt(s)
	kept = math.Min(1, sigma.Square(s).Sum(s).Item()/d.Square(s).Sum(s).Item())
	return v.Mul(s, root.Reshape(s, -1, 1)), u.Mul(s, root), kept, nil
}

// orthonormal returns an orthonormal basis of the columns of y.
func orthonormal(s *torch.Scope, y *torch.Tensor) (*torch.Tensor, error) {
	out, err := torch.Call(s, "aten::linalg_qr", y)
	if err != nil {
		return nil, err
	}
	return out[0].(*torch.Tensor), nil
}
