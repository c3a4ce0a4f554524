package nn

import "github.com/onestep-go/onestep/torch"

// Clone makes another network of net's configuration by create, with weights of its own, which are net's and do not require gradients: for a
// target network or EMA weights.
func Clone[C any, N interface {
	Config() C
	Store() *Store
	Close()
}](net N, create func(c C, dev torch.Device, dtype torch.DType, seed uint64) (N, error)) (N, error) {
	var none N
	from := net.Store()
	c, err := create(net.Config(), from.Device(), from.DType(), 0)
	if err != nil {
		return none, err
	}
	if err := c.Store().Load(from.Tensors()); err != nil {
		c.Close()
		return none, err
	}
	c.Store().SetRequiresGrad(false)
	return c, nil
}
