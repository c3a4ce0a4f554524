package sd

import (
	"fmt"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Finite returns an error if weights of the model are NaN or infinite, which one of them makes of all that is computed.
func (m *Model) Finite() error {
	for name, st := range m.networks() {
		if err := finite(name, st); err != nil {
			return err
		}
	}
	if a, ok := m.VAE.(interface{ Store() *nn.Store }); ok {
		return finite("autoencoder", a.Store())
	}
	return nil
}

func finite(name string, st *nn.Store) error {
	return torch.Run(st.Device(), func(s *torch.Scope) error {
		for tensor, w := range st.Parameters() {
			if n := torch.CountNonFinite(s, []*torch.Tensor{w}); n > 0 {
				return fmt.Errorf("%s: %d of %d weights of %s are NaN or infinite: training that it comes from diverged, or the file is damaged", name, n, w.NumEl(), tensor)
			}
		}
		return nil
	})
}
