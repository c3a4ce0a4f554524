package checkpoint

import "github.com/onestep-go/onestep/torch"

// Contents are what a model file or a directory holds, without the weights' values.
type Contents struct {
	Description Description
	Path        string // the file or directory that was read
	Notices     []string
	Tensors     []Tensor // under the names of Description.Network
}

// Tensor is the name, type and shape of a tensor of a model.
type Tensor struct {
	Name  string
	DType torch.DType
	Shape []int
}

// ReadContents reads what [OpenFile] would open.
func ReadContents(path string) (Contents, error) {
	in, file, err := importAt(path)
	if err != nil {
		return Contents{}, err
	}
	c := Contents{Description: in.Description, Path: file, Notices: in.notices}
	for name := range in.source.Names() {
		shape, dtype, _ := in.source.Info(name)
		c.Tensors = append(c.Tensors, Tensor{name, dtype, shape})
	}
	return c, in.close()
}
