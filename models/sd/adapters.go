package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// CheckAdapters reports adapters that were attached to another model: they change weights that this model does not have, and so would do
// nothing. Networks that run beside it, such as ControlNets, may have adapters of their own.
func (m *Model) CheckAdapters(a nn.Adapters, beside ...*nn.Store) error {
	own := append(beside[:len(beside):len(beside)], m.UNet.Store())
	for _, t := range m.Texts {
		own = append(own, t.Store())
	}
	if a.Closed() {
		return fmt.Errorf("an adapter was closed (%w): close it when nothing needs it any more", torch.ErrFreed)
	}
	if n := len(a) - len(a.Of(own...)); n > 0 {
		return fmt.Errorf("%d of the adapters' %d target weights do not belong to this model (%s): an adapter works on the model that it was loaded for; load it for this one",
			n, len(a), quote.Text(m.Name()))
	}
	return nil
}
