package generate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// Run yields each step of each batch, with the step's prediction of the images; leaving the loop ends it.
func TestRun(t *testing.T) {
	m := open(t, denoiser(t))
	plan, err := m.Plan(ctx, generate.Request{Seeds: []uint64{5, 900, 3}, Labels: []int{2, 0, 1}, Batch: 2, Steps: 3, Sampler: "euler"})
	require.NoError(t, err)
	defer plan.Close()
	var steps, sizes []int
	var got []generate.Image
	for st, err := range plan.Run(ctx) {
		require.NoError(t, err)
		steps, sizes = append(steps, st.First, st.I, st.Steps), append(sizes, st.N)
		shown, err := st.Preview(nil)
		require.NoError(t, err)
		require.Len(t, shown, st.N)
		got = append(got, st.Images...)
	}
	require.Equal(t, []int{0, 1, 3, 0, 2, 3, 0, 3, 3, 2, 1, 3, 2, 2, 3, 2, 3, 3}, steps)
	require.Equal(t, []int{2, 2, 2, 1, 1, 1}, sizes)

	// Each image is as alone.
	for i, seed := range []uint64{5, 900, 3} {
		label := []int{2, 0, 1}[i]
		want := all(t, m, generate.Request{Seed: seed, Labels: []int{label}, Steps: 3, Sampler: "euler"})[0]
		require.Equal(t, []any{seed, label}, []any{got[i].Seed, got[i].Label})
		require.Equal(t, want.Texts, got[i].Texts)
		require.LessOrEqual(t, torchtest.Levels(want.Image, got[i].Image), 1)
	}
	for range plan.Run(ctx) {
		break
	}
	for _, wrong := range []generate.Request{
		{Seeds: []uint64{}}, {Seeds: []uint64{1}, N: 2}, {Seeds: []uint64{1}, Seed: 1}, {Seeds: []uint64{1, 2, 3}, Prompts: []string{"a", "b"}},
		{Seeds: []uint64{1, 2}, Edit: &generate.Edit{Task: generate.Interpolate}},
	} {
		_, err := m.Plan(ctx, wrong)
		var refused *generate.RequestError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "Seeds", refused.Field)
	}
	byLabel := all(t, m, generate.Request{Seeds: []uint64{4, 8}})
	require.Equal(t, []int{1, 2}, []int{byLabel[0].Label, byLabel[1].Label}, "by each seed")
}
