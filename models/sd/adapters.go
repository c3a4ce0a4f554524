package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Adaptation is what adapters bring to the images of a prompt.
type Adaptation struct {
	Adapters   nn.Adapters
	Inversions []Inversion // bundled with the adapters
	Grids      []int       // sizes of the grids of timesteps that they were distilled on: see [AdapterFile]
	Runs       []AdapterRun
}

// CheckAdapters returns an error if some of the adapters were attached to another model: their target weights are not part of this model,
// so they would have no effect. The stores in beside are further networks that may have adapters, such as ControlNets.
func (m *Model) CheckAdapters(a nn.Adapters, beside ...*nn.Store) error {
	own := beside[:len(beside):len(beside)]
	if m.UNet != nil {
		own = append(own, m.UNet.Store())
	}
	for _, t := range m.Texts {
		own = append(own, t.Store())
	}
	if a.Closed() {
		return fmt.Errorf("an adapter was closed (%w): close it only after the last use", torch.ErrFreed)
	}
	if n := len(a) - len(a.Of(own...)); n > 0 {
		return fmt.Errorf("%d of the adapters' %d target weights do not belong to this model (%s): an adapter only works with the model that it was loaded for; load it for this model",
			n, len(a), quote.Text(m.Name()))
	}
	return nil
}
