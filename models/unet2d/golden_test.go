package unet2d

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"iter"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// tolerance is how far outputs, which are about 1 in size, may be from PyTorch's. Both sides compute in float32 with the same kernels, in
// orders that differ in a few places; that makes some 1e-6 through the networks' depth.
const tolerance = 2e-5

// golden is testdata/cases.safetensors of scripts/golden/models/unet2d/unet2d.py.
type golden struct {
	tensors  map[string]*torch.Tensor
	metadata map[string]string
}

func openGolden(t *testing.T, s *torch.Scope) golden {
	t.Helper()
	tensors, metadata := torchtest.Golden(t, s, filepath.Join("testdata", "cases.safetensors"))
	return golden{tensors, metadata}
}

func (g golden) cases(t *testing.T) (names []string) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(g.metadata["cases"]), &names))
	require.Greater(t, len(names), 8)
	return names
}

func (g golden) config(t *testing.T, name string) Config {
	t.Helper()
	c, err := FromDiffusers([]byte(g.metadata[name+"/config"]))
	require.NoError(t, err)
	return c
}

// drawn draws the weights that the generator drew.
func (g golden) drawn(t *testing.T, s *torch.Scope, name string) iter.Seq2[string, *torch.Tensor] {
	t.Helper()
	seed, err := strconv.ParseUint(g.metadata["seed"], 10, 64)
	require.NoError(t, err)
	stream := torch.NewGenerator(s, seed)
	draw := func(name string, dims []int) *torch.Tensor {
		v := torch.Randn(s, stream, torch.Float32, dims...)
		n := 1
		for _, d := range dims[1:] {
			n *= d
		}
		switch {
		case name == "time_proj.weight":
			return v.MulScalar(s, 2)
		case len(dims) > 1:
			return v.DivScalar(s, math.Sqrt(float64(n)))
		case strings.HasSuffix(name, "weight"):
			return v.MulScalar(s, 0.1).AddScalar(s, 1)
		}
		return v.MulScalar(s, 0.1)
	}
	return func(yield func(string, *torch.Tensor) bool) {
		for _, p := range byName(g.config(t, name).Shapes()) {
			if !yield(p.Name, draw(p.Name, p.Dims)) {
				return
			}
		}
	}
}

// byName returns tensors in the order of their names.
func byName(all []nn.Shape) []nn.Shape {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b nn.Shape) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// layout returns the hash of names and shapes, as the generators compute it.
func layout(all []nn.Shape) string {
	sum := sha256.New()
	for _, p := range byName(all) {
		fmt.Fprintf(sum, "%s %s\n", p.Name, strings.Join(strings.Fields(fmt.Sprint(p.Dims)), ", "))
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// The same configuration and weights give UNet2DModel's outputs, for each type of block. With a Fourier embedding diffusers takes σ, embeds
// ln σ and divides by σ; here the label is ln σ.
func TestUNet2DModel(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s)
		used := map[Block]bool{}
		for _, name := range g.cases(t) {
			t.Run(name, func(t *testing.T) {
				c := g.config(t, name)
				for _, b := range slices.Concat(c.Down, c.Up) {
					used[b] = true
				}
				net, err := New(c, torch.CPU, torch.Float32, 1)
				require.NoError(t, err)
				defer net.Close()
				require.NoError(t, net.Load(g.drawn(t, s, name)))
				var cond models.Cond
				if c.Classes > 0 {
					cond.Class = g.tensors["class"]
				}
				for mode, run := range map[string]func(func(*torch.Scope) error) error{"recording": s.Run, "no grad": s.NoGrad, "inference": s.Inference} {
					require.NoError(t, run(func(s *torch.Scope) error {
						label := g.tensors["t"]
						if c.Embedding == unet.Fourier {
							label = label.Log(s)
						}
						y := net.Forward(s, g.tensors[name+"/x"], label, cond)
						if c.Embedding == unet.Fourier {
							y = y.Div(s, g.tensors["t"].Reshape(s, -1, 1, 1, 1))
						}
						torchtest.Close(t, name+", "+mode, y, g.tensors[name+"/y"], tolerance, tolerance)
						return nil
					}))
				}
			})
		}
		require.Len(t, used, len(downs)+len(ups), "every type of block")
		return nil
	}))
}

// Names and shapes are exactly UNet2DModel's, and the configuration that we write is the one that was read.
func TestLayout(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := openGolden(t, s)
		for _, name := range g.cases(t) {
			t.Run(name, func(t *testing.T) {
				c := g.config(t, name)
				require.Equal(t, g.metadata[name+"/layout"], layout(c.Shapes()))

				written, err := c.Diffusers()
				require.NoError(t, err)
				again, err := FromDiffusers(written)
				require.NoError(t, err)
				require.Equal(t, c, again)
				var theirs, ours map[string]any
				require.NoError(t, json.Unmarshal([]byte(g.metadata[name+"/config"]), &theirs))
				require.NoError(t, json.Unmarshal(written, &ours))
				if theirs["time_embedding_type"] == "fourier" { // which uses no flip
					theirs["flip_sin_to_cos"] = false
				}
				for _, key := range []string{"down_block_types", "up_block_types"} {
					for i, b := range theirs[key].([]any) {
						theirs[key].([]any)[i] = strings.TrimPrefix(b.(string), "UNetRes")
					}
				}
				require.Equal(t, theirs, ours)

				text, err := json.Marshal(c)
				require.NoError(t, err)
				var back Config
				require.NoError(t, json.Unmarshal(text, &back))
				require.Equal(t, c, back.WithDefaults())
			})
		}
		return nil
	}))
}
