package blocks

import (
	"iter"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Adoption loads the weights of a network with fewer conditioning inputs into one that otherwise has the same layers, which then computes
// the same, whatever its additional inputs.
type Adoption struct {
	Modules []string // embeddings that the source may lack: their weights start at zero, but those of linear_1, which keep their values
	// Table is the name of a class embedding that may have one row less in the source, Rows: the null class, which starts at zero. "": none.
	Table string
	Rows  int
}

// Load copies the weights into the store. All others have to match as in [nn.Store.Load].
func (o Adoption) Load(st *nn.Store, weights iter.Seq2[string, *torch.Tensor]) error {
	return torch.Run(st.Device(), func(s *torch.Scope) error {
		return st.Load(func(yield func(string, *torch.Tensor) bool) {
			given := map[string]bool{}
			for name, v := range weights {
				module, _, _ := strings.Cut(name, ".")
				given[module] = true
				if o.Table != "" && name == o.Table && v.NDim() == 2 && v.Dim(0) == o.Rows {
					v = v.Pad(s, []int{0, 0, 0, 1}, torch.PadConstant, 0)
				}
				if !yield(name, v) {
					return
				}
			}
			for name, v := range st.Parameters() {
				module, layer, _ := strings.Cut(name, ".")
				if given[module] || !slices.Contains(o.Modules, module) {
					continue
				}
				if !strings.HasPrefix(layer, "linear_1.") {
					v = torch.ZerosLike(s, v)
				}
				if !yield(name, v) {
					return
				}
			}
		})
	})
}
