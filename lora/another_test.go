package lora

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// An adapter that was loaded for one model is an error on another, even on one of the same files: it would change nothing there.
func TestAdapterOfAnotherModel(t *testing.T) {
	m1, m2 := openTiny(t, "sd15"), openTiny(t, "sd15")
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, filled(t, Of(m1), Config{Rank: 2, Targets: []string{"to_q", "q_proj"}}).Write(path, WriteOptions{}))
	a, err := Load(m1, path, Options{})
	require.NoError(t, err)
	defer a.Close()
	b, err := Load(m2, path, Options{})
	require.NoError(t, err)
	defer b.Close()
	beside, err := nn.Build(torch.CPU, torch.Float32, 1, func(p nn.Path) { nn.NewLinear(p.Sub("unet"), 2, 2) })
	require.NoError(t, err)
	defer beside.Close()
	more := nn.Adapters{}
	for _, w := range beside.Tensors() {
		more[w] = nil
	}
	embed := func(m *sd.Model, a nn.Adapters) error {
		return torch.Run(torch.CPU, func(s *torch.Scope) error {
			m.Embed(s, a, sd.Text{Prompt: "a cat"})
			return nil
		})
	}
	for name, use := range map[string]func(m *sd.Model, a nn.Adapters) error{
		"check": func(m *sd.Model, a nn.Adapters) error { return m.CheckAdapters(a) }, "embed": embed, "merge": Merge,
	} {
		require.NoError(t, use(m1, nil), name)
		require.NoError(t, use(m1, a.At(1)), name)
		require.NoError(t, use(m2, b.At(1)), name)
		for _, wrong := range []nn.Adapters{a.At(1), b.At(1).And(a.At(1)), more} {
			require.ErrorContains(t, use(m2, wrong), "do not belong to this model", name)
		}
		require.NoError(t, Merge(m1, nil))
		require.NoError(t, Merge(m2, nil))
	}
	require.NoError(t, m1.CheckAdapters(a.At(1).And(more), beside)) // a ControlNet's
}
