package network

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

func all() []Config {
	return []Config{
		{Net: unet.Config{Resolution: 8, Channels: 8, Mult: []int{1}, Blocks: 1}},
		{Net: unet2d.Config{Height: 8, Channels: []int{8}, Layers: 1}},
		{Net: dit.Config{Resolution: 8, Width: 16, Depth: 1}},
		{Net: mlp.Config{Shape: []int{3, 8, 8}, Width: 16, Depth: 1}},
	}
}

// everything is all kinds of conditioning.
var everything = models.Inputs{Until: true, Guidance: true, Null: true}

// drawn is an adapter that adds normal noise of that seed.
type drawn uint64

func (d drawn) AddTo(s *torch.Scope, sum, w *torch.Tensor) {
	sum.AddInPlace(s, torch.Randn(s, torch.NewGenerator(s, uint64(d)), torch.Float32, w.Shape()...).MulScalar(s, 0.1))
}

// Each network is built, copied and described as the same, and takes what its configuration says that it is told.
func TestNetworks(t *testing.T) {
	var names []string
	for _, c := range all() {
		names = append(names, c.Name())
	}
	require.Equal(t, Names(), names, "every registered network is tested")
	for _, c := range all() {
		require.NoError(t, c.WithDefaults().Validate())
		require.Equal(t, -1, c.NullClass(), c.Name())
		require.False(t, c.Until() || c.Guidance())
		told := c.With(models.Inputs{Classes: 5, Dropout: 0.1}.And(everything))
		require.Zero(t, c.Classes(), "the original stays as it was")
		require.Equal(t, 5, told.Classes())
		require.Equal(t, 5, told.NullClass())
		require.True(t, told.Until() && told.Guidance())
		require.Equal(t, []int{3, 8, 8}, told.Shape())

		net, err := New(told, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer net.Close()
		of, ok := Of(net)
		require.True(t, ok)
		require.Equal(t, told, of)
		require.Equal(t, told.Count(), net.Store().Count())
		clone, err := Clone(net)
		require.NoError(t, err)
		defer clone.Close()
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 8, 8)
			at := torch.FromSlice(s, []float32{0.5, -1})
			cond := models.Cond{Class: torch.FromSlice(s, []int64{0, 5}), Until: at, Guidance: at}
			require.Zero(t, net.Forward(s, x, at, cond).Sub(s, clone.Forward(s, x, at, cond)).Abs(s).Max(s).Item())
			for want, give := range map[string]func(c *models.Cond){
				"Cond.Text":    func(c *models.Cond) { c.Text = torch.Zeros(s, torch.Float32, 2, 7, 4) },
				"Cond.Pooled":  func(c *models.Cond) { c.Pooled = torch.Zeros(s, torch.Float32, 2, 4) },
				"Cond.Sizes":   func(c *models.Cond) { c.Sizes = torch.Zeros(s, torch.Float32, 2, 6) },
				"Cond.Control": func(c *models.Cond) { c.Control = &models.Residuals{Mid: at} },
			} {
				c := cond
				give(&c)
				require.ErrorContains(t, torch.Catch(func() { net.Forward(s, x, at, c) }), want, told.Name())
			}
			// Adapters of a call are what changed weights are.
			adapted := cond
			adapted.Adapters = nn.Adapters{}
			seed := uint64(0)
			for _, p := range net.Parameters() {
				seed++
				adapted.Adapters[p] = []nn.Adapter{drawn(seed)}
			}
			require.NoError(t, s.NoGrad(func(s *torch.Scope) error {
				before := net.Forward(s, x, at, cond)
				got := net.Forward(s, x, at, adapted)
				require.Zero(t, before.Sub(s, net.Forward(s, x, at, cond)).Abs(s).Max(s).Item(), "the weights stay as they were")
				seed = 0
				for _, p := range clone.Parameters() {
					seed++
					drawn(seed).AddTo(s, p, p)
				}
				want := clone.Forward(s, x, at, cond)
				require.Greater(t, want.Sub(s, before).Abs(s).Max(s).Item(), 1e-2)
				require.Less(t, want.Sub(s, got).Abs(s).Max(s).Item(), 1e-5*want.Abs(s).Max(s).Item(), told.Name())
				return nil
			}))
			return nil
		}))
		text, err := json.Marshal(told)
		require.NoError(t, err)
		var back Config
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, told, back)
	}
	unconditional := Config{Net: unet.Config{Classes: 4}}
	require.Equal(t, -1, unconditional.NullClass(), "a U-Net has a label for no class only where its configuration says so")
}

// The text of a configuration is that of files which exist.
func TestText(t *testing.T) {
	for want, c := range map[string]Config{
		`{}`: {},
		`{"unet":{"resolution":8,"in_channels":1,"channels":8,"mult":[1,2],"blocks":1,"null_label":true}}`: {Net: unet.Config{Resolution: 8, InChannels: 1,
			Channels: 8, Mult: []int{1, 2}, Blocks: 1, NullLabel: true}},
		`{"dit":{"resolution":8,"in_channels":0,"patch":2,"width":16,"depth":1}}`: {Net: dit.Config{Resolution: 8, Patch: 2, Width: 16, Depth: 1}},
		`{"mlp":{"shape":[2],"width":16,"depth":1,"until":true}}`:                 {Net: mlp.Config{Shape: []int{2}, Width: 16, Depth: 1, Until: true}},
	} {
		text, err := json.Marshal(c)
		require.NoError(t, err)
		require.Equal(t, want, string(text))
		back := Config{Net: mlp.Config{}}
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, c, back)
	}
	var first Config
	require.NoError(t, first.UnmarshalFirst([]byte(`{"channels":8}`)))
	require.Equal(t, Config{Net: unet.Config{Channels: 8}}, first)
	for text, want := range map[string]string{
		`[]`: "array", `{"gan":{}}`: `unet, unet2d, dit, mlp, got "gan"`, `{"unet":{"surprise":1}}`: `unknown field "surprise"`,
		`{"unet":{"channels":"x"}}`: "unet.channels", `{"unet":{},"mlp":{}}`: "got 2",
	} {
		var c Config
		require.ErrorContains(t, json.Unmarshal([]byte(text), &c), want, text)
	}
}

func TestRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"want the configuration of one network (unet, unet2d, dit or mlp), got 0":                                  {},
		"want the configuration of a registered network (unet, unet2d, dit or mlp), got a *unet.Config":            {Net: &unet.Config{}},
		"want the configuration of a registered network (unet, unet2d, dit or mlp), got a struct { network.Spec }": {Net: struct{ Spec }{}},
	} {
		_, err := New(c, torch.CPU, torch.Float32, 0)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, c.Validate(), want)
		_, _, err = c.Preset()
		require.ErrorContains(t, err, want)
		require.False(t, c.Adopts())
		require.Empty(t, c.Name())
	}
	require.Equal(t, Config{}, Config{}.With(everything), "no network stays none")
	require.Zero(t, Config{}.Count()+Config{}.Classes()+len(Config{}.Shape()))
	_, err := New(Config{Net: unet.Config{Blocks: -1}}, torch.CPU, torch.Float32, 0)
	require.ErrorContains(t, err, "blocks")
	_, ok := Of(struct{ models.Network }{})
	require.False(t, ok)
	_, err = Clone(struct{ Network }{})
	require.ErrorContains(t, err, "unet, unet2d, dit or mlp")
}

// A preset's options make a network whose preset and options they are; what they leave out is filled in.
func TestPresets(t *testing.T) {
	for _, p := range Presets() {
		for _, side := range []int{1, 6, 8, 28, 100} {
			o := p.Options()
			c, err := p.Config(o, 3, side)
			require.NoError(t, err)
			require.NoError(t, c.Validate(), p.Name)
			require.Equal(t, []int{3, side, side}, c.Shape())
			is, size, err := c.Preset()
			require.NoError(t, err)
			require.Equal(t, p.Name, is.Name)
			require.Equal(t, o, size)
			again, err := is.Config(size, 3, side)
			require.NoError(t, err)
			require.Equal(t, c, again)
			require.NotEmpty(t, c.Summary())
		}
		_, err := p.Config(&struct{}{}, 3, 8)
		require.ErrorContains(t, err, p.Name)
		named, err := PresetNamed(p.Name)
		require.NoError(t, err)
		require.Equal(t, p.About, named.About)
		for _, o := range options.Of(p.Options()) {
			require.NotEmpty(t, o.Help, o.Name)
		}
	}
	_, err := PresetNamed("gan")
	require.ErrorContains(t, err, `want one of ddpmpp, ncsnpp, adm, unet2d, dit, mlp`)
	require.ErrorContains(t, err, `got "gan"`)
}

// A U-Net that is told more starts as the one whose weights it adopts.
func TestAdopt(t *testing.T) {
	for _, c := range all() {
		c = c.With(models.Inputs{Classes: 3})
		plain, err := New(c, torch.CPU, torch.Float32, 1)
		require.NoError(t, err)
		defer plain.Close()
		same, err := New(c, torch.CPU, torch.Float32, 2)
		require.NoError(t, err)
		defer same.Close()
		require.NoError(t, Adopt(same, plain.Tensors()))
		more, err := New(c.With(c.Inputs().And(everything)), torch.CPU, torch.Float32, 2)
		require.NoError(t, err)
		defer more.Close()
		err = Adopt(more, plain.Tensors())
		require.Equal(t, err == nil, c.Adopts())
		require.Equal(t, slices.Contains(Adopting(), c.Name()), c.Adopts())
		require.Equal(t, strings.HasPrefix(c.Name(), "unet"), c.Adopts())
		if err != nil {
			continue
		}
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			x, at := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 2, 3, 8, 8), torch.FromSlice(s, []float32{0.5, -1})
			class := torch.FromSlice(s, []int64{0, 2})
			want := plain.Forward(s, x, at, models.Cond{Class: class})
			got := more.Forward(s, x, at, models.Cond{Class: class, Until: at, Guidance: at})
			require.Less(t, got.Sub(s, want).Abs(s).Max(s).Item(), 1e-6)
			return nil
		}))
	}
}
