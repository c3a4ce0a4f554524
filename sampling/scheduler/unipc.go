package scheduler

import (
	"errors"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// UniPC is a predictor-corrector: it corrects each step with the network's output at its end, without additional calls (Zhao et al. 2023,
// algorithms 5 and 7, with B(h) = e^h - 1). The order is the configuration's solver_order, 2 by default. diffusers:
// UniPCMultistepScheduler.
type UniPC struct {
	Karras bool // Karras noise levels (Karras et al. 2022, eq. 5)
	B1     bool // B(h) = h, solver_type bh1 of diffusers, ComfyUI's uni_pc
}

type uniRun struct {
	preserving
	b1      bool
	x       *torch.Tensor    // corrected latents at the start of the previous step
	outputs [3]*torch.Tensor // clean latents of the previous steps, latest first; nil: none
	order   int              // of the previous step
}

// Start implements Method.
func (m UniPC) Start(c noise.Config, o Options) (Schedule, error) {
	l, err := newLevels(c, o, uniClass, m.Karras, true)
	if err != nil {
		return nil, err
	}
	if l.Order > 1 && len(l.at) > 1 && !is(l.LowerFinal, true) && l.FinalSigma == "zero" {
		return nil, errors.New("scheduler config: lower_order_final is false, but unipc needs a lower order in the last step to noise level 0; " +
			"want true, or final_sigmas_type sigma_min")
	}
	return &uniRun{preserving: preserving{l}, b1: m.B1}, nil
}

// Again implements Schedule.
func (r *uniRun) Again() Schedule {
	again := *r
	again.x, again.outputs, again.order = nil, [3]*torch.Tensor{}, 0
	return &again
}

func (r *uniRun) Step(s *torch.Scope, i int, x, out *torch.Tensor, _ Noise) (next, clean *torch.Tensor) {
	k := r.begin + i
	clean = r.predict(s, i, x, out)
	if i == 0 {
		x = x.Share(s)
	} else {
		x = r.correct(s, k, clean)
	}
	r.x.Free()
	r.outputs[2].Free()
	r.x, r.outputs = x, [3]*torch.Tensor{clean.Share(s), r.outputs[0], r.outputs[1]}
	r.order = min(r.Order, i+1)
	if is(r.LowerFinal, true) {
		r.order = min(r.order, len(r.at)-k)
	}
	st := r.stepFrom(k, r.order)
	var weights []float32
	switch r.order {
	case 2:
		weights = []float32{0.5}
	case 3:
		weights = solved(st.ratios[:2], st.integrals[:2])
	}
	next = s.Tidy(func(s *torch.Scope) *torch.Tensor { return r.moved(s, st, weights, nil) })
	return next, clean
}

// correct returns the corrected latents at level k, from those of the previous step and the network's output at k.
func (r *uniRun) correct(s *torch.Scope, k int, clean *torch.Tensor) *torch.Tensor {
	st := r.stepFrom(k-1, r.order)
	weights := []float32{0.5}
	if r.order > 1 {
		weights = solved(st.ratios, st.integrals)
	}
	return s.Tidy(func(s *torch.Scope) *torch.Tensor { return r.moved(s, st, weights, clean) })
}

// uniStep is a step from one level to the next in the paper's notation.
type uniStep struct {
	to, from  level
	phi, b    float32   // hφ_1(h) = e^-h - 1, and B(h)
	ratios    []float32 // distances in λ of earlier levels relative to the step, nearest first, and 1
	integrals []float32 // right-hand sides of eq. 9 of the paper for as many orders
}

func (r *uniRun) stepFrom(k, order int) uniStep {
	st := uniStep{to: r.level(k + 1), from: r.level(k)}
	h := st.to.lambda - st.from.lambda
	st.phi = exactly((*torch.Tensor).Expm1, -h)
	if st.b = st.phi; r.b1 {
		st.b = -h
	}
	next, factorial := st.phi/-h-1, float32(1)
	for i := 1; i <= order; i++ {
		ratio := float32(1)
		if i < order {
			ratio = (r.level(k-i).lambda - st.from.lambda) / h
		}
		st.ratios = append(st.ratios, ratio)
		st.integrals = append(st.integrals, next*factorial/st.b)
		factorial *= float32(i + 1)
		next = next/-h - 1/factorial
	}
	return st
}

// moved takes the corrected latents along a step, with the weights of the differences to earlier outputs and, if it is known, to the output
// at the end.
func (r *uniRun) moved(s *torch.Scope, st uniStep, weights []float32, end *torch.Tensor) *torch.Tensor {
	m0 := r.outputs[0]
	y := r.x.MulScalar(s, float64(st.to.sigma/st.from.sigma)).Sub(s, m0.MulScalar(s, float64(st.to.alpha*st.phi)))
	var sum *torch.Tensor
	add := func(d *torch.Tensor, weight float32) {
		if d = d.MulScalar(s, float64(weight)); sum != nil {
			d = sum.Add(s, d)
		}
		sum = d
	}
	for i, w := range weights {
		if i < len(st.ratios)-1 {
			add(r.outputs[i+1].Sub(s, m0).DivScalar(s, float64(st.ratios[i])), w)
		} else {
			add(end.Sub(s, m0), w)
		}
	}
	if sum == nil {
		return y
	}
	return y.Sub(s, sum.MulScalar(s, float64(st.to.alpha*st.b)))
}

// solved returns the weights ρ with Σ_j ratios_j^i·ρ_j = right_i for i = 0, 1, …, by Gaussian elimination with pivoting in float32, as
// LAPACK does for diffusers.
func solved(ratios, right []float32) []float32 {
	n := len(ratios)
	rows := make([][]float32, n)
	for i := range rows {
		for _, v := range ratios {
			p := float32(1)
			for range i {
				p *= v
			}
			rows[i] = append(rows[i], p)
		}
		rows[i] = append(rows[i], right[i])
	}
	for i := range rows {
		best := i
		for j := i + 1; j < n; j++ {
			if max(rows[j][i], -rows[j][i]) > max(rows[best][i], -rows[best][i]) {
				best = j
			}
		}
		rows[i], rows[best] = rows[best], rows[i]
		for j := i + 1; j < n; j++ {
			f := rows[j][i] / rows[i][i]
			for c := i; c <= n; c++ {
				rows[j][c] -= float32(f * rows[i][c])
			}
		}
	}
	out := make([]float32, n)
	for i := n - 1; i >= 0; i-- {
		v := rows[i][n]
		for j := i + 1; j < n; j++ {
			v -= float32(rows[i][j] * out[j])
		}
		out[i] = v / rows[i][i]
	}
	return out
}
