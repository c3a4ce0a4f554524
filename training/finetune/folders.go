package finetune

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// snapshotted is the network that a full model's snapshots have.
func (s *session) snapshotted() *unet.UNet {
	if s.average != nil {
		return s.average.Into.(*unet.UNet)
	}
	return s.student
}

// copyOf returns a network of the same weights.
func copyOf(u *unet.UNet) (*unet.UNet, error) {
	c, err := unet.New(u.Config(), u.Store().Device(), u.Store().DType(), 0)
	if err != nil {
		return nil, err
	}
	if err := c.Store().Load(u.Tensors()); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// modelFolders writes the snapshots of a full model as directories of diffusers.
type modelFolders struct{ *session }

// Path implements [training.Snapshots].
func (f *modelFolders) Path(step int) string { return f.folder(step) }

// Write implements [training.Snapshots].
func (f *modelFolders) Write(_ context.Context, _ *torch.Scope, step int, _ int64) error {
	net := f.snapshotted()
	config, err := json.Marshal(net.Config())
	if err != nil {
		return err
	}
	m := *f.read
	m.UNet, m.Kind, m.Spec = &weights.Component{Config: config, Source: as{nn.Stored{Store: net.Store()}, f.Run.saved()}}, lcmKind(m.Kind), nil
	r := f.method.(*LCM)
	m.UNet.Guidance = weights.Scales{Min: 1 + *r.WMin, Max: 1 + *r.WMax}
	m.Scheduler = fewStepScheduler(m.Scheduler, r)
	return weights.WriteFolder(f.Path(step), &m, weights.WriteOptions{Overwrite: true})
}

// as is a source of weights in another data type. What is not trained keeps its own: autoencoders such as Stable Diffusion XL's overflow in
// float16.
type as struct {
	nn.Source
	dtype torch.DType
}

// Info implements [nn.Source].
func (a as) Info(name string) ([]int, torch.DType, bool) {
	shape, _, ok := a.Source.Info(name)
	return shape, a.dtype, ok
}

// Get implements [nn.Source].
func (a as) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	t, err := a.Source.Get(s, name)
	if err != nil {
		return nil, err
	}
	return t.To(s, a.dtype), nil
}

// lcmKind is the kind of a model that was distilled.
func lcmKind(k weights.Kind) weights.Kind {
	if k == weights.SD15 {
		return weights.LCM15
	}
	return k
}

// fewStepScheduler is a scheduler's configuration for the sampler of a model that was distilled.
func fewStepScheduler(config []byte, r *LCM) []byte {
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(config))
	dec.UseNumber()
	if dec.Decode(&all) != nil {
		return config
	}
	all["_class_name"] = "LCMScheduler"
	if r.jumps() {
		all["_class_name"] = "TCDScheduler"
	}
	if c, err := noise.ParseConfig(config); err == nil {
		all["original_inference_steps"] = max(c.Steps()/r.Skip, 1) // the grid of timesteps that the model was trained on
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return config
	}
	return text
}
