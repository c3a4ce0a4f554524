package training

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Losses and gradients are those of PyTorch, with the network told r or τ-r.
func TestMeanFlowLossGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		r := readReference(t, s, "meanflow")
		net := r.net(t, "model", true)
		for name, f := range map[string]*MeanFlow{
			"plain":    {Model: &models.MeanFlow{Net: net}},
			"interval": {Model: &models.MeanFlow{Net: net, Scale: 3, Interval: true}, Power: 0.75, Eps: 0.01},
		} {
			r.require(t, s, name, f.LossAt(s, r.batch(), r.numbers("r"), r.numbers("tau"), r["z"], 1), net)
		}
		return nil
	}))
}
