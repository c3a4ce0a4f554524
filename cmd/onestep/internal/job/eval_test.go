package job

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
)

// Labels have the data's frequencies to within one image.
func TestApportion(t *testing.T) {
	require.Equal(t, []int{0, 0, 0, 2, 2, 2, 2, 2, 2, 0}, apportion([]int{7, 0, 13}, 10))
	require.Equal(t, []int{0, 1, 2}, apportion([]int{5, 5, 5}, 3))
	require.Len(t, apportion([]int{1, 2, 3, 4, 5, 6, 7}, 1001), 1001)
}

// Classes are those of the same name, or of the same number if there are no names.
func TestClassesOfData(t *testing.T) {
	c := unet.DDPMPP(8, 3, 8, []int{1}, 1)
	c.Classes = 3
	d := checkpoint.Description{Network: network.Config{Net: c}, ClassNames: []string{"cat", "dog", "fox"}}
	got, err := classesOf(d, []string{"fox", "cat"}, []int{4, 6})
	require.NoError(t, err)
	require.Equal(t, []int{6, 0, 4}, got)
	_, err = classesOf(d, []string{"fox", "cow"}, []int{4, 6})
	require.ErrorContains(t, err, "does not have")
	_, err = classesOf(d, nil, nil)
	require.ErrorContains(t, err, "no classes")
	d.ClassNames = nil
	got, err = classesOf(d, []string{"fox", "cat"}, []int{4, 6})
	require.NoError(t, err)
	require.Equal(t, []int{4, 6, 0}, got)
	_, err = classesOf(d, nil, []int{1, 1, 1, 1})
	require.ErrorContains(t, err, "does not have")
}
