package tests

import (
	"context"
	"hash/crc32"
	"iter"
	"log/slog"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	tinysd "github.com/onestep-go/onestep/models/sd/sdtest/tiny"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training"
)

// mixed is a tiny Stable Diffusion U-Net of some type, frozen, which is the teacher and, with an adapter in float32, the student.
type mixed struct {
	net              *unet.UNet
	adapter, average *lora.Adapter
	objective        *typed
	width            int
}

func newMixed(t *testing.T, dtype torch.DType) mixed {
	t.Helper()
	tiny, err := tinysd.Model("sd15")
	require.NoError(t, err)
	config, err := unet.ParseConfig(tiny.UNet.Config)
	require.NoError(t, err)
	net, err := unet.From(config, sdtest.Filled(unet.Shapes(config)), torch.CPU, dtype)
	require.NoError(t, err)
	t.Cleanup(net.Close)
	adapter := func() *lora.Adapter {
		a, err := lora.New(lora.Networks{"unet": net.Store()}, lora.Config{Rank: 2, Seed: 5, Targets: []string{"to_q", "to_v", "conv1"}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.Close()) })
		return a
	}
	m := mixed{net: net, adapter: adapter(), average: adapter(), width: config.CrossAttentionDim[0]}
	chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
	require.NoError(t, err)
	student := &models.DDPM{Net: &models.Adapted{Net: net, Adapters: m.adapter.At(1), Learned: m.adapter}, Chain: chain}
	m.objective = &typed{Objective: &training.CD{
		CT:      training.CT{Model: &models.Latent{Model: student}, Schedule: training.Fixed{Levels: 10}, Distance: training.PseudoHuber{C: 0.1}},
		Teacher: &models.Guided{Model: &models.DDPM{Net: net, Chain: chain}, Null: models.Cond{Text: m.null(t)}, Scale: 3},
		Solver:  sampling.Euler{},
	}}
	return m
}

// weights are sums of the network's weights in its own type; its tensors may be of their source's until they are used.
func (m mixed) weights() map[string]uint32 {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	return bits(func(yield func(string, *torch.Tensor) bool) {
		for name, w := range m.net.Tensors() {
			if !yield(name, w.To(s, m.net.Store().DType())) {
				return
			}
		}
	})
}

func (m mixed) null(t *testing.T) *torch.Tensor {
	s := torch.NewScope(torch.CPU)
	t.Cleanup(s.Close)
	return torch.Randn(s, torch.NewGenerator(s, 9), torch.Float32, 1, 7, m.width)
}

// batches yields latents and text features in one type, each a function of its position.
func (m mixed) batches(dtype torch.DType) training.Source {
	return training.SourceFunc(func(s *torch.Scope, start int64) training.Batch {
		g := torch.NewGenerator(s, uint64(start)+1)
		return training.Batch{
			X:    torch.Randn(s, g, torch.Float32, 2, 4, 8, 8).To(s, dtype),
			Cond: models.Cond{Text: torch.Randn(s, g, torch.Float32, 2, 7, m.width).To(s, dtype)},
		}
	})
}

// train takes steps of a run of 4.
func (m mixed) train(t *testing.T, dir string, source training.Source, steps int) training.Result {
	t.Helper()
	opt, err := optim.AdamW{LR: 1e-4}.New(m.adapter.Parameters())
	require.NoError(t, err)
	defer opt.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r, err := (&training.Trainer{
		Objective: m.objective, Model: m.adapter, Optimizer: opt, Data: source, Accumulate: 2, Clip: 1,
		Averages: []training.Average{{Into: m.average, Decay: 0.5}}, Dir: dir, Seed: 1, Steps: 4,
		Progress: func(p training.Progress) {
			if p.Step == steps {
				stop()
			}
		},
	}).Train(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, steps, r.Step)
	return r
}

// typed notes the types of samples and losses, and the first loss.
type typed struct {
	training.Objective
	samples, losses torch.DType
	all             []float64
}

func (o *typed) Loss(s *torch.Scope, k int, b training.Batch, d training.Draws) *torch.Tensor {
	l := o.Objective.Loss(s, k, b, d)
	o.samples, o.losses, o.all = b.X.DType(), l.DType(), append(o.all, l.Item())
	return l
}

// values are the numbers of parameters.
func values(t *testing.T, all iter.Seq2[string, *torch.Tensor]) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	for name, p := range all {
		require.Equal(t, torch.Float32, p.DType(), name)
		out[name] = torch.ToSlice[float32](p)
	}
	return out
}

// An adapter in float32 is trained beside a frozen network in half precision: the network computes in its own type, all else is in
// float32, also over a source in half precision. The first loss is, but for the rounding within the network, that over the same network in
// float32, and steps are taken that half precision would round away. A run that was interrupted ends with the same bits.
func TestTrainingBesideAFrozenHalf(t *testing.T) {
	threads := torch.Threads()
	require.NoError(t, torch.SetThreads(1)) // bits repeat
	defer func() { require.NoError(t, torch.SetThreads(threads)) }()
	full := newMixed(t, torch.Float32)
	full.train(t, "", full.batches(torch.Float32), 1)
	for _, c := range []struct {
		dtype, source torch.DType
		tolerance     float64 // of the loss: some digits of the type
	}{{torch.BFloat16, torch.Float32, 0.03}, {torch.BFloat16, torch.BFloat16, 0.03}, {torch.Float16, torch.Float32, 0.004}} {
		t.Run(c.dtype.String()+" from "+c.source.String(), func(t *testing.T) {
			m := newMixed(t, c.dtype)
			frozen := m.weights()
			before := values(t, m.adapter.Parameters())
			dir := filepath.Join(t.TempDir(), "run")
			r := m.train(t, dir, m.batches(c.source), 4)
			require.Equal(t, frozen, m.weights())
			require.Equal(t, torch.Float32, m.objective.samples)
			require.Equal(t, torch.Float32, m.objective.losses)
			require.InEpsilon(t, full.objective.all[0], m.objective.all[0], c.tolerance)
			require.NotEqual(t, full.objective.all[0], m.objective.all[0], "the network computed in float32")

			// Steps of at most 1e-4 each moved nearly all factors, most of them by less than half precision can tell.
			moved, small, n := 0, 0, 0
			for name, now := range values(t, m.adapter.Parameters()) {
				for i, v := range now {
					was := before[name][i]
					n++
					if v != was {
						moved++
					}
					if v != was && math.Abs(float64(v-was)) < math.Abs(float64(was))/512 {
						small++
					}
				}
			}
			require.Greater(t, moved, n*9/10)
			require.NotZero(t, small)

			state, err := safetensors.Open(r.State)
			require.NoError(t, err)
			defer state.Close()
			kinds := map[string]int{}
			for info := range state.Tensors() {
				kind, _, _ := strings.Cut(info.Name, ".")
				kinds[kind]++
				if !strings.HasSuffix(info.Name, ".step") {
					require.Equal(t, safetensors.F32, info.DType, info.Name)
				}
			}
			require.NotZero(t, kinds["model"]*kinds["average"]*kinds["optimizer"])
			snapshot, err := lora.Open(r.Snapshot)
			require.NoError(t, err)
			for _, module := range snapshot.Modules {
				require.Equal(t, torch.Float32, module.DType, module.Name)
			}
			require.NoError(t, snapshot.Close())

			parts := newMixed(t, c.dtype)
			again := filepath.Join(t.TempDir(), "run")
			require.NotEqual(t, bits(m.adapter.Parameters()), bits(parts.adapter.Parameters()))
			parts.train(t, again, parts.batches(c.source), 2)
			rest := newMixed(t, c.dtype)
			rest.train(t, again, rest.batches(c.source), 4)
			require.Equal(t, bits(m.adapter.Parameters()), bits(rest.adapter.Parameters()))
			require.Equal(t, bits(m.average.Parameters()), bits(rest.average.Parameters()))
		})
	}
}

// Parameters that are learned in half precision are warned of, and a run does not resume into those of another type, nor average into them.
func TestLearnedTypes(t *testing.T) {
	m := newMixed(t, torch.BFloat16)
	adapter := func(d torch.DType) *lora.Adapter {
		a, err := lora.New(lora.Networks{"unet": m.net.Store()}, lora.Config{Rank: 2, Targets: []string{"to_q"}, DType: &d})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, a.Close()) })
		return a
	}
	dir := filepath.Join(t.TempDir(), "run")
	train := func(a, average *lora.Adapter) (string, error) {
		opt, err := optim.SGD{LR: 1e-4}.New(a.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		var log strings.Builder
		_, err = (&training.Trainer{
			Objective: still{}, Model: a, Optimizer: opt, Data: m.batches(torch.Float32), Dir: dir, Steps: 1,
			Averages: []training.Average{{Into: average, Decay: 0.5}}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		}).Train(t.Context())
		return log.String(), err
	}
	log, err := train(adapter(torch.BFloat16), adapter(torch.BFloat16))
	require.NoError(t, err)
	require.Contains(t, log, "half precision")
	for _, average := range []torch.DType{torch.BFloat16, torch.Float32} {
		_, err = train(adapter(torch.Float32), adapter(average))
		require.ErrorContains(t, err, "bfloat16")
		require.ErrorContains(t, err, "float32")
	}
	dir = filepath.Join(t.TempDir(), "other")
	log, err = train(adapter(torch.Float32), adapter(torch.Float32))
	require.NoError(t, err)
	require.NotContains(t, log, "half precision")
}

// still is an objective that learns nothing.
type still struct{}

func (still) Loss(s *torch.Scope, _ int, b training.Batch, _ training.Draws) *torch.Tensor {
	x := torch.Zeros(s, torch.Float32)
	x.SetRequiresGrad(true)
	return x
}
func (still) Update(*torch.Scope, int)     {}
func (still) Stats(int) map[string]float64 { return nil }
func (still) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}

// bits are sums of the bytes of tensors.
func bits(all iter.Seq2[string, *torch.Tensor]) map[string]uint32 {
	out := map[string]uint32{}
	for name, p := range all {
		out[name] = crc32.ChecksumIEEE(p.Bytes())
	}
	return out
}

// One step of latent consistency distillation with an adapter in float32 over a network in half precision, with loss scaling for float16 and
// with gradient checkpointing, changes the adapter as it does over the same network in float32, but for the rounding within the network: as a
// vector by some of the type's last digits, times the guidance of up to 15, by which the teacher multiplies a difference of two results. The
// gradients are scaled down, as those of large networks with means over many elements are; without loss scaling float16 loses most of them.
func TestAStepInHalfPrecision(t *testing.T) {
	const small = 1e-4
	step := func(dtype torch.DType, scale *training.LossScale, checkpointing bool) []float64 {
		m := newMixed(t, dtype)
		opt, err := optim.SGD{LR: 1 / small}.New(m.adapter.Parameters())
		require.NoError(t, err)
		defer opt.Close()
		before := values(t, m.adapter.Parameters())
		chain, err := noise.Betas{Schedule: noise.ScaledLinear}.Chain()
		require.NoError(t, err)
		teacher := &models.DDPM{Net: m.net, Chain: chain}
		student := &models.DDPM{Net: &models.Adapted{Net: m.net, Adapters: m.adapter.At(1), Learned: m.adapter}, Chain: chain}
		lcd := &training.LCD{Model: &models.Latent{Model: student}, Teacher: teacher, Null: models.Cond{Text: m.null(t)}}
		r, err := (&training.Trainer{Objective: shrunk{lcd, small}, Model: m.adapter, Optimizer: opt, Data: m.batches(torch.Float32), Seed: 3, Steps: 1,
			LossScale: scale, Checkpointing: checkpointing}).Train(t.Context())
		require.NoError(t, err)
		require.Zero(t, r.Overflows)
		var change []float64
		after := values(t, m.adapter.Parameters())
		for _, name := range slices.Sorted(maps.Keys(after)) {
			for i, v := range after[name] {
				change = append(change, float64(v-before[name][i]))
			}
		}
		return change
	}
	apart := func(a, b []float64) float64 {
		var diff, size float64
		for i := range a {
			diff, size = diff+(a[i]-b[i])*(a[i]-b[i]), size+a[i]*a[i]
		}
		return math.Sqrt(diff / size)
	}
	want := step(torch.Float32, nil, false)
	require.Equal(t, want, step(torch.Float32, nil, true))
	for _, c := range []struct {
		dtype     torch.DType
		scale     *training.LossScale
		tolerance float64
	}{{torch.BFloat16, nil, 0.25}, {torch.Float16, &training.LossScale{}, 0.03}} {
		got := step(c.dtype, c.scale, true)
		t.Logf("%s: %.2g", c.dtype, apart(want, got))
		require.Less(t, apart(want, got), c.tolerance, c.dtype)
		require.Positive(t, apart(want, got), c.dtype)
	}
	require.Greater(t, apart(want, step(torch.Float16, nil, true)), 0.06, "float16 needs no loss scaling here")
}

// shrunk is an objective with a factor.
type shrunk struct {
	training.Objective
	factor float64
}

func (o shrunk) Loss(s *torch.Scope, k int, b training.Batch, d training.Draws) *torch.Tensor {
	return o.Objective.Loss(s, k, b, d).MulScalar(s, o.factor)
}
