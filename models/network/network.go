package network

import (
	"fmt"
	"iter"
	"strings"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// Network is a network with its weights, such as a *unet.UNet.
type Network interface {
	models.Network
	Tensors() iter.Seq2[string, *torch.Tensor]
	Load(weights iter.Seq2[string, *torch.Tensor]) error
	Store() *nn.Store
	Close()
}

// Spec is the configuration of a registered network, of its package's own type, such as a unet.Config.
type Spec interface {
	// Validate reports the first invalid field of a configuration with its defaults filled in.
	Validate() error
	// SampleShape is the shape of one sample, [C, H, W] for images.
	SampleShape() []int
	// Inputs are the conditioning inputs.
	Inputs() models.Inputs
	// Count is the number of weights; none are allocated.
	Count() int
	// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with
	// gradients of a training step.
	Activations(gradients bool) float64
	// Checkpointed estimates the same of a training step with gradient checkpointing.
	Checkpointed() float64
	// Summary describes the network in one line, without its conditioning inputs.
	Summary() string
}

// Config is the configuration of any registered network. In JSON it is an object with one key, the network's name. The zero value
// has no network.
type Config struct {
	Net Spec // such as a unet.Config
}

// one reports a configuration that is missing, or of no registered network.
func (c Config) one() error {
	switch {
	case c.Net == nil:
		return wantOne(0)
	case kindOf(c.Net) == nil:
		return fmt.Errorf("network: want the configuration of a registered network (%s), got a %T", known(), c.Net) //quote: our own names
	}
	return nil
}

func wantOne(n int) error {
	return fmt.Errorf("network: want the configuration of one network (%s), got %d", known(), n) //quote: our own names
}

// known lists the names as "a, b or c".
func known() string {
	names := Names()
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// WithDefaults returns a copy with every zero field set to its default.
func (c Config) WithDefaults() Config {
	if c.one() != nil {
		return c
	}
	return Config{kindOf(c.Net).withDefaults(c.Net)}
}

// Validate reports the first invalid field of a configuration with its defaults filled in.
func (c Config) Validate() error {
	if err := c.one(); err != nil {
		return err
	}
	return c.Net.Validate()
}

// Name returns the network's name, such as "unet".
func (c Config) Name() string {
	if c.one() != nil {
		return ""
	}
	return kindOf(c.Net).name()
}

// Summary describes the network in one line, without its conditioning inputs.
func (c Config) Summary() string {
	if c.Net == nil {
		return "no network"
	}
	return c.WithDefaults().Net.Summary()
}

// Shape returns the shape of one sample, [C, H, W] for images.
func (c Config) Shape() []int {
	if c.Net == nil {
		return nil
	}
	return c.WithDefaults().Net.SampleShape()
}

// Inputs returns the conditioning inputs.
func (c Config) Inputs() models.Inputs {
	if c.Net == nil {
		return models.Inputs{}
	}
	return c.WithDefaults().Net.Inputs()
}

// Classes returns the number of classes; 0: unconditional.
func (c Config) Classes() int { return c.Inputs().Classes }

// Until reports whether the network takes the end of a jump.
func (c Config) Until() bool { return c.Inputs().Until }

// Guidance reports whether the network takes a guidance scale.
func (c Config) Guidance() bool { return c.Inputs().Guidance }

// NullClass returns the label of the null class, or -1 if there is none.
func (c Config) NullClass() int { return c.Inputs().NullClass() }

// With returns a copy with these conditioning inputs.
func (c Config) With(in models.Inputs) Config {
	if c.one() != nil {
		return c
	}
	c = c.WithDefaults()
	return Config{kindOf(c.Net).withInputs(c.Net, in)}
}

// Count returns the number of the network's weights without allocating them.
func (c Config) Count() int {
	if c.Net == nil {
		return 0
	}
	return c.Net.Count()
}

// Activations estimates the peak memory of intermediate results in tensor elements, for one sample: of a forward pass, or with
// gradients of a training step.
func (c Config) Activations(gradients bool) float64 {
	if c.Net == nil {
		return 0
	}
	return c.Net.Activations(gradients)
}

// Checkpointed estimates the same of a training step with gradient checkpointing.
func (c Config) Checkpointed() float64 {
	if c.Net == nil {
		return 0
	}
	return c.Net.Checkpointed()
}

// New makes the network with random weights of that type, drawn from seed.
func New(c Config, dev torch.Device, dtype torch.DType, seed uint64) (Network, error) {
	if err := c.one(); err != nil {
		return nil, err
	}
	return kindOf(c.Net).make(c.Net, dev, dtype, seed)
}

// Of returns a network's configuration; false for a type that is not registered, such as a user's own.
func Of(net models.Network) (Config, bool) {
	for _, k := range kinds() {
		if c, ok := k.of(net); ok {
			return Config{c}, true
		}
	}
	return Config{}, false
}

// Clone makes a copy with weights of its own that do not require gradients, for a target network or EMA weights.
func Clone(net Network) (Network, error) {
	for _, k := range kinds() {
		if _, ok := k.of(net); ok {
			return k.clone(net)
		}
	}
	return nil, fmt.Errorf("network: want a registered network (%s), got %T", known(), net) //quote: our own names
}

// Adopt loads the weights of a network that may have fewer conditioning inputs, as unet.UNet.Adopt does. Networks without support for it
// (see Config.Adopts) load the weights of a network with the same inputs only.
func Adopt(net Network, weights iter.Seq2[string, *torch.Tensor]) error {
	if a, ok := net.(adopter); ok {
		return a.Adopt(weights)
	}
	return net.Load(weights)
}

// Adopts reports whether the network can start from the weights of one with fewer conditioning inputs.
func (c Config) Adopts() bool { return c.one() == nil && kindOf(c.Net).adopts() }
