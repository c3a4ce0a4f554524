package lora

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]key{
		"lora_unet_down_blocks_0_resnets_1_conv1.lora_down.weight":                  {Kohya, unetPart, "down_blocks_0_resnets_1_conv1", true, "", down, ""},
		"lora_te_text_model_encoder_layers_3_mlp_fc1.alpha":                         {Kohya, textPart, "text_model_encoder_layers_3_mlp_fc1", true, "", alpha, ""},
		"lora_te1_text_model_encoder_layers_3_mlp_fc1.lora_up.weight":               {Kohya, textPart, "text_model_encoder_layers_3_mlp_fc1", true, "", up, ""},
		"lora_te2_text_projection.lora_up.weight":                                   {Kohya, text2Part, "text_projection", true, "", up, ""},
		"lora_unet_x.dora_scale":                                                    {Kohya, unetPart, "x", true, "", magnitude, ""},
		"lycoris_unet_x.hada_w1_a":                                                  {Kohya, unetPart, "x", true, "", "hada_w1_a", ""},
		"unet.mid_block.resnets.0.conv1.lora_A.weight":                              {PEFT, unetPart, "mid_block.resnets.0.conv1", false, "", down, ""},
		"unet.mid_block.resnets.0.conv1.lora_B.default.weight":                      {PEFT, unetPart, "mid_block.resnets.0.conv1", false, "", up, ""},
		"base_model.model.unet.conv_in.lora_A.weight":                               {PEFT, unetPart, "conv_in", false, "", down, ""},
		"unet.base_model.model.conv_in.lora_A.weight":                               {PEFT, unetPart, "conv_in", false, "", down, ""},
		"base_model.model.conv_in.lora_magnitude_vector.default.weight":             {PEFT, "", "conv_in", false, "", magnitude, ""},
		"conv_in.lora_magnitude_vector":                                             {PEFT, "", "conv_in", false, "", magnitude, ""},
		"diffusion_model.input_blocks.0.0.lora_A.weight":                            {PEFT, unetPart, "input_blocks.0.0", false, "", down, ""},
		"unet.conv_in.lora.down.weight":                                             {Diffusers, unetPart, "conv_in", false, "", down, ""},
		"text_encoder_2.text_model.a.q_proj.lora_linear_layer.up.weight":            {Diffusers, text2Part, "text_model.a.q_proj", false, "", up, ""},
		"down_blocks.0.attentions.0.b.0.attn1.processor.to_q_lora.down.weight":      {Processors, "", "down_blocks.0.attentions.0.b.0.attn1.to_q", false, "", down, ""},
		"unet.down_blocks.0.attentions.0.b.0.attn2.processor.to_out_lora.up.weight": {Processors, unetPart, "down_blocks.0.attentions.0.b.0.attn2.to_out.0", false, "", up, ""},
		"text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight":  {Processors, textPart, "text_model.encoder.layers.0.self_attn.to_q", false, "", down, ""},
		"unet.conv_in.alpha":                                                        {Kohya, unetPart, "conv_in", false, "", alpha, ""},
		"text_encoders.clip_g.transformer.text_model.x.lora_down.weight":            {Kohya, text2Part, "text_model.x", false, "", down, ""},
		"text_encoders.clip_l.transformer.text_model.x.lora_A.weight":               {PEFT, textPart, "text_model.x", false, "", down, ""},
		"lora_unet_x.oft_blocks":                                                    {Kohya, unetPart, "x", true, "", blocks, ""},
		"lora_unet_x.oft_diag":                                                      {0, unetPart, "x", true, "", "", "OFT"},
		"unet.conv_in.lora_B.bias":                                                  {0, unetPart, "conv_in", false, "", "", "a bias of an adapter"},
	} {
		got, ok := parse(name)
		require.True(t, ok, name)
		require.NotEmpty(t, got.stem)
		got.stem = ""
		require.Equal(t, want, got, name)
	}
	for _, name := range []string{"", "x", "conv_in.weight", ".lora_down.weight", "lora_A.weight", "unet.lora_A", "model.diffusion_model.out.2.weight"} {
		_, ok := parse(name)
		require.False(t, ok, name)
	}
}

// openTiny opens a tiny model of a kind.
func openTiny(t *testing.T, kind string) *sd.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), kind)
	require.NoError(t, tiny.Write(dir, kind))
	m, err := sd.Open(dir, sd.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// filled makes a new adapter whose B are not zero.
func filled(t *testing.T, n Networks, c Config) *Adapter {
	t.Helper()
	a, err := New(n, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 9)
			for name, p := range a.Parameters() {
				if strings.HasSuffix(name, upName+".weight") {
					p.NormalInPlace(s, 0, 0.1, g)
				}
			}
			return nil
		})
	}))
	return a
}

// An adapter that is written in any layout, and a file that is converted to any other, is the same adapter when it is read.
func TestWrite(t *testing.T) {
	for _, kind := range []string{"sd15", "sdxl"} {
		m := openTiny(t, kind)
		n := Of(m)
		a := filled(t, n, Config{Rank: 3, Alpha: 1.7, Targets: append([]string{"q_proj", "fc1", "conv_in"}, LCMTargets...), Seed: 1})
		if kind == "sdxl" { // its projections are linear, and it has a second encoder
			require.True(t, slices.ContainsFunc(a.Modules, func(m Module) bool { return strings.HasPrefix(m.Name, text2Part) }))
		}
		want := deltas(t, n, a.At(1))
		dir := t.TempDir()
		files, err := weights.Open(m.Path, weights.Options{})
		require.NoError(t, err)
		defer files.Close()
		for _, from := range []Layout{Kohya, PEFT, Diffusers} {
			path := filepath.Join(dir, from.String()+".safetensors")
			require.NoError(t, a.Write(path, WriteOptions{Layout: from}))
			requireDeltas(t, want, n, path, 0)
			require.ErrorIs(t, a.Write(path, WriteOptions{Layout: from}), fs.ErrExist)
			for _, to := range []Layout{Kohya, PEFT, Diffusers} {
				f, err := Open(path)
				require.NoError(t, err)
				out := filepath.Join(dir, from.String()+"-"+to.String()+".safetensors")
				require.NoError(t, f.Write(out, files, WriteOptions{Layout: to}))
				named := filepath.Join(dir, "named.safetensors")
				err = f.Write(named, nil, WriteOptions{Layout: to, Overwrite: true}) // by the names alone
				if from == Kohya && to != Kohya {
					require.ErrorContains(t, err, "want the model that the adapter is for")
				} else {
					require.NoError(t, err)
					require.True(t, bytes.Equal(read(t, out), read(t, named)))
				}
				require.NoError(t, f.Close())
				requireDeltas(t, want, n, out, 0)
				if from == to {
					require.True(t, bytes.Equal(read(t, path), read(t, out)))
				}
			}
		}
		half := torch.Float16
		path := filepath.Join(dir, "half.safetensors")
		require.NoError(t, a.Write(path, WriteOptions{Layout: Kohya, DType: &half, Metadata: map[string]string{"ss_network_dim": "3"}}))
		requireDeltas(t, want, n, path, 2e-3)
		f, err := Open(path)
		require.NoError(t, err)
		require.Equal(t, "3", f.Metadata["ss_network_dim"])
		require.InDelta(t, 1.7, f.Modules[0].Alpha, 1e-6) // which float16 does not hold
		require.NoError(t, f.Close())
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// deltas returns what adapters add to the weights of networks.
func deltas(t *testing.T, n Networks, a nn.Adapters) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for part, st := range n {
				for name, w := range st.Tensors() {
					if by := a[w]; len(by) > 0 {
						sum := torch.Zeros(s, torch.Float32, w.Shape()...)
						for _, one := range by {
							one.AddTo(s, sum, w)
						}
						out[part+"."+name] = torch.ToSlice[float32](sum)
					}
				}
			}
			return nil
		})
	}))
	require.NotEmpty(t, out)
	return out
}

func requireDeltas(t *testing.T, want map[string][]float32, n Networks, path string, tolerance float64) {
	t.Helper()
	f, err := Open(path)
	require.NoError(t, err)
	a, err := Attach(n, f, Options{})
	require.NoError(t, err, path)
	got := deltas(t, n, a.At(1))
	require.NoError(t, a.Close())
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)), path)
	for name := range want {
		if tolerance == 0 {
			require.Equal(t, want[name], got[name], "%s: %s", path, name)
		} else {
			require.InDeltaSlice(t, want[name], got[name], tolerance, "%s: %s", path, name)
		}
	}
}

// The file of lcm-lora-sdv1-5: its header, its size, its names follow from the model's paths, to the byte.
func TestHeaderOfLCMLoRA(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 134 MB")
	}
	const rank = 64
	var all []output
	for _, s := range published()["Stable Diffusion 1"].spots {
		if s.part != unetPart || !slices.ContainsFunc(LCMTargets, func(end string) bool { return strings.HasSuffix(s.path, "."+end) }) {
			continue
		}
		one := output{part: s.part, path: s.path, kind: LowRank, rank: rank, alpha: 8, alphaType: torch.Float16, order: []role{down, up}}
		one.info = func(r role) ([]int, torch.DType) {
			shape := []int{s.shape[0], rank}
			if r == down {
				shape = []int{rank, s.shape[1]}
			}
			for _, k := range s.shape[2:] {
				if r == up {
					k = 1
				}
				shape = append(shape, k)
			}
			return shape, torch.Float16
		}
		one.get = func(s *torch.Scope, r role) (*torch.Tensor, error) {
			shape, d := one.info(r)
			return torch.Zeros(s, d, shape...), nil
		}
		all = append(all, one)
	}
	require.Len(t, all, 278)
	path := filepath.Join(t.TempDir(), "lcm.safetensors")
	require.NoError(t, write(path, all, nil, false, WriteOptions{Layout: Kohya}))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	require.EqualValues(t, 134_621_556, st.Size())
	var n uint64
	require.NoError(t, binary.Read(f, binary.LittleEndian, &n))
	require.EqualValues(t, 116_544, n)
	header, err := io.ReadAll(io.LimitReader(f, int64(n)))
	require.NoError(t, err)
	sum := sha256.Sum256(header)
	require.Equal(t, "3ca15dde66470e73c8d68dbb9ab64d6e7ad014f525b58193a9a3b161eb6cc263", hex.EncodeToString(sum[:]))

	a, err := Open(path)
	require.NoError(t, err)
	defer a.Close()
	require.Len(t, a.Modules, 278)
	require.Equal(t, 0.125, a.Modules[0].Scale)
	require.Equal(t, []string{"Stable Diffusion 1"}, a.Base())
}

// A new adapter changes nothing; gradients reach B alone, as A's product with a B of zeros is zero; after a step it changes something.
func TestNew(t *testing.T) {
	m := openTiny(t, "sd15")
	n := Networks{unetPart: m.UNet.Store()}
	a, err := New(n, Config{Rank: 2, Seed: 3})
	require.NoError(t, err)
	defer a.Close()
	require.Len(t, a.Modules, len(a.made))
	linear := m.UNet.Store()
	var layer nn.Linear
	for path, l := range linear.Layers() {
		if strings.HasSuffix(path, "attn1.to_q") {
			layer = l.(nn.Linear)
		}
	}
	require.NotNil(t, layer.Weight)
	o, err := optim.AdamW{LR: 0.1}.New(a.Parameters())
	require.NoError(t, err)
	defer o.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 5, layer.Weight.Dim(1))
		before, with := layer.Forward(s, x), layer.Adapted(s, x, a.At(1))
		require.Equal(t, torch.ToSlice[float32](before), torch.ToSlice[float32](with.Detach(s)))
		with.Square(s).Sum(s).Backward()
		one := a.At(1)[layer.Weight][0].(nn.LowRank)
		require.Zero(t, one.Down.Kernel().Grad(s).Abs(s).Max(s).Item())
		require.NotZero(t, one.Up.Kernel().Grad(s).Abs(s).Max(s).Item())
		require.LessOrEqual(t, one.Down.Kernel().Detach(s).Abs(s).Max(s).Item(), 0.25) // 1/√16
		require.Nil(t, layer.Weight.Grad(s))
		o.Step(s)
		after := layer.Adapted(s, x, a.At(1))
		require.Greater(t, after.Sub(s, before).Abs(s).Max(s).Item(), 1e-3)
		require.Equal(t, torch.ToSlice[float32](before), torch.ToSlice[float32](layer.Adapted(s, x, nil).Detach(s))) // a teacher's pass
		return nil
	}))
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Targets: []string{"to_q", "nothing"}}, "match no layer: nothing"},
		{Config{Rank: -1}, "want a rank"},
	} {
		_, err := New(n, c.config)
		require.ErrorContains(t, err, c.want)
	}
}

// Baked adapters are in the files that are written, weighed by block; what overflows is refused.
func TestMergeWeights(t *testing.T) {
	m := openTiny(t, "sd15")
	n := Of(m)
	a := filled(t, n, Config{Rank: 2, Targets: []string{"to_k", "conv2", "fc2"}})
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, a.Write(path, WriteOptions{}))
	bake := func(out string, w Weights) error {
		files, err := weights.Open(m.Path, weights.Options{})
		require.NoError(t, err)
		defer files.Close()
		f, err := Open(path)
		require.NoError(t, err)
		done, err := MergeWeights(files, nil, Weighted{File: f, Weights: w})
		if err != nil {
			require.NoError(t, f.Close())
			return err
		}
		err = weights.WriteFolder(out, files, weights.WriteOptions{})
		require.NoError(t, done())
		return err
	}
	w := Weights{"": 0.5, "text_encoder": -1}
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, bake(out, w))
	got, err := sd.Open(out, sd.Options{})
	require.NoError(t, err)
	defer got.Close()
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		by := a.By(w)
		for part, st := range n {
			theirs := maps.Collect(Of(got)[part].Tensors())
			for name, t1 := range st.Tensors() {
				torchtest.Close(t, part+"."+name, theirs[name], nn.Changed(s, t1, by[t1]...), 1e-6, 0)
			}
		}
		return nil
	}))
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for _, p := range a.Parameters() {
				p.MulScalarInPlace(s, 1e3)
			}
			return nil
		})
	}))
	require.NoError(t, a.Write(path, WriteOptions{Overwrite: true}))
	require.ErrorContains(t, bake(filepath.Join(t.TempDir(), "x"), Weights{"": 1e38}), "overflows in float32")
	require.ErrorContains(t, bake(filepath.Join(t.TempDir(), "x"), Weights{"unet.nothing": 1}), "no adapted layer has the prefix")
}

// What an adapter of rank r added is found again by one of rank r; a smaller one has a part of it. Weights that no adapter changes are named.
func TestExtract(t *testing.T) {
	m := openTiny(t, "sd15")
	a := filled(t, Of(m), Config{Rank: 3, Targets: []string{"to_k", "conv1", "fc2", "proj_in"}})
	dir := t.TempDir()
	require.NoError(t, a.Write(filepath.Join(dir, "a.safetensors"), WriteOptions{}))
	base, err := weights.Open(m.Path, weights.Options{})
	require.NoError(t, err)
	defer base.Close()
	tuned, err := weights.Open(m.Path, weights.Options{})
	require.NoError(t, err)
	defer tuned.Close()
	f, err := Open(filepath.Join(dir, "a.safetensors"))
	require.NoError(t, err)
	done, err := MergeWeights(tuned, nil, Weighted{File: f})
	require.NoError(t, err)
	defer done()
	tuned.UNet.Source = shifted{tuned.UNet.Source}
	out := filepath.Join(dir, "b.safetensors")
	quiet := func(int, int) {}
	modules, others, err := Extract(t.Context(), out, base, tuned, 3, WriteOptions{}, quiet)
	require.NoError(t, err)
	require.Len(t, modules, len(a.Modules))
	for _, m := range modules {
		require.InDelta(t, 1, m.Kept, 1e-5, m.Name)
	}
	require.Equal(t, []string{"unet.time_embedding.linear_1.bias", "unet.down_blocks.0.resnets.0.norm1.weight"}, others)
	requireDeltas(t, deltas(t, Of(m), a.At(1)), Of(m), out, 2e-6)

	// A weight that the base lacks is one of the others.
	plans, err := plansOf(base)
	require.NoError(t, err)
	plans[unetPart] = plans[unetPart][1:]
	only, err := added(plans, tuned)
	require.NoError(t, err)
	require.Equal(t, []string{"unet.time_embedding.linear_1.weight"}, only)

	modules, _, err = Extract(t.Context(), filepath.Join(dir, "c.safetensors"), base, tuned, 1, WriteOptions{}, quiet)
	require.NoError(t, err)
	require.Less(t, modules[0].Kept, 0.99)
	require.Greater(t, modules[0].Kept, 0.3)
	_, _, err = Extract(t.Context(), filepath.Join(dir, "d.safetensors"), base, base, 1, WriteOptions{}, quiet)
	require.ErrorContains(t, err, "nothing to extract")
}

// shifted changes one bias and the weight of one norm, as training a whole model does.
type shifted struct{ nn.Source }

func (v shifted) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	t, err := v.Source.Get(s, name)
	if err == nil && (name == "time_embedding.linear_1.bias" || name == "down_blocks.0.resnets.0.norm1.weight") {
		t = t.AddScalar(s, 1)
	}
	return t, err
}

// The leading factors of large matrices are those of the whole decomposition.
func TestLeading(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			g := torch.NewGenerator(s, 1)
			low := torch.Randn(s, g, torch.Float32, 400, 5).MatMul(s, torch.Randn(s, g, torch.Float32, 5, 700))
			noise := torch.Randn(s, g, torch.Float32, 400, 700).MulScalar(s, 0.01)
			for _, d := range []*torch.Tensor{low, low.Add(s, noise)} {
				a, b, kept, err := leading(s, d, 5)
				require.NoError(t, err)
				require.Equal(t, []int{5, 700}, a.Shape())
				require.Greater(t, kept, 0.999)
				require.Less(t, b.MatMul(s, a).Sub(s, d).Norm(s).Item()/d.Norm(s).Item(), 0.01)
				require.InEpsilon(t, a.Norm(s).Item(), b.Norm(s).Item(), 1e-4)
			}
			return nil
		})
	}))
}

// Files that are no adapters, or broken ones, are refused with what is wrong, and nothing is read of them.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	tensor := func(name string, shape ...int) safetensors.Source {
		n := 4
		for _, d := range shape {
			n *= d
		}
		return safetensors.Source{Name: name, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, n))}
	}
	for i, c := range []struct {
		tensors  []safetensors.Source
		metadata map[string]string
		want     string
	}{
		{nil, nil, "want an adapter"},
		{[]safetensors.Source{tensor("conv_in.weight", 4, 4, 3, 3)}, nil, "1 other tensor: conv_in.weight"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 2, 4), tensor("lora_unet_x.lora_up.weight", 4, 2), tensor("more", 1)}, nil,
			"1 tensor not part of an adapter: more"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 2, 4)}, nil, "lora_unet_x: want down and up of a LoRA"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 2, 4), tensor("lora_unet_x.lora_up.weight", 4, 3)}, nil, "down has rank 2"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 0, 4), tensor("lora_unet_x.lora_up.weight", 4, 0)}, nil, "rank 0"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 4), tensor("lora_unet_x.lora_up.weight", 4, 4)}, nil, "down: want 2 dimensions"},
		{[]safetensors.Source{tensor("lora_unet_x.oft_diag", 4, 4)}, nil, "unsupported adapter types: lora_unet_x.oft_diag (OFT)"},
		{[]safetensors.Source{tensor("lora_unet_x.oft_blocks", 4, 4)}, nil, "want shape [blocks, b, b] for OFT"},
		{[]safetensors.Source{tensor("lora_unet_x.oft_blocks", 2, 4, 2)}, nil, "want square blocks"},
		{[]safetensors.Source{tensor("lora_unet_x.rescale", 4, 1)}, nil, "rescale only"},
		{[]safetensors.Source{tensor("lora_unet_x.oft_blocks", 2, 4, 4), tensor("lora_unet_x.dora_scale", 4, 1)}, nil, "unexpected tensor magnitude in a module of type OFT"},
		{[]safetensors.Source{tensor("x.boft_R", 4, 4), tensor("lora_unet_x.a1.weight", 4, 4)}, nil, "lora_unet_x.a1.weight (GLoRA), x.boft_R (BOFT)"},
		{[]safetensors.Source{tensor("lora_unet_x.lora_down.weight", 2, 4), tensor("lora_unet_x.lora_up.weight", 4, 2), tensor("lora_unet_x.alpha", 3)}, nil,
			"alpha: want one number"},
		{[]safetensors.Source{tensor("lora_unet_x.hada_w1_a", 4, 2), tensor("lora_unet_x.hada_w1_b", 2, 4)}, nil, "want down and up of a LoRA"},
		{[]safetensors.Source{tensor("lora_unet_x.lokr_w1", 2, 2)}, nil, "want lokr_w2"},
		{[]safetensors.Source{tensor("unet.x.lora_A.weight", 2, 4), tensor("unet.x.lora_A.a.weight", 2, 4), tensor("unet.x.lora_B.weight", 4, 2)}, nil, "the same as"},
		{[]safetensors.Source{tensor("unet.x.lora_A.weight", 2, 4), tensor("unet.x.lora_B.weight", 4, 2)}, map[string]string{metadataKey: "["}, "want a JSON object"},
		{[]safetensors.Source{tensor("unet.x.lora_A.weight", 2, 4), tensor("unet.x.lora_B.weight", 4, 2)},
			map[string]string{metadataKey: `{"unet.alpha_pattern": {"(": 1}}`}, "alpha_pattern"},
		{[]safetensors.Source{tensor("unet.x.lora_A.weight", 2, 4), tensor("unet.x.lora_B.weight", 4, 2)}, map[string]string{metadataKey: `{"unet.r": "x"}`}, "r: "},
	} {
		path := filepath.Join(dir, string(rune('a'+i))+".safetensors")
		require.NoError(t, safetensors.Write(path, c.tensors, safetensors.Options{Metadata: c.metadata}))
		_, err := Open(path)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, path)
	}
	_, err := Open(dir)
	require.ErrorContains(t, err, "want an adapter file, or a directory with one of")
	_, err = Open(filepath.Join(dir, "nothing"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Modules of other shapes than their layers are refused with both, also those with as many values.
func TestMisshapen(t *testing.T) {
	m := openTiny(t, "sd15")
	const (
		linear = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"   // [16, 16], without a bias
		wide   = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2"     // [16, 64]
		conv   = "lora_unet_down_blocks_0_resnets_0_conv1"                                // [16, 16, 3, 3]
		point  = "lora_unet_down_blocks_0_attentions_0_proj_in"                           // [16, 16, 1, 1]
		norm   = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_norm1"        // [16]
		few    = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q_x" // is not there
	)
	type shapes map[string][]int
	for _, c := range []struct {
		path    string
		tensors shapes
		want    string // "": it fits
	}{
		{linear, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}}, ""},
		{linear, shapes{"lora_down.weight": {2, 16, 1, 1}, "lora_up.weight": {16, 2, 1, 1}}, ""},
		{point, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}}, ""},
		{conv, shapes{"lora_down.weight": {2, 16, 3, 3}, "lora_up.weight": {16, 2}}, ""},
		{conv, shapes{"lora_down.weight": {2, 16, 1, 9}, "lora_up.weight": {16, 2, 1, 1}}, "has shape [16 16 1 9], want [16 16 3 3]"},
		{conv, shapes{"lora_down.weight": {2, 16, 9}, "lora_up.weight": {16, 2}}, "has shape [16 16 9], want"},
		{conv, shapes{"lora_down.weight": {2, 144}, "lora_up.weight": {16, 2}}, "has shape [16 144], want"},
		{conv, shapes{"lora_down.weight": {2, 16, 1, 1}, "lora_up.weight": {16, 2, 3, 3}}, "want a matrix or a 1×1 convolution as up"},
		{conv, shapes{"diff": {16, 144}}, ""},
		{conv, shapes{"diff": {16, 3, 3, 16}}, "shape [16 3 3 16], want [16 16 3 3]"},
		{linear, shapes{"diff": {256}}, "shape [256], want [16 16]"},
		{norm, shapes{"w_norm": {16}, "b_norm": {16}}, ""},
		{norm, shapes{"w_norm": {16}, "b_norm": {4, 4}}, "delta of its bias has shape [4 4]"},
		{linear, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}, "diff_b": {16}}, "delta of its bias has shape [16]"},
		{linear, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}, "dora_scale": {1, 16}}, ""},
		{linear, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}, "dora_scale": {4, 4}}, "shape [4 4], want 16 values"},
		{wide, shapes{"lora_down.weight": {2, 64}, "lora_up.weight": {16, 2}, "dora_scale": {1, 64}}, ""},
		{wide, shapes{"lora_down.weight": {2, 64}, "lora_up.weight": {16, 2}, "dora_scale": {64, 1}}, "shape [64 1], want 16 values"},
		{wide, shapes{"lora_down.weight": {2, 64}, "lora_up.weight": {16, 2}, "dora_scale": {64}}, "shape [64], want 16 values"},
		{conv, shapes{"hada_w1_a": {16, 2}, "hada_w1_b": {2, 144}, "hada_w2_a": {16, 3}, "hada_w2_b": {3, 16, 3, 3}}, ""},
		{conv, shapes{"hada_w1_a": {16, 2}, "hada_w1_b": {2, 144}, "hada_w2_a": {16, 3}, "hada_w2_b": {3, 16}}, "its two factors have the shapes [16 144] and [16 16]"},
		{conv, shapes{"lokr_w1": {2, 2}, "lokr_w2": {8, 72}}, ""},
		{conv, shapes{"lokr_w1": {4, 4}, "lokr_w2": {4, 4, 3, 3}}, ""},
		{conv, shapes{"lokr_w1": {4, 4}, "lokr_w2": {4, 4, 1, 9}}, "has shape [16 16 1 9], want"},
		{conv, shapes{"lokr_w1": {4, 24}, "lokr_w2": {4, 6}}, "want a first factor whose sides divide those of the weight, [16 16 3 3], got shape [4 24]"},
		{linear, shapes{"lokr_w1": {0, 2}, "lokr_w2": {0, 8}}, "want a matrix as the first factor"},
		{linear, shapes{"lokr_w1": {4, 4}, "lokr_w1_a": {4, 2}, "lokr_w1_b": {2, 4}, "lokr_w2": {4, 4}}, "unexpected tensor lokr_w1_a in a module of type LoKr"},
		{conv, shapes{"lokr_w1": {4, 4}, "lokr_w2": {4, 4, 3, 3}, "lokr_t2": {2, 2, 3, 3}}, "unexpected tensor lokr_t2 in a module of type LoKr"},
		{few, shapes{"lora_down.weight": {2, 16}, "lora_up.weight": {16, 2}}, few},
	} {
		path := filepath.Join(t.TempDir(), "a.safetensors")
		var all []safetensors.Source
		for _, end := range slices.Sorted(maps.Keys(c.tensors)) {
			shape := c.tensors[end]
			all = append(all, safetensors.Source{Name: c.path + "." + end, DType: safetensors.F32, Shape: shape, Data: safetensors.Bytes(make([]byte, 4*product(shape)))})
		}
		require.NoError(t, safetensors.Write(path, all, safetensors.Options{}))
		a, err := Load(m, path, Options{})
		if c.want != "" {
			require.ErrorContains(t, err, c.want, c.tensors)
			continue
		}
		require.NoError(t, err, c.tensors)
		require.NotEmpty(t, deltas(t, Of(m), a.At(1)))
		require.NoError(t, a.Close())
	}
}

// Values that are finite in the file and not in the model's type are refused before they touch a weight.
func TestTypeThatCannotHold(t *testing.T) {
	m := openTiny(t, "sd15")
	a := filled(t, Of(m), Config{Rank: 1, Targets: []string{"to_q"}})
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for _, p := range a.Parameters() {
				p.MulScalarInPlace(s, 1e9)
			}
			return nil
		})
	}))
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, a.Write(path, WriteOptions{}))
	half, err := sd.Open(m.Path, sd.Options{DType: torch.Float16})
	require.NoError(t, err)
	defer half.Close()
	_, err = Load(half, path, Options{})
	require.ErrorContains(t, err, path+": ")
	require.ErrorContains(t, err, "tensors with values that float16, the model's type, cannot hold: lora_unet_")
	b, err := Load(m, path, Options{})
	require.NoError(t, err)
	require.NoError(t, b.Close())
}

// What peft's settings say holds as in peft: of several patterns the first in the file, of a pattern that stands twice the last value.
func TestConfigs(t *testing.T) {
	c, err := parseConfigs([]byte(`{"r": 2, "lora_alpha": 8, "alpha_pattern": {"to_k": 3, "attn2.to_k": 5, "to_q": 1, "^down.*": 6, "to_q": 7}, "rank_pattern": null}`))
	require.NoError(t, err)
	s, ok := c.of(unetPart)
	require.True(t, ok)
	for path, want := range map[string]float64{
		"mid.attn2.to_k": 3, "attn2.to_k": 3, "mid.to_q": 7, "down.to_q": 7, "down.x": 6, "mid.down.x": 8, "x.into_k": 8, strings.Repeat("x.", 1000) + "to_k": 8,
	} {
		require.Equal(t, want, s.alpha(path, 1), path)
	}
	many := func(n int, pattern string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `, "%s%d": 1`, pattern, i)
		}
		return `{"alpha_pattern": {` + strings.TrimPrefix(b.String(), ", ") + `}}`
	}
	c, err = parseConfigs([]byte(many(maxPatterns, "to_k")))
	require.NoError(t, err)
	require.Zero(t, c.size()) // names are no work
	for text, want := range map[string]map[string]bool{
		"attn.to_q":  {"attn.to_q": true, "x.attn.to_q": true, "x.attn_to_q": true, "xattn.to_q": false, "to_q": false, "attn.to_q.x": false},
		"^attn.to_q": {"attn.to_q": true, "x.attn.to_q": false},
		"to_q$":      {"x.to_q": true, "to_q.x": false},
		"to_[qk]":    {"x.to_q": true, "to_k": true, "into_q": false},
		"a|b":        {"x.a": true, "b": true, "xb": false},
	} {
		p, err := newPattern(text)
		require.NoError(t, err)
		re := regexp.MustCompile(`^(.*\.)?(` + text + `)$`)
		for path, want := range want {
			require.Equal(t, want, p.matches(path), "%s: %s", text, path)
			require.Equal(t, want, re.MatchString(path), "%s: %s", text, path)
		}
	}
	for text, want := range map[string]string{
		many(maxPatterns+1, "to_k"):                      "alpha_pattern: want at most 4096 patterns",
		many(maxRegexps+1, "to_[kq]"):                    "alpha_pattern: want at most 256 patterns that are not plain names",
		many(1, strings.Repeat("x", maxPattern)):         "patterns of at most 512 bytes",
		`{"alpha_pattern": [1]}`:                         "alpha_pattern: want an object of patterns and numbers",
		`{"alpha_pattern": {"x": null}}`:                 `alpha_pattern: "x": want a number, got null`,
		`{"unet.rank_pattern": {"x": "y"}}`:              `rank_pattern: "x": `,
		`{"alpha_pattern": {"(?<=x)y": 1}}`:              `alpha_pattern: "(?<=x)y" is not a valid pattern`,
		`{"r": -1}`:                                      "r: want a rank",
		`{"r": 4, "init_lora_weights": "pissa_niter_4"}`: "init_lora_weights: with \"pissa_niter_4\"",
	} {
		_, err := parseConfigs([]byte(text))
		require.ErrorContains(t, err, want)
	}
	hard := safetensors.Options{Metadata: map[string]string{metadataKey: strings.ReplaceAll(many(maxRegexps, "(a|b|.*a.*b){1,90}x"), "alpha", "unet.alpha")}}
	var all []safetensors.Source
	for i := range 200 {
		for end, shape := range map[string][]int{"lora_A": {1, 2}, "lora_B": {2, 1}} {
			name := fmt.Sprintf("unet.%s%d.%s.weight", strings.Repeat("aba.", 100), i, end)
			all = append(all, safetensors.Source{Name: name, DType: safetensors.F16, Shape: shape, Data: safetensors.Bytes(make([]byte, 4))})
		}
	}
	path := filepath.Join(t.TempDir(), "hard.safetensors")
	require.NoError(t, safetensors.Write(path, all, hard))
	_, err = Open(path)
	require.ErrorContains(t, err, "200 modules")
	for _, text := range []string{`{"init_lora_weights": true}`, `{"init_lora_weights": "gaussian"}`, `{"init_lora_weights": null}`} {
		_, err := parseConfigs([]byte(text))
		require.NoError(t, err)
	}
}

// Settings that are there and cannot be read are an error: without them the adapter would have another scale.
func TestSettingsThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "adapter_model.safetensors")
	require.NoError(t, safetensors.Write(path, []safetensors.Source{
		{Name: "base_model.model.x.lora_A.weight", DType: safetensors.F16, Shape: []int{1, 2}, Data: safetensors.Bytes(make([]byte, 4))},
		{Name: "base_model.model.x.lora_B.weight", DType: safetensors.F16, Shape: []int{2, 1}, Data: safetensors.Bytes(make([]byte, 4))},
	}, safetensors.Options{}))
	config := filepath.Join(dir, configName)
	for _, c := range []struct {
		make func() error
		want string
	}{
		{func() error { return os.Symlink(configName, config) }, "too many levels of symbolic links"},
		{func() error { return os.Mkdir(config, 0o777) }, "a directory"},
		{func() error { return os.WriteFile(config, []byte("{"), 0o666) }, "adapter_config.json: want a JSON object"},
		{func() error { return os.Symlink("nothing", config) }, ""},
		{func() error { return nil }, ""},
	} {
		require.NoError(t, c.make())
		for _, path := range []string{dir, path} {
			f, err := Open(path)
			if c.want == "" {
				require.NoError(t, err)
				require.NoError(t, f.Close())
				continue
			}
			require.ErrorContains(t, err, c.want)
		}
		_ = os.Remove(config) // where there is one
	}
}

// An adapter for another base is named as such, by the width of texts, and nothing is changed.
func TestAnotherBase(t *testing.T) {
	small, xl := openTiny(t, "sd15"), openTiny(t, "sdxl")
	a := filled(t, Of(xl), Config{Rank: 2})
	path := filepath.Join(t.TempDir(), "xl.safetensors")
	require.NoError(t, a.Write(path, WriteOptions{}))
	_, err := Load(small, path, Options{})
	require.EqualError(t, err, path+": the adapter is for another model (its U-Net takes text features of width 32), and the model takes width 16: want an adapter for the same base model")
	require.False(t, strings.Contains(err.Error(), "\n"))
	_, err = Load(small, path, Options{Partial: true}) // shapes are never let pass
	require.Error(t, err)
	require.Equal(t, "Stable Diffusion XL or SSD-1B", weights.Family(2048))
}

// A weight that an adapter of any kind changed is made anew when the adapter's values change in place.
func TestValuesThatChange(t *testing.T) {
	m := openTiny(t, "sd15")
	const layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
	path := filepath.Join(t.TempDir(), "a.safetensors")
	require.NoError(t, safetensors.Write(path, []safetensors.Source{
		{Name: layer + ".diff", DType: safetensors.F32, Shape: []int{16, 16}, Data: safetensors.Bytes(make([]byte, 4*16*16))},
	}, safetensors.Options{}))
	a, err := Load(m, path, Options{})
	require.NoError(t, err)
	defer a.Close()
	on := a.At(1)
	var linear nn.Linear
	for name, l := range m.UNet.Store().Layers() {
		if strings.HasSuffix(name, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q") {
			linear = l.(nn.Linear)
		}
	}
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			for _, rows := range []int{5, 300} { // not packed, and packed
				x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, rows, 16)
				run := func() []float32 { return torch.ToSlice[float32](linear.Adapted(s, x, on).Contiguous(s)) }
				before := run()
				for _, p := range a.Store().Tensors() {
					p.FillInPlace(s, 1)
				}
				require.False(t, slices.Equal(before, run()), rows)
				for _, p := range a.Store().Tensors() {
					p.FillInPlace(s, 0)
				}
				require.True(t, slices.Equal(before, run()), rows)
			}
			return nil
		})
	}))
}

// Ten thousand switches of adapters leave nothing behind.
func TestSwitching(t *testing.T) {
	m := openTiny(t, "sd15")
	a, b := filled(t, Of(m), Config{Rank: 2}), filled(t, Of(m), Config{Rank: 2, Targets: []string{"to_q"}, Seed: 5})
	live := torch.Live()
	for i := range 10000 {
		on := a.At(float64(i)).And(b.At(-1))
		if i%100 == 0 {
			require.NoError(t, Merge(m, on))
			require.NoError(t, Merge(m, nil))
		}
	}
	require.Equal(t, live, torch.Live())
}

func FuzzOpen(f *testing.F) {
	tensors := []safetensors.Source{
		{Name: "lora_unet_x.lora_down.weight", DType: safetensors.F16, Shape: []int{1, 2}, Data: safetensors.Bytes(make([]byte, 4))},
		{Name: "lora_unet_x.lora_up.weight", DType: safetensors.F16, Shape: []int{2, 1}, Data: safetensors.Bytes(make([]byte, 4))},
		{Name: "lora_unet_x.alpha", DType: safetensors.F32, Data: safetensors.Bytes(make([]byte, 4))},
		{Name: "unet.y.lora_A.weight", DType: safetensors.F32, Shape: []int{1, 2}, Data: safetensors.Bytes(make([]byte, 8))},
		{Name: "unet.y.lora_B.weight", DType: safetensors.F32, Shape: []int{2, 1}, Data: safetensors.Bytes(make([]byte, 8))},
		{Name: "lora_unet_z.lokr_w1", DType: safetensors.F32, Shape: []int{2, 1}, Data: safetensors.Bytes(make([]byte, 8))},
		{Name: "lora_unet_z.lokr_w2_a", DType: safetensors.F32, Shape: []int{2, 1}, Data: safetensors.Bytes(make([]byte, 8))},
		{Name: "lora_unet_z.lokr_w2_b", DType: safetensors.F32, Shape: []int{1, 2}, Data: safetensors.Bytes(make([]byte, 8))},
	}
	path := filepath.Join(f.TempDir(), "seed.safetensors")
	if err := safetensors.Write(path, tensors, safetensors.Options{Metadata: map[string]string{metadataKey: `{"unet.r": 1, "unet.alpha_pattern": {"y": 2}}`}}); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	tables := published()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a.safetensors")
		require.NoError(t, os.WriteFile(path, data, 0o666))
		a, err := Open(path)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		defer a.Close()
		require.NotEmpty(t, a.Modules)
		for name, table := range tables {
			m := a.match(table, name)
			if m.Err(true) == nil {
				require.NoError(t, a.finiteOrNot(m.pairs))
			}
		}
		out := filepath.Join(t.TempDir(), "b.safetensors")
		if a.Write(out, nil, WriteOptions{Layout: Kohya}) == nil { // what can be written can be read, and says the same
			b, err := Open(out)
			require.NoError(t, err)
			defer b.Close()
			require.Len(t, b.Modules, len(a.Modules))
			again := filepath.Join(t.TempDir(), "c.safetensors")
			require.NoError(t, b.Write(again, nil, WriteOptions{Layout: Kohya}))
			require.True(t, bytes.Equal(read(t, out), read(t, again)))
		}
	})
}

// finiteOrNot reads all values, and is satisfied with any.
func (f *File) finiteOrNot(pairs []pair) error {
	if err := f.finite(pairs); err != nil && !strings.Contains(err.Error(), "not finite") {
		return err
	}
	return nil
}
