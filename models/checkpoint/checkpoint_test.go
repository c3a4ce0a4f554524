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
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
)

var tiny = unet.Config{Resolution: 8, InChannels: 1, Channels: 8, Mult: []int{1, 2}, Blocks: 1, Classes: 3}.WithDefaults()

func tinyNet(t *testing.T) *unet.UNet {
	t.Helper()
	net, err := unet.New(tiny, torch.CPU, torch.Float32, 7)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	return net
}

func save(t *testing.T, path string, d Description, dtype torch.DType) *unet.UNet {
	t.Helper()
	net := tinyNet(t)
	require.NoError(t, Save(path, d, net.Tensors(), SaveOptions{DType: dtype}))
	return net
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	d, err := Describe(&models.Consistency{Net: tinyNet(t), Boundary: models.AtZero, Noise: models.ScaledLog, SigmaData: 0.25})
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
	for _, name := range []string{"model-9999999.safetensors", "model-10000000.safetensors", "model-zzz.safetensors", "model-+999999999.safetensors", "model-099999999.safetensors",
		"99999999.safetensors", "model-99999999"} {
		require.NoError(t, os.WriteFile(filepath.Join(odd, name), nil, 0o644))
	}
	require.NoError(t, os.Mkdir(filepath.Join(odd, "model-99999999.safetensors"), 0o755))
	found, err = Find(odd)
	require.NoError(t, err)
	require.Equal(t, "model-10000000.safetensors", filepath.Base(found), "by number, in a folder with any name")

	err = Save(filepath.Join(dir, "model-0000001.safetensors"), d, func(func(string, *torch.Tensor) bool) {}, SaveOptions{})
	require.True(t, errors.Is(err, fs.ErrExist), "%v", err)
}

// Files of the first format, such as the first releases wrote, are read as they were.
func TestFirstFormat(t *testing.T) {
	text := `{"format":1,"kind":"consistency","network":{"resolution":8,"in_channels":1,"channels":8,"mult":[1,2],"blocks":1},` +
		`"boundary":"zero","noise":"250 ln(t)","sigma_data":0.25,"sigma_min":0.01,"sigma_max":70,"method":"ect","step":3}`
	d, err := ParseDescription(map[string]string{"onestep": text})
	require.NoError(t, err)
	want := tiny
	want.Classes = 0
	require.Equal(t, Description{Format: 1, Kind: Consistency, Form: Form{Type: EDM, Noise: models.ScaledLog}, Network: network.Config{Net: want},
		Boundary: models.AtZero, SigmaData: 0.25, SigmaMin: 0.01, SigmaMax: 70, Method: "ect", Step: 3}, d)
	_, err = ParseDescription(map[string]string{"onestep": strings.Replace(text, `"blocks"`, `"surprise"`, 1)})
	require.ErrorContains(t, err, `unknown field "surprise"`)
}

// Whatever is written computes the same after it was read.
func TestEveryForm(t *testing.T) {
	chain, err := noise.Betas{Schedule: noise.Cosine, Steps: 50}.Chain()
	require.NoError(t, err)
	config := network.Config{Net: mlp.Config{Shape: []int{2}, Width: 16, Depth: 1, Until: true}}
	net, err := network.New(config, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer net.Close()
	plain := network.Config{Net: mlp.Config{Shape: []int{2}, Width: 16, Depth: 1}}
	simple, err := network.New(plain, torch.CPU, torch.Float32, 4)
	require.NoError(t, err)
	defer simple.Close()
	bare, err := noise.NewChain([]float64{0.1, 0.2, 0.3})
	require.NoError(t, err)
	edm := &models.EDM{Net: simple, SigmaData: 0.7}
	flow := &models.Flow{Net: simple, Scale: 10, Reversed: true}
	for i, c := range []struct {
		f   any
		net network.Network
	}{
		{edm, simple},
		{&models.DDPM{Net: simple, Chain: chain, Predict: noise.Velocity, Nearest: true}, simple},
		{&models.DDPM{Net: simple}, simple},
		{&models.VP{Net: simple, Predict: noise.Sample, BetaD: 10, BetaMin: 0.2, Scale: 1}, simple},
		{&models.DDPM{Net: simple, Chain: bare}, simple},
		{&models.VE{Net: simple, Scale: 0.5}, simple},
		{flow, simple},
		{&models.TrigFlow{Net: simple, SigmaData: 0.3}, simple},
		{&models.Consistency{Net: simple, Boundary: models.AtZero, SigmaData: 0.4}, simple},
		{&models.Consistency{Net: &models.Preconditioned{Model: flow}}, simple},
		{&models.Consistency{Net: &models.Preconditioned{Model: &models.TrigFlow{Net: simple}}}, simple},
		{&models.TrigConsistency{Net: simple, SigmaData: 0.3}, simple},
		{&models.TrigConsistency{Net: &models.TrigNetwork{Model: edm, SigmaData: 0.7}, SigmaData: 0.7}, simple},
		{&models.TrigConsistency{Net: &models.TrigNetwork{Model: flow}}, simple},
		{&models.Trajectory{Net: net, SigmaData: 0.3, SigmaMin: 0.01}, net},
		{&models.MeanFlow{Net: net, Scale: 3, Interval: true}, net},
	} {
		d, err := Describe(c.f)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "m.safetensors")
		require.NoError(t, Save(path, d, c.net.Tensors(), SaveOptions{}))
		m, err := OpenFile(path, torch.CPU)
		require.NoError(t, err, "%d: %T", i, c.f)
		require.Equal(t, d, m.Description)
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 3, 2)
			at := torch.FromSlice(s, []float32{0.05, 1, 30})
			y := map[bool][]*torch.Tensor{}
			for is, f := range map[bool]any{false: c.f, true: m.Function()} {
				if g, ok := f.(models.Denoiser); ok {
					y[is] = append(y[is], g.Denoise(s, x, at, models.Cond{}))
				}
				if g, ok := f.(models.ConsistencyFunction); ok {
					y[is] = append(y[is], g.Origin(s, x, at, models.Cond{}))
				}
			}
			require.Len(t, y[true], len(y[false]))
			require.NotEmpty(t, y[true])
			for j := range y[true] {
				// What was described by another form has other roundings.
				require.Less(t, y[true][j].Sub(s, y[false][j]).Abs(s).Max(s).Item(), 1e-5, "%d: %T", i, c.f)
			}
			return nil
		}))
		m.Close()
	}
	_, err = Describe(&models.EDM{Net: own{}})
	require.ErrorIs(t, err, ErrNetwork)
}

// A teacher is not a consistency function, and the other way round: each is refused by name where the other is wanted.
func TestTeacher(t *testing.T) {
	dir := t.TempDir()
	teacher, err := Describe(&models.EDM{Net: tinyNet(t), SigmaData: 0.25, Noise: models.ScaledLog})
	require.NoError(t, err)
	require.Equal(t, Denoiser, teacher.Kind)
	student, err := Describe(&models.Consistency{Net: tinyNet(t)})
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
	require.ErrorContains(t, err, "want a consistency function, but the file holds a denoiser")
	_, err = OpenTeacher(filepath.Join(dir, "student.safetensors"), torch.CPU)
	require.ErrorContains(t, err, "want a denoiser")
	_, err = Describe(gauss{})
	require.ErrorContains(t, err, "got checkpoint.gauss")
}

type gauss struct{}

// own is a network that the library does not know.
type own struct{ models.Network }

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	good, err := Describe(&models.Consistency{Net: tinyNet(t)})
	require.NoError(t, err)
	change := func(f func(d *Description)) Description {
		d := good
		f(&d)
		return d
	}
	net := func(f func(c *unet.Config)) Description {
		d := good
		own := good.Network.Net.(unet.Config)
		f(&own)
		d.Network.Net = own
		return d
	}
	for _, c := range []struct {
		name, want string
		d          Description
	}{
		{"huge", "holds 45497", net(func(c *unet.Config) { c.Channels = 1024 })},
		{"shape", "weights do not fit the network", net(func(c *unet.Config) {
			c.Blocks = 2
			c.Channels = 4
			c.NormGroups = 1
		})},
		{"mult", "mult: want 1 to 64, got -3", net(func(c *unet.Config) { c.Mult = []int{1, -3} })},
		{"levels", "0 < sigma_min < sigma_max", change(func(d *Description) { d.SigmaMin = 90 })},
		{"names", "names 2 classes, but the network has 3", change(func(d *Description) { d.ClassNames = []string{"a", "b"} })},
		{"step", "want step and images from 0 on, got -1 and 0", change(func(d *Description) { d.Step = -1 })},
		{"images", "got 0 and -1", change(func(d *Description) { d.Images = -1 })},
		{"kind", `kind: want "consistency", "trajectory" or "denoiser", got "gan"`, change(func(d *Description) { d.Kind = "gan" })},
	} {
		path := filepath.Join(dir, c.name+".safetensors")
		save(t, path, c.d, torch.Float32)
		_, err := Open(path, torch.CPU)
		require.ErrorContains(t, err, c.want, c.name)
		require.ErrorContains(t, err, path, c.name)
	}

	metadata, err := good.Metadata()
	require.NoError(t, err)
	metadata["onestep"] += " {}"
	_, err = ParseDescription(metadata)
	require.Error(t, err, "there is more than one object")

	// Weights that are not numbers, or not of floating point.
	spoilt := func(name string, spoil func(s *torch.Scope, w *torch.Tensor) *torch.Tensor) string {
		path := filepath.Join(dir, name)
		metadata, err := good.Metadata()
		require.NoError(t, err)
		net, err := unet.New(tiny, torch.CPU, torch.Float32, 7)
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
				}, torch.SaveOptions{Metadata: metadata})
			})
		}))
		return path
	}
	_, err = Open(spoilt("nan.safetensors", func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.DivScalar(s, 0) }), torch.CPU)
	require.ErrorContains(t, err, "8 of its weights")
	_, err = Open(spoilt("int.safetensors", func(s *torch.Scope, w *torch.Tensor) *torch.Tensor { return w.To(s, torch.Int32) }), torch.CPU)
	require.ErrorContains(t, err, "1 not of floating point: conv_in.bias (int32)")

	metadata, err = good.Metadata()
	require.NoError(t, err)
	for text, want := range map[string]string{
		strings.Replace(metadata["onestep"], `"format":2`, `"format":3`, 1):                                                          "format 3: this version reads formats 1 and 2",
		strings.Replace(metadata["onestep"], `"kind"`, `"surprise":1,"kind"`, 1):                                                     `unknown field "surprise"`,
		strings.Replace(metadata["onestep"], `"sigma_min":0.002`, `"sigma_min":{}`, 1):                                               "sigma_min has the wrong JSON type, object",
		strings.Replace(metadata["onestep"], `"sigma_min":0.002`, `"sigma_min":90`, 1):                                               "0 < sigma_min < sigma_max",
		strings.Replace(metadata["onestep"], `"sigma_min"`, `"boundary":"x","sigma_min"`, 1):                                         `boundary: want one of sigma_min, zero, got "x"`,
		strings.Replace(metadata["onestep"], `"type":"edm"`, `"type":"edm","noise":"t"`, 1):                                          `noise: want one of ln(t)/4, 250 ln(t), got "t"`,
		strings.Replace(metadata["onestep"], `"type":"edm"`, `"type":"gan"`, 1):                                                      `form: want one of edm, ddpm, vp, ve, flow, trigflow, got "gan"`,
		strings.Replace(metadata["onestep"], `"type":"edm"`, `"type":"ddpm","betas":{"schedule":"cosine","steps":1000000000000}`, 1): "want 2 to 1000000 steps",
		strings.Replace(metadata["onestep"], `"type":"edm"`, `"type":"flow","scale":-1`, 1):                                          "form: want a scale from 0 to 1e6",
		strings.Replace(metadata["onestep"], `"type":"edm"`, `"type":"flow","scale":1e308`, 1):                                       "form: want a scale from 0 to 1e6",
		strings.Replace(metadata["onestep"], `"unet":`, `"mlp":{"shape":[2]},"unet":`, 1):                                            "want the configuration of one network (unet, unet2d, dit or mlp), got 2",
		strings.Replace(metadata["onestep"], `"kind":"consistency"`, `"kind":"trajectory"`, 1):                                       "(until)",
		"{":  "unexpected end",
		"[]": "wrong JSON type, array",
	} {
		_, err := ParseDescription(map[string]string{"onestep": text})
		require.ErrorContains(t, err, want)
	}
	_, err = ParseDescription(nil)
	require.ErrorIs(t, err, ErrNoDescription)

	_, err = Open(filepath.Join(dir, "none"), torch.CPU)
	require.ErrorContains(t, err, "no such file")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	_, err = Open(filepath.Join(dir, "empty"), torch.CPU)
	require.ErrorContains(t, err, "no snapshot")
	_, err = Read("memory", []byte("not a file"), torch.CPU)
	require.ErrorContains(t, err, "memory: not a valid safetensors file")
	require.True(t, json.Valid([]byte(metadata["onestep"])))
}
