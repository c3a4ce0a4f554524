package torch

import "testing"

// Every operator that a typed wrapper names is in this libtorch. That each one's arguments fit is checked by the calls of
// the other tests: the C layer compares them with the schema.
func TestWrappersNameRealOperators(t *testing.T) {
	if len(wrapped) < 150 {
		t.Fatalf("%d wrappers are registered", len(wrapped))
	}
	for _, o := range wrapped {
		if _, err := o.find(); err != nil {
			t.Error(err)
		}
	}
}

// A checkpoint's function is forgotten when its graph goes, whether or not backward ran.
func TestCheckpointsAreForgotten(t *testing.T) {
	err := Run(CPU, func(s *Scope) error {
		for i := range 4 {
			err := s.Run(func(s *Scope) error {
				x := Ones(s, Float32, 2)
				x.SetRequiresGrad(true)
				runs := 0
				y := Checkpoint(s, func(s *Scope, in []*Tensor) []*Tensor {
					if runs++; runs > 1 && i == 3 {
						panic(&Error{Op: "test"})
					}
					return []*Tensor{in[0].Square(s)}
				}, x)[0]
				switch i {
				case 1:
					y.Sum(s).Backward()
				case 2:
					Backward([]*Tensor{y.Sum(s)}, BackwardOptions{RetainGraph: true})
				case 3:
					y.Sum(s).Backward()
				}
				return nil
			})
			if (err != nil) != (i == 3) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = Run(CPU, func(s *Scope) error {
		Checkpoint(s, func(*Scope, []*Tensor) []*Tensor { return []*Tensor{nil} }, Ones(s, Float32))
		return nil
	})
	if err == nil {
		t.Error("a checkpoint with a nil output was made")
	}
	checkpoints.Lock()
	defer checkpoints.Unlock()
	if n := len(checkpoints.funcs); n != 0 {
		t.Errorf("%d functions are still held", n)
	}
}
