package optim

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/torchtest"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

// maker is a configuration.
type maker interface {
	New(params iter.Seq2[string, *torch.Tensor]) (*Optimizer, error)
	NewGroups(groups ...Group) (*Optimizer, error)
}

// named is an ordered set of parameters.
type named struct {
	names []string
	t     map[string]*torch.Tensor
}

func (n *named) add(name string, t *torch.Tensor) {
	if n.t == nil {
		n.t = map[string]*torch.Tensor{}
	}
	n.names, n.t[name] = append(n.names, name), t
}

// only yields the parameters of these names.
func (n *named) only(names ...string) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, name := range names {
			if !yield(name, n.t[name]) {
				return
			}
		}
	}
}

func (n *named) all() iter.Seq2[string, *torch.Tensor] { return n.only(n.names...) }

// values copies everything to the host as float64, joined.
func (n *named) values(s *torch.Scope) []float64 {
	var out []float64
	for _, name := range n.names {
		s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
			out = append(out, torch.ToSlice[float64](n.t[name].To(s, torch.Float64))...)
			return nil
		})
	}
	return out
}

// goldens reads testdata/optim.safetensors, which scripts/golden/torch/optim/optim.py wrote.
func goldens(t *testing.T, s *torch.Scope) map[string]*torch.Tensor {
	f, err := safetensors.Open("testdata/optim.safetensors")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	dtypes := map[safetensors.DType]torch.DType{safetensors.F64: torch.Float64, safetensors.F32: torch.Float32}
	out := map[string]*torch.Tensor{}
	for x := range f.Tensors() {
		out[x.Name] = torch.FromBytes(s, x.Data, dtypes[x.DType], x.Shape...)
	}
	return out
}

const goldenSteps = 12

// goldenAfter are the steps after which the golden runs kept their parameters.
var goldenAfter = []int{1, 2, 5, 6, 8, 12}

var goldenNames = []string{"a", "b", "c", "d"}

// withSecond makes the two groups of those golden runs that have two.
func withSecond(n *named) []Group {
	return []Group{{Params: n.only("a", "b")}, {Params: n.only("c", "d"), LR: 0.03, WeightDecay: 0.2}}
}

var goldenRuns = []struct {
	name   string
	config maker
	second bool // two groups
}{
	{"sgd", SGD{}, false},
	{"sgd_decay", SGD{LR: 0.1, WeightDecay: 0.1}, false},
	{"sgd_momentum", SGD{LR: 0.1, Momentum: 0.9}, false},
	{"sgd_dampening", SGD{LR: 0.1, Momentum: 0.9, Dampening: 0.5, WeightDecay: 0.1}, false},
	{"sgd_nesterov", SGD{LR: 0.1, Momentum: 0.9, Nesterov: true, WeightDecay: 0.1}, true},
	{"adam", Adam{}, false},
	{"adam_decay", Adam{LR: 0.01, Beta1: 0.5, Beta2: 0.9, Eps: 1e-4, WeightDecay: 0.1}, true},
	{"adam_beta1_0", Adam{LR: 0.01, Beta1: Zero, Beta2: 0.99}, false},
	{"adamw", AdamW{}, false},
	{"adamw_groups", AdamW{LR: 0.05, WeightDecay: 0.3}, true},
	{"radam", RAdam{}, false},
	{"radam_decay", RAdam{LR: 0.02, WeightDecay: 0.1}, true},
	{"radam_decoupled", RAdam{LR: 0.02, WeightDecay: 0.1, Decoupled: true}, true},
	{"radam_betas", RAdam{LR: 0.02, Beta1: 0.9, Beta2: 0.99, Eps: 1e-3}, false},
	{"radam_never", RAdam{LR: 0.02, Beta1: 0.9, Beta2: 0.5}, false},
}

// layout is how a test's parameter and gradient lie in memory.
type layout struct {
	name  string
	fused bool // which path that is meant to take
	param func(s *torch.Scope, t *torch.Tensor) *torch.Tensor
	grad  func(s *torch.Scope, t *torch.Tensor) *torch.Tensor
}

func asIs(_ *torch.Scope, t *torch.Tensor) *torch.Tensor { return t }

// reversed returns the same values with dimensions in the opposite order in memory.
func reversed(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	dims := make([]int, t.NDim())
	for i := range dims {
		dims[i] = len(dims) - 1 - i
	}
	if len(dims) == 0 {
		return t
	}
	return t.Permute(s, dims...).Contiguous(s).Permute(s, dims...)
}

// gaps returns the same values as every second element of a tensor.
func gaps(s *torch.Scope, t *torch.Tensor) *torch.Tensor {
	wide := torch.Stack(s, []*torch.Tensor{t, t.MulScalar(s, 7)}, t.NDim())
	return wide.Select(s, -1, 0)
}

var layouts = []layout{
	{"contiguous", true, asIs, asIs},
	{"both reversed", true, reversed, reversed},
	{"gradient reversed", false, asIs, reversed},
	{"parameter reversed", false, reversed, asIs},
	{"parameter with gaps", false, gaps, asIs},
	{"both with gaps", false, gaps, gaps},
}

// checkGolden runs all golden configurations on dev.
func checkGolden(t *testing.T, dev torch.Device) {
	for _, dtype := range []struct {
		torch.DType
		suffix    string
		tolerance float64 // relative to the larger of 1 and the value, which starts within ±3
	}{{torch.Float64, "f64", 1e-12}, {torch.Float32, "f32", 1e-6}} {
		for _, run := range goldenRuns {
			for _, l := range layouts {
				t.Run(fmt.Sprintf("%s %s %s", run.name, dtype.suffix, l.name), func(t *testing.T) {
					require.NoError(t, torch.Run(dev, func(s *torch.Scope) error {
						g := goldens(t, s)
						var params named
						for _, name := range goldenNames {
							p := l.param(s, g["start."+name].To(s, dtype.DType).Clone(s))
							p.SetRequiresGrad(true)
							params.add(name, p)
						}
						groups := one(params.all())
						if run.second {
							groups = withSecond(&params)
						}
						opt, err := run.config.NewGroups(groups...)
						require.NoError(t, err)
						defer opt.Close()
						base := opt.LR()
						want := torch.ToSlice[float64](g[run.name+"."+dtype.suffix].To(s, torch.Float64))

						for k := range goldenSteps {
							for _, name := range goldenNames {
								params.t[name].ZeroGrad()
								if name == "d" && slices.Contains([]int{2, 3, 7}, k) {
									continue
								}
								grad := l.grad(s, g["grads."+name].Select(s, 0, k).To(s, dtype.DType).Clone(s))
								params.t[name].SetGrad(grad)
								if p := opt.params[0]; name == "a" && p.alike(grad) != l.fused {
									t.Fatalf("fused is %v, want %v", !l.fused, l.fused)
								}
							}
							opt.SetLR(base / (1 + 0.1*float64(k)))
							opt.Step(s)
							row := slices.Index(goldenAfter, k+1)
							if row < 0 {
								continue
							}
							got := params.values(s)
							for i, v := range got {
								w := want[row*len(got)+i]
								if d := math.Abs(v - w); !(d <= dtype.tolerance*max(1, math.Abs(w))) {
									t.Fatalf("after step %d, element %d: got %.17g, want %.17g, off by %.2g", k+1, i, v, w, d)
								}
							}
						}
						return nil
					}))
				})
			}
		}
	}
}

// PyTorch's runs are of its plain code, ours of fused kernels or foreach operators: the tolerances are those of rounding.
func TestGolden(t *testing.T) { checkGolden(t, torch.CPU) }

func TestGoldenCUDA(t *testing.T) {
	if err := torch.CUDA(0).Available(); err != nil {
		t.Skip(err)
	}
	checkGolden(t, torch.CUDA(0))
}

// Elements between those of a view must stay as they are: the fused kernels of libtorch 2.11 overwrite them.
func TestStepLeavesGapsAlone(t *testing.T) {
	for _, config := range []maker{SGD{LR: 1, Momentum: 0.5}, Adam{LR: 1}, AdamW{LR: 1}, RAdam{LR: 1}} {
		require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
			wide := torch.Ones(s, torch.Float32, 4, 6)
			p := wide.Slice(s, 1, 0, 6, 2).Detach(s)
			p.SetRequiresGrad(true)
			var params named
			params.add("p", p)
			opt, err := config.New(params.all())
			require.NoError(t, err)
			defer opt.Close()
			p.SetGrad(torch.Ones(s, torch.Float32, 4, 3))
			for range 8 {
				opt.Step(s)
			}
			rest := torch.ToSlice[float32](wide.Slice(s, 1, 1, 6, 2))
			assert.Equal(t, slices.Repeat([]float32{1}, 12), rest, "%T", config)
			assert.Less(t, wide.Select(s, 1, 0).Mean(s).Item(), 0.9, "%T", config)
			return nil
		}))
	}
}

// quadratic makes parameters of several dtypes and shapes, and a function that sets their gradients for step k.
func quadratic(s *torch.Scope) (*named, func(s *torch.Scope, k int)) {
	g := torch.NewGenerator(s, 3)
	var params named
	for i, shape := range [][]int{{33}, {5, 7}, {2, 3, 3, 3}, {}} {
		for _, d := range []torch.DType{torch.Float32, torch.Float64, torch.BFloat16, torch.Float16} {
			p := torch.Randn(s, g, torch.Float32, shape...).To(s, d).Clone(s)
			p.SetRequiresGrad(true)
			params.add(fmt.Sprintf("layer%d.%s", i, d), p)
		}
	}
	never := torch.Ones(s, torch.Float32, 3)
	never.SetRequiresGrad(true)
	params.add("never", never)
	return &params, func(s *torch.Scope, k int) {
		for i, name := range params.names {
			p := params.t[name]
			p.ZeroGrad()
			if name == "never" || (i == 4 && k < 6) || (i == 5 && k%3 == 0) {
				continue
			}
			noise := torch.Randn(s, torch.NewGenerator(s, uint64(100*k+i)), torch.Float32, p.Shape()...).To(s, p.DType())
			p.SetGrad(s.NoGradTidy(func(s *torch.Scope) *torch.Tensor { return noise.Add(s, p) }))
		}
	}
}

var variants = []maker{
	SGD{LR: 0.1},
	SGD{LR: 0.1, Momentum: 0.9, Nesterov: true},
	Adam{LR: 0.01, WeightDecay: 0.1},
	AdamW{LR: 0.01},
	RAdam{LR: 0.01, WeightDecay: 0.1, Decoupled: true},
}

// n steps equal k steps, saved and loaded into another optimizer with its groups in another order, and n-k steps.
func TestResumeIsExact(t *testing.T) {
	const n = 12
	for _, config := range variants {
		for _, cut := range []int{0, 1, 5, 9} {
			t.Run(fmt.Sprintf("%+v at %d", config, cut), func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					straight, grads := quadratic(s)
					opt, err := config.New(straight.all())
					require.NoError(t, err)
					defer opt.Close()
					for k := range n {
						grads(s, k)
						opt.Step(s)
					}

					resumed, grads := quadratic(s)
					first, err := config.New(resumed.all())
					require.NoError(t, err)
					for k := range cut {
						grads(s, k)
						first.Step(s)
					}
					saved := map[string]*torch.Tensor{}
					for name, x := range first.State(s) {
						saved[name] = x.Clone(s)
					}
					first.Close()
					half := len(resumed.names) / 2
					second, err := config.NewGroups(Group{Params: resumed.only(resumed.names[half:]...)}, Group{Params: resumed.only(resumed.names[:half]...)})
					require.NoError(t, err)
					defer second.Close()
					// What the other optimizer did before must not matter.
					before := bytesOf(resumed)
					grads(s, 50)
					second.Step(s)
					restore(s, resumed, before)
					require.NoError(t, second.LoadState(maps.All(saved)))
					for k := cut; k < n; k++ {
						grads(s, k)
						second.Step(s)
					}
					assert.Empty(t, different(bytesOf(straight), bytesOf(resumed)))
					assert.Empty(t, different(stateBytes(s, opt), stateBytes(s, second)))
					return nil
				}))
			})
		}
	}
}

// different returns the names whose bytes differ or are missing on one side.
func different(a, b map[string][]byte) []string {
	var names []string
	for name, x := range a {
		if y, ok := b[name]; !ok || !bytes.Equal(x, y) {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func bytesOf(n *named) map[string][]byte {
	out := map[string][]byte{}
	for name, p := range n.all() {
		out[name] = p.Bytes()
	}
	return out
}

func restore(s *torch.Scope, n *named, values map[string][]byte) {
	s.NoGradTidy(func(s *torch.Scope) *torch.Tensor {
		for name, p := range n.all() {
			p.CopyFrom(s, torch.FromBytes(s, values[name], p.DType(), p.Shape()...))
		}
		return nil
	})
}

func stateBytes(s *torch.Scope, o *Optimizer) map[string][]byte {
	out := map[string][]byte{}
	for name, x := range o.State(s) {
		out[name] = x.Bytes()
	}
	return out
}

func TestStateNamesAndTypes(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		params, grads := quadratic(s)
		opt, err := RAdam{}.New(params.all())
		require.NoError(t, err)
		defer opt.Close()
		grads(s, 1)
		opt.Step(s)
		steps := make([]int64, 0, len(params.names))
		want := []string{"step"}
		for _, name := range slices.Sorted(slices.Values(params.names)) {
			if name == "never" || name == params.names[4] {
				steps = append(steps, 0)
				continue
			}
			steps = append(steps, 1)
			want = append(want, "exp_avg."+name, "exp_avg_sq."+name)
		}
		var got []string
		for name, x := range opt.State(s) {
			got = append(got, name)
			if name == "step" {
				assert.Equal(t, steps, torch.ToSlice[int64](x))
			}
			if name == "exp_avg.layer1.float16" {
				assert.Equal(t, torch.Float16, x.DType())
				assert.Equal(t, []int{5, 7}, x.Shape())
			}
		}
		assert.ElementsMatch(t, want, got)
		assert.Equal(t, []float32{1, 1, 1}, torch.ToSlice[float32](params.t["never"]))
		return nil
	}))
}

func TestLoadStateReportsEverything(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var params named
		for _, name := range []string{"b", "a", "c"} {
			p := torch.Ones(s, torch.Float32, 2)
			p.SetRequiresGrad(true)
			p.SetGrad(torch.Ones(s, torch.Float32, 2))
			params.add(name, p)
		}
		opt, err := Adam{}.New(params.all())
		require.NoError(t, err)
		defer opt.Close()
		opt.Step(s)
		before := stateBytes(s, opt)
		two, three := torch.Zeros(s, torch.Float32, 2), torch.Zeros(s, torch.Float32, 3)

		for _, c := range []struct {
			state map[string]*torch.Tensor
			want  string
		}{
			{map[string]*torch.Tensor{}, "the state does not fit this Adam optimizer: 1 missing: step"},
			{
				map[string]*torch.Tensor{
					"step": torch.FromSlice(s, []int64{1, 0, 3}), "exp_avg.a": two, "exp_avg_sq.a": three, "exp_avg.b": two,
					"exp_avg.c": two, "momentum_buffer.c": two, "exp_avg": two,
				},
				"the state does not fit this Adam optimizer: 1 missing: exp_avg_sq.c; " +
					"3 unexpected: exp_avg, exp_avg.b (of 0 steps), momentum_buffer.c; " +
					"1 shape mismatch: exp_avg_sq.a (want [2], got [3])",
			},
			{
				map[string]*torch.Tensor{"step": torch.FromSlice(s, []int64{1}), "exp_avg.d": two},
				"the state does not fit this Adam optimizer: 1 unexpected: exp_avg.d; " +
					"1 shape mismatch: step (want [3], one count for each parameter; got [1])",
			},
			{
				map[string]*torch.Tensor{"step": torch.FromSlice(s, []int64{1, -1, 1})},
				"the state does not fit this Adam optimizer: step holds the count -1, want 0 or more",
			},
			{
				map[string]*torch.Tensor{"step": three},
				"the state does not fit this Adam optimizer: step is float32, want int64",
			},
		} {
			assert.EqualError(t, opt.LoadState(maps.All(c.state)), c.want)
			assert.Empty(t, different(before, stateBytes(s, opt)))
		}
		return nil
	}))
}

func TestGroupRatesKeepTheirRatio(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var params named
		for _, name := range []string{"a", "b"} {
			p := torch.Zeros(s, torch.Float64)
			p.SetRequiresGrad(true)
			p.SetGrad(torch.Ones(s, torch.Float64))
			params.add(name, p)
		}
		opt, err := SGD{LR: 0.5}.NewGroups(Group{Params: params.only("a")}, Group{Params: params.only("b"), LR: 2})
		require.NoError(t, err)
		defer opt.Close()
		opt.Step(s)
		assert.Equal(t, []float64{-0.5, -2}, params.values(s))
		opt.SetLR(0.25)
		assert.Equal(t, 0.25, opt.LR())
		opt.Step(s)
		assert.Equal(t, []float64{-0.75, -3}, params.values(s))
		opt.SetLR(0)
		opt.Step(s)
		assert.Equal(t, []float64{-0.75, -3}, params.values(s))
		opt.ZeroGrad()
		assert.False(t, params.t["a"].HasGrad())
		opt.SetLR(1)
		opt.Step(s)
		assert.Equal(t, []float64{-0.75, -3}, params.values(s), "parameters without gradients stay")
		for _, lr := range []float64{-1, math.NaN(), math.Inf(1)} {
			assert.PanicsWithError(t, fmt.Sprintf("optim.SGD: the learning rate is %g, want a finite number, 0 or above", lr), func() { opt.SetLR(lr) })
		}
		return nil
	}))
}

func TestWeightDecayOfGroups(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		var params named
		for _, name := range []string{"own", "default", "none"} {
			p := torch.Ones(s, torch.Float64)
			p.SetRequiresGrad(true)
			p.SetGrad(torch.Zeros(s, torch.Float64))
			params.add(name, p)
		}
		opt, err := AdamW{LR: 0.1}.NewGroups(Group{Params: params.only("own"), WeightDecay: 0.5},
			Group{Params: params.only("default")}, Group{Params: params.only("none"), WeightDecay: Zero})
		require.NoError(t, err)
		defer opt.Close()
		opt.Step(s)
		assert.InDeltaSlice(t, []float64{1 - 0.1*0.5, 1 - 0.1*0.01, 1}, params.values(s), 1e-15)
		return nil
	}))
}

func TestStepErrors(t *testing.T) {
	var params named
	err := torch.Run(torch.CPU, func(s *torch.Scope) error {
		p := torch.Zeros(s, torch.Float32, 2)
		p.SetRequiresGrad(true)
		p.SetGrad(torch.Ones(s, torch.Float32, 2))
		params.add("p", p)
		opt, err := Adam{}.New(params.all())
		require.NoError(t, err)
		opt.Step(s)
		opt.Close()
		opt.Step(s)
		return nil
	})
	require.ErrorIs(t, err, torch.ErrFreed)
	_, err = Adam{}.New(params.all())
	assert.EqualError(t, err, `Adam: parameter "p" is nil or was freed`)
}

// A closed optimizer, and one of a closed network, say so.
func TestStepAfterClose(t *testing.T) {
	s := torch.NewScope(torch.CPU)
	defer s.Close()
	weights := torch.NewScope(torch.CPU)
	w := torch.Ones(weights, torch.Float32, 2)
	w.SetRequiresGrad(true)
	params := func(yield func(string, *torch.Tensor) bool) { yield("w", w) }
	for _, close := range []func(o *Optimizer){(*Optimizer).Close, func(*Optimizer) { weights.Close() }} {
		o, err := SGD{LR: 1}.New(params)
		require.NoError(t, err)
		defer o.Close()
		close(o)
		err = torch.Catch(func() { o.Step(s) })
		require.ErrorIs(t, err, torch.ErrFreed)
		require.ErrorContains(t, err, "optim.SGD: the ")
		require.NotContains(t, err.Error(), "operand")
	}
}

func TestConfigErrors(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		p, q := torch.Zeros(s, torch.Float32, 2), torch.Zeros(s, torch.Int64, 2)
		var good, twice, whole named
		good.add("p", p)
		twice.add("p", p)
		twice.add("q", p)
		whole.add("q", q)
		for _, c := range []struct {
			config maker
			groups []Group
			want   string
		}{
			{Adam{LR: -2}, one(good.all()), "Adam: LR is -2, want a finite number above 0, or optim.Zero"},
			{AdamW{Eps: math.NaN()}, one(good.all()), "AdamW: Eps is NaN, want a finite number above 0, or optim.Zero"},
			{RAdam{Beta2: 1}, one(good.all()), "RAdam: Beta1 is 0.9 and Beta2 is 1, want both below 1"},
			{SGD{Nesterov: true}, one(good.all()), "SGD: Nesterov needs Momentum above 0 and no Dampening"},
			{SGD{Momentum: math.Inf(1)}, one(good.all()), "SGD: Momentum is +Inf, want a finite number above 0, or optim.Zero"},
			{SGD{}, []Group{{Params: good.all(), LR: -3}}, "group 0: SGD: LR is -3, want a finite number above 0, or optim.Zero"},
			{SGD{LR: Zero}, []Group{{Params: good.all(), LR: 1}}, "SGD: group 0 has the learning rate 1, the optimizer has 0: their ratio is undefined"},
			{SGD{}, []Group{{}}, "SGD: group 0 has no Params"},
			{SGD{}, nil, "SGD: there are no parameters to train"},
			{Adam{}, one(whole.all()), `Adam: parameter "q" is int64, want a floating-point type`},
			{Adam{}, one(twice.all()), `Adam: "p" and "q" are the same tensor`},
			{Adam{}, append(one(good.all()), one(good.all())...), `Adam: two parameters are named "p"`},
		} {
			_, err := c.config.NewGroups(c.groups...)
			assert.EqualError(t, err, c.want)
		}
		return nil
	}))
}

// Parameters of 16 bits follow those of 32 as far as their precision goes: half a unit in the last place for each of 10
// steps, which for float16 between 2 and 4 is 10/1024. On the CPU libtorch 2.11's fused SGD does not
// even move them.
func TestHalfPrecision(t *testing.T) {
	for _, config := range variants {
		for dtype, tolerance := range map[torch.DType]float64{torch.BFloat16: 0.05, torch.Float16: 0.011} {
			t.Run(fmt.Sprintf("%+v %s", config, dtype), func(t *testing.T) {
				require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
					g := torch.NewGenerator(s, 5)
					start, grads := torch.Randn(s, g, dtype, 100), torch.Randn(s, g, dtype, 10, 100)
					var ends [2][]float64
					for i, d := range []torch.DType{dtype, torch.Float32} {
						p := start.To(s, d).Clone(s)
						p.SetRequiresGrad(true)
						var params named
						params.add("p", p)
						opt, err := config.New(params.all())
						require.NoError(t, err)
						defer opt.Close()
						for k := range 10 {
							p.SetGrad(grads.Select(s, 0, k).To(s, d))
							opt.Step(s)
						}
						ends[i] = params.values(s)
					}
					assert.InDeltaSlice(t, ends[1], ends[0], tolerance)
					moved := 0.0
					for i, v := range torch.ToSlice[float64](start.To(s, torch.Float64)) {
						moved = max(moved, math.Abs(v-ends[0][i]))
					}
					assert.Greater(t, moved, 0.05)
					return nil
				}))
			})
		}
	}
}

// Training 200 steps keeps the number of live tensors.
func TestStepsDoNotPileUp(t *testing.T) {
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		w := torch.FromSlice(s, []float32{3, -2})
		w.SetRequiresGrad(true)
		var params named
		params.add("w", w)
		opt, err := RAdam{LR: 0.1}.New(params.all())
		require.NoError(t, err)
		defer opt.Close()
		var live int64
		for k := range 200 {
			require.NoError(t, s.Run(func(s *torch.Scope) error {
				opt.ZeroGrad()
				w.SubScalar(s, 1).Square(s).Sum(s).Backward()
				opt.Step(s)
				return nil
			}))
			if k == 0 {
				live = torch.Live()
			}
		}
		assert.Equal(t, live, torch.Live())
		assert.InDeltaSlice(t, []float64{1, 1}, params.values(s), 0.05)
		return nil
	}))
}
