package evaluation_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/evaluation"
)

// A distance alone is that of the whole report.
func TestDistance(t *testing.T) {
	r, err := evaluation.NewReference(t.Context(), features, draw(1, 300, 100), evaluation.ReferenceOptions{})
	require.NoError(t, err)
	defer r.Close()
	images := draw(2, 120, 110)
	report, err := r.Compare(t.Context(), images.all, evaluation.Options{})
	require.NoError(t, err)
	for _, name := range evaluation.MeasureNames() {
		by, seen := evaluation.Measure(name), 0
		got, err := r.Distance(t.Context(), by, images.all, evaluation.Options{Progress: func(done int) { seen = done }})
		require.NoError(t, err)
		require.InEpsilon(t, by.In(report), got, 1e-9, name)
		require.Equal(t, 120, seen)
	}
	_, err = r.Distance(t.Context(), "fid", images.all, evaluation.Options{})
	require.ErrorContains(t, err, "fd, kid")
	_, err = r.Distance(t.Context(), evaluation.FD, draw(2, 1, 100).all, evaluation.Options{})
	require.Error(t, err)
}
