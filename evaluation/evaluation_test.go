package evaluation_test

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func number(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	return v
}

// moments adds rows in batches of the given size.
func moments(t *testing.T, s *torch.Scope, rows *torch.Tensor, batch int) evaluation.Moments {
	t.Helper()
	c := evaluation.NewCollector(0)
	defer c.Close()
	for at := 0; at < rows.Dim(0); at += batch {
		require.NoError(t, c.Add(rows.Narrow(s, 0, at, min(batch, rows.Dim(0)-at))))
	}
	m, err := c.Moments()
	require.NoError(t, err)
	return m
}

// Distances equal scipy's, torch-fidelity's and prdc's. All is float64; scipy's root of a matrix is accurate to about 1e-10.
func TestGolden(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, metadata := torchtest.Golden(t, s, "testdata/golden.safetensors")
		a, b := golden["a"], golden["b"]
		for _, batch := range []int{7, 150} {
			d, err := evaluation.Frechet(moments(t, s, a, batch), moments(t, s, b, batch))
			require.NoError(t, err)
			require.InEpsilon(t, number(t, metadata["frechet"]), d, 1e-9)
			require.InEpsilon(t, number(t, metadata["fidelity"]), d, 1e-9)
		}
		kid, std, err := evaluation.Kernel{Subsets: 3}.Distance(s, a.Narrow(s, 0, 0, 120), b)
		require.NoError(t, err)
		require.InEpsilon(t, number(t, metadata["kid"]), kid, 1e-10)
		require.Zero(t, std) // every subset is the whole set
		var want map[string]float64
		require.NoError(t, json.Unmarshal([]byte(metadata["prdc"]), &want))
		m, err := evaluation.Neighbours{}.Compare(s, a, b)
		require.NoError(t, err)
		require.InDeltaMapValues(t, want, map[string]float64{
			"precision": m.Precision, "recall": m.Recall, "density": m.Density, "coverage": m.Coverage}, 1e-12)
		return nil
	}))
}

// With fewer images than features, where covariances are singular, and for means far from zero, the distance of a set to itself is zero, and
// that to a shifted copy is the square of the shift.
func TestFrechetOfFewImages(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 10, 64).AddScalar(s, 1e6)
		a := moments(t, s, x, 3)
		d, err := evaluation.Frechet(a, a)
		require.NoError(t, err)
		require.InDelta(t, 0, d, 1e-5) // the root of rounding errors of 1e-16
		d, err = evaluation.Frechet(a, moments(t, s, x.AddScalar(s, 2), 10))
		require.NoError(t, err)
		require.InEpsilon(t, 4*64, d, 1e-6)
		return nil
	}))
}

func TestNearest(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		data := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float64, 30, 4).AddScalar(s, 1e4)
		places, d, err := evaluation.Nearest(s, data, data.Narrow(s, 0, 7, 2).AddScalar(s, 1e-5))
		require.NoError(t, err)
		require.Equal(t, []int64{7, 8}, places)
		require.InEpsilonSlice(t, []float64{2e-5, 2e-5}, d, 1e-3)
		return nil
	}))
}

func TestRefused(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		c := evaluation.NewCollector(2)
		defer c.Close()
		_, err := c.Moments()
		require.ErrorContains(t, err, "got 0")
		require.ErrorContains(t, c.Add(torch.Full(s, math.NaN(), torch.Float32, 3, 4)), "12 of 12")
		require.NoError(t, c.Add(torch.Zeros(s, torch.Float32, 3, 4)))
		require.ErrorContains(t, c.Add(torch.Zeros(s, torch.Float32, 3, 5)), "want 4")
		rows, err := c.Rows(s)
		require.NoError(t, err)
		require.Equal(t, []int{2, 4}, rows.Shape())
		require.EqualValues(t, 3, c.N())
		m, err := c.Moments()
		require.NoError(t, err)
		_, err = evaluation.Frechet(m, evaluation.Moments{N: 3, Mean: []float64{1}, Cov: []float64{1}})
		require.ErrorContains(t, err, "4 and 1")
		_, err = evaluation.Frechet(m, evaluation.Moments{N: 3, Mean: []float64{1}, Cov: []float64{math.NaN()}})
		require.ErrorContains(t, err, "covariance has NaN")
		_, err = evaluation.Frechet(evaluation.Moments{N: 3, Mean: []float64{math.Inf(1)}, Cov: []float64{1}}, m)
		require.ErrorContains(t, err, "mean has NaN or infinite")
		_, err = evaluation.Neighbours{}.Compare(s, rows, rows)
		require.ErrorContains(t, err, "at least 6")
		return nil
	}))
}
