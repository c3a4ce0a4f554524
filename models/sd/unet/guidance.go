package unet

import (
	"fmt"
	"iter"

	"github.com/onestep-go/onestep/torch"
)

const condProj = "time_embedding.cond_proj.weight"

// WithGuidance returns a new, trainable network with u's weights and a guidance embedding of dim numbers, the student of full latent
// consistency distillation (Luo et al. 2023). As in the published training the embedding's projection is drawn as in PyTorch, uniformly
// within ±1/√dim, so that the network at first differs from u. It is on u's device, in the given type, which for training is float32
// whatever u's is. dim 0 is 256, that of all published models.
func (u *UNet) WithGuidance(dim int, dtype torch.DType, seed uint64) (*UNet, error) {
	c := u.config
	if c.TimeCondProjDim > 0 {
		return nil, fmt.Errorf("unet: the network already has a guidance embedding, of %d numbers: train a copy of it as it is", c.TimeCondProjDim)
	}
	if c.TimeCondProjDim = dim; dim == 0 {
		c.TimeCondProjDim = 256
	}
	n, err := New(c, u.store.Device(), dtype, seed)
	if err != nil {
		return nil, err
	}
	if err := n.store.Load(u.and(n.cond.Weight)); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// and yields u's tensors and the projection of a guidance embedding.
func (u *UNet) and(projection *torch.Tensor) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for name, t := range u.Tensors() {
			if !yield(name, t) {
				return
			}
		}
		yield(condProj, projection)
	}
}
