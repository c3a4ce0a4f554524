package evaluation

import "github.com/onestep-go/onestep/torch"

// bundled is the number of images whose features are added up together. A batch is smaller, and adding its products [D, D] alone would take
// longer than computing them.
const bundled = 512

// bundle gathers the features of batches. It has to be closed.
type bundle struct {
	each func(s *torch.Scope, first int, x *torch.Tensor) error

	scope *torch.Scope // nil: nothing is held
	parts []*torch.Tensor
	first int // index of the first image held
	n     int // images held
}

// add holds the features of a batch [B, D], and passes on what is held if that is enough.
func (b *bundle) add(x *torch.Tensor) error {
	if b.scope == nil {
		b.scope = torch.NewScope(torch.CPU)
	}
	b.parts = append(b.parts, x.Clone(b.scope))
	if b.n += x.Dim(0); b.n < bundled {
		return nil
	}
	return b.flush()
}

// flush passes on what is held.
func (b *bundle) flush() error {
	if b.n == 0 {
		return nil
	}
	err := b.scope.NoGrad(func(s *torch.Scope) error { return b.each(s, b.first, torch.Cat(s, b.parts, 0)) })
	b.close()
	b.first, b.n = b.first+b.n, 0
	return err
}

// close frees what is held.
func (b *bundle) close() {
	if b.scope != nil {
		b.scope.Close()
	}
	b.scope, b.parts = nil, nil
}
