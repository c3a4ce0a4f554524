package job

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
)

// What --label may say, and when it is told how a number was taken.
func TestLabels(t *testing.T) {
	model := func(names ...string) checkpoint.Description {
		return checkpoint.Description{ClassNames: names, Network: network.Config{Net: unet.Config{Classes: len(names)}}}
	}
	digits, long := model("1", "2", "3"), model("tench, Tinca tinca", "goldfish", "shark")
	for _, c := range []struct {
		text  string
		d     checkpoint.Description
		want  []int
		notes int
	}{
		{"", digits, nil, 0},
		{"2", digits, []int{1}, 1},
		{"0,3", digits, []int{0, 2}, 1},
		{"2", long, []int{2}, 0},
		{"tench, Tinca tinca", long, []int{0}, 0},
		{"goldfish, shark ,goldfish", long, []int{1, 2, 1}, 0},
	} {
		notes := 0
		got, err := labels(c.text, c.d, func(string) { notes++ })
		require.NoError(t, err, c.text)
		require.Equal(t, c.want, got, c.text)
		require.Equal(t, c.notes, notes, c.text)
	}
	for _, text := range []string{"4", "-1", "shark,,shark", "whale"} {
		_, err := labels(text, long, nil)
		require.ErrorAs(t, err, new(*UsageError), text)
	}
	// More classes than images are said, and one image has one class.
	var notes []string
	o := Sample{Class: "shark,goldfish", Label: Unset, N: 1, Note: func(n string) { notes = append(notes, n) }}
	wanted, err := o.labels(long)
	require.NoError(t, err)
	require.Equal(t, []int{2, 1}, wanted)
	require.Len(t, notes, 1)
	_, err = (&Sample{Class: "shark", N: 1}).labels(model())
	require.ErrorAs(t, err, new(*UsageError))
	_, err = (&Sample{Label: 3, N: 1}).labels(long)
	require.ErrorContains(t, err, "0 to 2")
}
