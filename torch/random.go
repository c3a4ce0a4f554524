package torch

/*
#include "../csrc/ct.h"
*/
import "C"

import "fmt"

// Generator is one stream of random numbers on one device. On the CPU it generates the same numbers as PyTorch for
// the same seed, shape and dtype. It is owned by a [Scope]. A generator must not be used by two goroutines at once.
type Generator struct {
	h      C.ct_generator
	device Device
}

// NewGenerator makes a stream on the scope's device.
func NewGenerator(s *Scope, seed uint64) *Generator { return NewGeneratorOn(s, s.device, seed) }

// NewGeneratorOn makes a stream on dev, owned by s. A stream on the CPU can fill tensors on other devices, so that the numbers
// do not depend on the device.
func NewGeneratorOn(s *Scope, dev Device, seed uint64) *Generator {
	if err := dev.Available(); err != nil {
		panic(&Error{Op: "generator", Msg: err.Error(), Err: err})
	}
	var h C.ct_generator
	if e := C.ct_generator_new(C.int32_t(dev.code()), C.uint64_t(seed), &h); e != nil {
		panic(take(e, "generator"))
	}
	live.Add(1)
	g := &Generator{h: h, device: dev}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		g.free()
		panic(&Error{Op: "generator", Msg: "a generator was made in a scope that is closed", Err: ErrFreed})
	}
	s.generators = append(s.generators, g)
	return g
}

func (g *Generator) free() {
	if g.h != nil {
		C.ct_generator_free(g.h)
		g.h = nil
		live.Add(-1)
	}
}

func (g *Generator) handle(op string) C.ct_generator {
	if g.h == nil {
		panic(&Error{Op: op, Msg: "the generator was freed when its scope closed", Err: ErrFreed})
	}
	return g.h
}

// Device returns the device on which the numbers are generated.
func (g *Generator) Device() Device { return g.device }

// Seed restarts the stream from seed.
func (g *Generator) Seed(seed uint64) {
	if e := C.ct_generator_seed(g.handle("seed"), C.uint64_t(seed)); e != nil {
		panic(take(e, "seed"))
	}
}

// State returns the stream's state, in the format of PyTorch's Generator.get_state.
func (g *Generator) State() []byte {
	var h C.ct_tensor
	if e := C.ct_generator_state(g.handle("state"), &h); e != nil {
		panic(take(e, "state"))
	}
	s := NewScope(CPU)
	defer s.Close()
	return ToSlice[uint8](newTensor(s, h, "state"))
}

// SetState restores a state returned by State.
func (g *Generator) SetState(state []byte) error {
	s := NewScope(CPU)
	defer s.Close()
	t := FromSlice(s, state)
	if e := C.ct_generator_set_state(g.handle("set_state"), t.h); e != nil {
		return fmt.Errorf("generator state of %d bytes: %w", len(state), take(e, "set_state"))
	}
	return nil
}

var (
	opRandn       = newOp("aten::randn.generator")
	opRand        = newOp("aten::rand.generator")
	opRandint     = newOp("aten::randint.low_generator")
	opRandperm    = newOp("aten::randperm.generator")
	opMultinomial = newOp("aten::multinomial")
	opBernoulli   = newOp("aten::bernoulli.p")
	opNormalFill  = newOp("aten::normal_")
	opUniformFill = newOp("aten::uniform_")
)

// generated runs a factory operator on the generator's own device and moves the result to the scope's.
func generated(s *Scope, g *Generator, f func(s *Scope) *Tensor) *Tensor {
	if g == nil || g.device == s.device {
		return f(s)
	}
	return s.Tidy(func(c *Scope) *Tensor {
		c.device = g.device
		return f(c).ToDevice(c, s.device)
	})
}

// Randn samples the standard normal distribution with g, on the scope's device.
func Randn(s *Scope, g *Generator, d DType, shape ...int) *Tensor {
	return generated(s, g, func(s *Scope) *Tensor {
		c := call{op: opRandn, s: s}
		return c.ints(shape).gen(g).options(d).one()
	})
}

// Rand samples uniformly from [0, 1).
func Rand(s *Scope, g *Generator, d DType, shape ...int) *Tensor {
	return generated(s, g, func(s *Scope) *Tensor {
		c := call{op: opRand, s: s}
		return c.ints(shape).gen(g).options(d).one()
	})
}

// Randint samples integers uniformly from lo to hi-1.
func Randint(s *Scope, g *Generator, lo, hi int, d DType, shape ...int) *Tensor {
	return generated(s, g, func(s *Scope) *Tensor {
		c := call{op: opRandint, s: s}
		return c.int(lo).int(hi).ints(shape).gen(g).options(d).one()
	})
}

// Randperm returns the numbers 0 to n-1 in random order, as int64 [n].
func Randperm(s *Scope, g *Generator, n int) *Tensor {
	return generated(s, g, func(s *Scope) *Tensor {
		c := call{op: opRandperm, s: s}
		return c.int(n).gen(g).options(Int64).one()
	})
}

// Multinomial samples n indices in proportion to the weights in t, [K] or [B, K]; the result is int64, [n] or [B, n].
func (t *Tensor) Multinomial(s *Scope, g *Generator, n int, replacement bool) *Tensor {
	c := call{op: opMultinomial, s: s}
	return c.t(t).int(n).bool(replacement).gen(g).one()
}

// Bernoulli samples a tensor like t whose elements are 1 with probability p and 0 otherwise.
func (t *Tensor) Bernoulli(s *Scope, p float64, g *Generator) *Tensor {
	c := call{op: opBernoulli, s: s}
	return c.t(t).float(p).gen(g).one()
}

// Dropout zeroes elements with probability p and scales the others by 1/(1-p). With g nil, or p 0, it returns t: a
// network without a dropout stream is in evaluation mode. Equal streams give equal masks, whatever the values; a stream on
// the CPU gives the same mask on every device.
func (t *Tensor) Dropout(s *Scope, p float64, g *Generator) *Tensor {
	if g == nil || p == 0 {
		return t
	}
	if p < 0 || p >= 1 {
		panic(&Error{Op: "dropout", Msg: fmt.Sprintf("want a probability in [0, 1), got %v", p)})
	}
	return s.Tidy(func(s *Scope) *Tensor {
		mask := s.NoGradTidy(func(s *Scope) *Tensor {
			in := t.info("dropout")
			like := t.Detach(s)
			if g.device != in.device() {
				c := s.child(0)
				c.device = g.device
				defer c.Close()
				like = Empty(c, in.dtype(), in.shape()...)
			}
			return like.Bernoulli(s, 1-p, g).ToDevice(s, in.device()).MulScalar(s, 1/(1-p))
		})
		return t.Mul(s, mask)
	})
}

// NormalInPlace fills t with samples of N(mean, std²).
func (t *Tensor) NormalInPlace(s *Scope, mean, std float64, g *Generator) {
	c := call{op: opNormalFill, s: s}
	c.t(t).float(mean).float(std).gen(g).zero()
}

// UniformInPlace fills t with uniform samples from [lo, hi).
func (t *Tensor) UniformInPlace(s *Scope, lo, hi float64, g *Generator) {
	c := call{op: opUniformFill, s: s}
	c.t(t).float(lo).float(hi).gen(g).zero()
}
