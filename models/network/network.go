// Package network is one of the networks, whichever: its configuration in files and options, and itself.
package network

import (
	"fmt"
	"iter"
	"slices"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/mlp"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Network is a network with its weights: a *unet.UNet, a *dit.DiT or a *mlp.MLP.
type Network interface {
	models.Network
	Tensors() iter.Seq2[string, *torch.Tensor]
	Load(weights iter.Seq2[string, *torch.Tensor]) error
	Store() *nn.Store
	Close()
}

// Config is the configuration of a network: of the kind whose field is set. In JSON it is an object with that one key.
type Config struct {
	UNet *unet.Config `json:"unet,omitempty"`
	DiT  *dit.Config  `json:"dit,omitempty"`
	MLP  *mlp.Config  `json:"mlp,omitempty"`
}

// one refuses configurations of no network or of several.
func (c Config) one() error {
	n := 0
	for _, set := range []bool{c.UNet != nil, c.DiT != nil, c.MLP != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("network: want the configuration of one network (unet, dit or mlp), got %d", n)
	}
	return nil
}

// WithDefaults returns a copy with every field that was left at zero filled in.
func (c Config) WithDefaults() Config {
	switch {
	case c.UNet != nil:
		v := c.UNet.WithDefaults()
		c.UNet = &v
	case c.DiT != nil:
		v := c.DiT.WithDefaults()
		c.DiT = &v
	case c.MLP != nil:
		v := c.MLP.WithDefaults()
		c.MLP = &v
	}
	return c
}

// Validate reports what cannot work, of a configuration with its defaults filled in.
func (c Config) Validate() error {
	if err := c.one(); err != nil {
		return err
	}
	switch {
	case c.UNet != nil:
		return c.UNet.Validate()
	case c.DiT != nil:
		return c.DiT.Validate()
	}
	return c.MLP.Validate()
}

// Name returns which network it is: unet, dit or mlp.
func (c Config) Name() string {
	switch {
	case c.UNet != nil:
		return "unet"
	case c.DiT != nil:
		return "dit"
	case c.MLP != nil:
		return "mlp"
	}
	return ""
}

// Shape returns the shape of one sample, [C, H, W] for images.
func (c Config) Shape() []int {
	switch {
	case c.UNet != nil:
		return []int{c.UNet.InChannels, c.UNet.Resolution, c.UNet.Resolution}
	case c.DiT != nil:
		return []int{c.DiT.InChannels, c.DiT.Resolution, c.DiT.Resolution}
	case c.MLP != nil:
		return slices.Clone(c.MLP.Shape)
	}
	return nil
}

// Classes returns the number of classes; 0 is an unconditional network.
func (c Config) Classes() int { return *c.WithDefaults().common().classes }

// Until tells whether the network is told the end of a jump.
func (c Config) Until() bool { return *c.WithDefaults().common().until }

// Guidance tells whether the network is told a guidance scale.
func (c Config) Guidance() bool { return *c.WithDefaults().common().guidance }

// NullClass returns the label that stands for no class, or -1 where the network has none.
func (c Config) NullClass() int {
	c = c.WithDefaults()
	switch {
	case c.UNet != nil:
		return c.UNet.NullClass()
	case c.Classes() == 0:
		return -1
	}
	return c.Classes()
}

// With returns a copy for that many classes and that probability of dropout.
func (c Config) With(classes int, dropout float64) Config {
	c = c.WithDefaults()
	f := c.common()
	*f.classes, *f.dropout = classes, dropout
	return c
}

// Told returns a copy that is told more: the end of a jump, a guidance scale, and that there is no class.
func (c Config) Told(until, guidance, null bool) Config {
	c = c.WithDefaults()
	f := c.common()
	*f.until, *f.guidance = *f.until || until, *f.guidance || guidance
	if c.UNet != nil {
		c.UNet.NullLabel = c.UNet.NullLabel || null
	}
	return c
}

// common is what all configurations have; of a copy, which may be changed.
type common struct {
	classes         *int
	until, guidance *bool
	dropout         *float64
}

func (c Config) common() common {
	switch {
	case c.UNet != nil:
		return common{&c.UNet.Classes, &c.UNet.Until, &c.UNet.Guidance, &c.UNet.Dropout}
	case c.DiT != nil:
		return common{&c.DiT.Classes, &c.DiT.Until, &c.DiT.Guidance, &c.DiT.Dropout}
	case c.MLP != nil:
		return common{&c.MLP.Classes, &c.MLP.Until, &c.MLP.Guidance, &c.MLP.Dropout}
	}
	return common{new(int), new(bool), new(bool), new(float64)}
}

// Count returns the number of the network's weights without making any.
func (c Config) Count() int {
	switch {
	case c.UNet != nil:
		return c.UNet.Count()
	case c.DiT != nil:
		return c.DiT.Count()
	case c.MLP != nil:
		return c.MLP.Count()
	}
	return 0
}

// Activations estimates how many elements the network's tensors have together at most, for one sample: while it predicts, or with
// gradients while these are computed.
func (c Config) Activations(gradients bool) float64 {
	switch {
	case c.UNet != nil:
		return c.UNet.Activations(gradients)
	case c.DiT != nil:
		return c.DiT.Activations(gradients)
	case c.MLP != nil:
		return c.MLP.Activations(gradients)
	}
	return 0
}

// New makes the network with random weights drawn from seed.
func New(c Config, dev torch.Device, seed uint64) (Network, error) {
	if err := c.one(); err != nil {
		return nil, err
	}
	switch {
	case c.UNet != nil:
		return made(unet.New(*c.UNet, dev, seed))
	case c.DiT != nil:
		return made(dit.New(*c.DiT, dev, seed))
	}
	return made(mlp.New(*c.MLP, dev, seed))
}

// made keeps a nil pointer from becoming an interface that is not nil.
func made[N Network](net N, err error) (Network, error) {
	if err != nil {
		return nil, err
	}
	return net, nil
}

// Of returns a network's configuration; false for a network that is none of these, such as a user's own.
func Of(net models.Network) (Config, bool) {
	switch net := net.(type) {
	case *unet.UNet:
		c := net.Config()
		return Config{UNet: &c}, true
	case *dit.DiT:
		c := net.Config()
		return Config{DiT: &c}, true
	case *mlp.MLP:
		c := net.Config()
		return Config{MLP: &c}, true
	}
	return Config{}, false
}

// Clone makes a copy with weights of its own that do not collect gradients: a target or an average.
func Clone(net Network) (Network, error) {
	switch net := net.(type) {
	case *unet.UNet:
		return made(net.Clone())
	case *dit.DiT:
		return made(net.Clone())
	case *mlp.MLP:
		return made(net.Clone())
	}
	return nil, fmt.Errorf("network: want a *unet.UNet, a *dit.DiT or a *mlp.MLP, got %T", net)
}

// Adopt gives a network the weights of one that is told less, as unet.UNet.Adopt does; weights of one that is told the same fit
// every network.
func Adopt(net Network, weights iter.Seq2[string, *torch.Tensor]) error {
	if u, ok := net.(*unet.UNet); ok {
		return u.Adopt(weights)
	}
	return net.Load(weights)
}
