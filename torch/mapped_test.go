package torch_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
)

func TestMapped(t *testing.T) {
	noLeak(t)
	path := filepath.Join(t.TempDir(), "a.bin")
	var b []byte
	for _, v := range []float32{1, 2.5, -3, 4} {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	require.NoError(t, os.WriteFile(path, append(b, 0, 1, 2), 0o644))
	m, err := torch.OpenMapped(path)
	require.NoError(t, err)
	assert.Equal(t, path, m.Path())
	assert.Len(t, m.Bytes(), 19)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		get := func(offset int, d torch.DType, shape ...int) *torch.Tensor {
			x, err := m.Tensor(s, offset, d, shape...)
			require.NoError(t, err)
			return x
		}
		x := get(0, torch.Float32, 2, 2)
		assert.Equal(t, []float32{1, 2.5, -3, 4}, torch.ToSlice[float32](x))
		assert.Equal(t, []int{2, 2}, x.Shape())
		assert.Equal(t, []float32{4}, torch.ToSlice[float32](get(12, torch.Float32)))
		assert.Len(t, torch.ToSlice[float32](get(3, torch.Float32, 4)), 4, "unaligned")
		assert.Equal(t, []bool{false, true}, torch.ToSlice[bool](get(16, torch.Bool, 2)))
		assert.Empty(t, torch.ToSlice[float32](get(19, torch.Float32, 0)))
		require.ErrorIs(t, m.Close(), torch.ErrInUse)
		m.Release(0, 19)
		m.Release(-1, 3)
		m.Release(0, 1<<62)

		for _, bad := range []struct {
			offset int
			d      torch.DType
			shape  []int
			msg    string
		}{
			{16, torch.Bool, []int{3}, "a bool is stored as byte 2"},
			{0, torch.Float32, []int{5}, "5 elements of float32 at offset 0: outside the file of 19 bytes"},
			{4, torch.Float32, []int{2, 2}, "outside the file"},
			{-4, torch.Float32, []int{1}, "outside the file"},
			{20, torch.Float32, []int{0}, "outside the file"},
			{0, torch.Float32, []int{1 << 31, 1 << 31}, "outside the file"},
			{0, torch.Float32, []int{-1}, "invalid shape"},
		} {
			_, err := m.Tensor(s, bad.offset, bad.d, bad.shape...)
			assert.ErrorContains(t, err, bad.msg)
		}
		return nil
	}))
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	require.ErrorIs(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		_, err := m.Tensor(s, 0, torch.Float32, 1)
		return err
	}), torch.ErrFreed)
	m.Release(0, 19)

	_, err = torch.OpenMapped(filepath.Dir(path))
	require.ErrorContains(t, err, "want a regular file that is not empty")
	_, err = torch.OpenMapped(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}
