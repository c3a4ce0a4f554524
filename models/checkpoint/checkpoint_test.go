package checkpoint

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

var tiny = unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1, 2}, Blocks: 1, Classes: 3}.WithDefaults()

func save(t *testing.T, path string, d Description, dtype torch.DType) *unet.UNet {
	t.Helper()
	net, err := unet.New(tiny, torch.CPU, 7)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	require.NoError(t, Save(path, d, net.Tensors(), dtype, false))
	return net
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	d, err := Describe(&models.Consistency{Boundary: models.AtZero, Noise: models.ScaledLog, SigmaData: 0.25}, tiny)
	require.NoError(t, err)
	d.Method, d.ClassNames, d.Step = "ct", []string{"a", "b", "c"}, 12
	for _, c := range []struct {
		name  string
		dtype torch.DType
		tol   float64
	}{{"model-0000001.safetensors", torch.Float32, 0}, {"model-0000002.safetensors", torch.Float16, 1e-3}} {
		net := save(t, filepath.Join(dir, c.name), d, c.dtype)
		m, err := Open(filepath.Join(dir, c.name), torch.CPU)
		require.NoError(t, err)
		d.Format = 1
		require.Equal(t, d, m.Description)
		require.Equal(t, []int{1, 8, 8}, m.Shape())
		f, ok := m.ConsistencyFunction.(*models.Consistency)
		require.True(t, ok)
		require.Equal(t, models.AtZero, f.Boundary)
		require.Equal(t, models.ScaledLog, f.Noise)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 1, 8, 8)
			at, cond := torch.Ones(s, torch.Float32, 2), models.Cond{Class: torch.FromSlice(s, []int64{0, 2})}
			want := net.Forward(s, x, at, cond)
			got := m.Network.Forward(s, x, at, cond)
			require.LessOrEqual(t, got.Sub(s, want).Abs(s).Max(s).Item(), c.tol)
			require.False(t, got.RequiresGrad(), "a model that was read is for sampling")
			return nil
		}))
		m.Close()
	}
	found, err := Find(dir)
	require.NoError(t, err)
	require.Equal(t, "model-0000002.safetensors", filepath.Base(found), "the latest snapshot")
	odd := filepath.Join(dir, "run[1]")
	require.NoError(t, os.Mkdir(odd, 0o755))
	for _, name := range []string{"model-9999999.safetensors", "model-10000000.safetensors", "model-zzz.safetensors"} {
		require.NoError(t, os.WriteFile(filepath.Join(odd, name), nil, 0o644))
	}
	found, err = Find(odd)
	require.NoError(t, err)
	require.Equal(t, "model-10000000.safetensors", filepath.Base(found), "by number, in a folder with any name")

	err = Save(filepath.Join(dir, "model-0000001.safetensors"), d, func(func(string, *torch.Tensor) bool) {}, torch.Float32, false)
	require.True(t, errors.Is(err, fs.ErrExist), "%v", err)
}

// A teacher is not a consistency function, and the other way round: each is refused by name where the other is wanted.
func TestTeacher(t *testing.T) {
	dir := t.TempDir()
	teacher, err := Describe(&models.EDM{SigmaData: 0.25, Noise: models.ScaledLog}, tiny)
	require.NoError(t, err)
	require.Equal(t, Denoiser, teacher.Kind)
	student, err := Describe(&models.Consistency{}, tiny)
	require.NoError(t, err)
	net := save(t, filepath.Join(dir, "teacher.safetensors"), teacher, torch.Float32)
	save(t, filepath.Join(dir, "student.safetensors"), student, torch.Float32)

	m, err := OpenTeacher(filepath.Join(dir, "teacher.safetensors"), torch.CPU)
	require.NoError(t, err)
	defer m.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 1, 8, 8)
		at, cond := torch.Full(s, 3, torch.Float32, 2), models.Cond{Class: torch.FromSlice(s, []int64{0, 2})}
		want := (&models.EDM{Net: net, SigmaData: 0.25, Noise: models.ScaledLog}).Denoise(s, x, at, cond)
		require.Zero(t, m.Denoise(s, x, at, cond).Sub(s, want).Abs(s).Max(s).Item())
		return nil
	}))
	_, err = Open(filepath.Join(dir, "teacher.safetensors"), torch.CPU)
	require.ErrorContains(t, err, "want a consistency function, and the file holds a denoiser")
	_, err = OpenTeacher(filepath.Join(dir, "student.safetensors"), torch.CPU)
	require.ErrorContains(t, err, "want a denoiser")
	_, err = Describe(gauss{}, tiny)
	require.ErrorContains(t, err, "got checkpoint.gauss")
}

type gauss struct{}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	good, err := Describe(&models.Consistency{}, tiny)
	require.NoError(t, err)
	change := func(f func(d *Description)) Description {
		d := good
		f(&d)
		return d
	}
	for _, c := range []struct {
		name, want string
		d          Description
	}{
		{"huge", "weights and holds 45497", change(func(d *Description) { d.Network.Channels = 1024 })},
		{"shape", "weights do not fit the network", change(func(d *Description) { d.Network.Blocks = 2; d.Network.Channels = 4; d.Network.NormGroups = 1 })},
		{"mult", "mult: want 1 to 64, got -3", change(func(d *Description) { d.Network.Mult = []int{1, -3} })},
		{"levels", "0 < sigma_min < sigma_max", change(func(d *Description) { d.SigmaMin = 90 })},
		{"boundary", `boundary: want "sigma_min" or "zero", got "x"`, change(func(d *Description) { d.Boundary = "x" })},
		{"noise", `noise: want`, change(func(d *Description) { d.Noise = "t" })},
		{"names", "it names 2 classes, and the network has 3", change(func(d *Description) { d.ClassNames = []string{"a", "b"} })},
		{"kind", `kind: want "consistency" or "denoiser", got "gan"`, change(func(d *Description) { d.Kind = "gan" })},
	} {
		path := filepath.Join(dir, c.name+".safetensors")
		save(t, path, c.d, torch.Float32)
		_, err := Open(path, torch.CPU)
		require.ErrorContains(t, err, c.want, c.name)
		require.ErrorContains(t, err, path, c.name)
	}

	// Weights that are not numbers, or not of floating point.
	spoilt := func(name string, spoil func(s *torch.Scope, w *torch.Tensor) *torch.Tensor) string {
		path := filepath.Join(dir, name)
		metadata, err := good.Metadata()
		require.NoError(t, err)
		net, err := unet.New(tiny, torch.CPU, 7)
		require.NoError(t, err)
		defer net.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
					for name, w := range net.Tensors() {
						if name == "conv_in.bias" {
							w = spoil(s, w)
						}
						if !yield(name, w) {
							return
						}
					}
				}, metadata, false)
			})
		}))
		return path
	}
	_, err = Open(spoilt("nan.safetensors", func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.DivScalar(s, 0) }), torch.CPU)
	require.ErrorContains(t, err, "8 of its weights are not finite")
	_, err = Open(spoilt("int.safetensors", func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.To(s, torch.Int32) }), torch.CPU)
	require.ErrorContains(t, err, "1 not of floating point: conv_in.bias (int32)")

	metadata, err := good.Metadata()
	require.NoError(t, err)
	for text, want := range map[string]string{
		strings.Replace(metadata["onestep"], `"format":1`, `"format":2`, 1):            "it has format 2, this version reads format 1",
		strings.Replace(metadata["onestep"], `"kind"`, `"surprise":1,"kind"`, 1):       `unknown field "surprise"`,
		strings.Replace(metadata["onestep"], `"sigma_min":0.002`, `"sigma_min":{}`, 1): "sigma_min",
		"{": "unexpected end",
	} {
		_, err := ReadDescription(map[string]string{"onestep": text})
		require.ErrorContains(t, err, want)
	}
	_, err = ReadDescription(nil)
	require.ErrorIs(t, err, ErrNoDescription)

	_, err = Open(filepath.Join(dir, "none"), torch.CPU)
	require.ErrorContains(t, err, "there is no such file or folder")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	_, err = Open(filepath.Join(dir, "empty"), torch.CPU)
	require.ErrorContains(t, err, "no snapshot")
	_, err = Read("memory", []byte("not a file"), torch.CPU)
	require.ErrorContains(t, err, "memory: not a valid safetensors file")
	require.True(t, json.Valid([]byte(metadata["onestep"])))
}
