package finetune

import (
	"context"
	"errors"
	"fmt"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/optim"
	"github.com/onestep-go/onestep/training"
)

// prepareWhole prepares the snapshots of a new model, and lists its parameters.
func (s *session) prepareWhole() error {
	if *s.Run.EMA > 0 {
		c, err := s.whole.Copy()
		if err != nil {
			return err
		}
		s.own(func() { _ = c.Close() })
		s.average = &training.Average{Decay: *s.Run.EMA, Into: c}
	}
	s.snapshots = &newFolders{session: s}
	s.groups = []optim.Group{{Params: s.whole.Parameters()}}
	return nil
}

// wholeSnapshotted is the model that snapshots have.
func (s *session) wholeSnapshotted() *sd.Model {
	if s.average != nil {
		return s.average.Into.(*sd.Model)
	}
	return s.whole
}

// newFolders writes the snapshots of a new model as directories of diffusers.
type newFolders struct {
	*session
	noted bool
}

// Path implements [training.Snapshots].
func (f *newFolders) Path(step int) string { return f.folder(step) }

// Write implements [training.Snapshots].
func (f *newFolders) Write(_ context.Context, _ *torch.Scope, step int, _ int64) error {
	d := f.Run.saved()
	notices, err := f.wholeSnapshotted().Write(f.Path(step), weights.WriteOptions{DType: &d, Overwrite: true, DecoderOnly: f.method.(*LDM).DecoderOnly})
	if err != nil {
		return err
	}
	if !f.noted {
		for _, n := range notices {
			f.Run.warn(n)
		}
		f.noted = true
	}
	return nil
}

// reloadWhole reads a new model's snapshot as other programs do, and compares what it computes with what is trained.
func (v *validation) reloadWhole(path string) (*sd.Model, error) {
	r := v.Run
	m, err := sd.Open(path, sd.Options{Device: r.Device, DType: torch.Float32})
	if err != nil {
		return nil, err
	}
	var trained, read [3][]float64
	err = torch.Run(r.Device, func(s *torch.Scope) error {
		return s.NoGrad(func(s *torch.Scope) error {
			trained, read = v.computes(s, v.wholeSnapshotted()), v.computes(s, m)
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	rounding := map[torch.DType]float64{torch.Float32: 1e-3, torch.Float16: 2e-2, torch.BFloat16: 1e-1}[r.saved()]
	for i, part := range []string{"text encoder", "unet", "autoencoder"} {
		if off, size := distance(read[i], trained[i]), norm(trained[i]); !(off <= rounding*size) {
			return nil, errors.Join(fmt.Errorf("its %s is not the one that was trained: their outputs differ by %.3g, and have a norm of %.3g", part, off, size), m.Close())
		}
	}
	return m, nil
}

// computes returns a model's outputs for a caption and noise: text features, the network's output and the decoded image.
func (v *validation) computes(s *torch.Scope, m *sd.Model) (out [3][]float64) {
	const timestep = 499
	caption := "a"
	for _, im := range v.Data.Images() {
		if len(im.Captions) > 0 && im.Captions[0] != "" {
			caption = im.Captions[0]
			break
		}
	}
	side := v.side / m.VAE.Factor()
	x := torch.Randn(s, torch.NewGenerator(s, 1), torch.Float32, 1, m.VAE.Channels(), side, side)
	text := m.EmbedTogether(s, nn.Adapters(nil), sd.Text{Prompt: caption, Plain: true}).Text
	t := torch.FromSlice(s, []float64{timestep}).To(s, torch.Float32)
	for i, y := range []*torch.Tensor{text, models.Forward(s, m.UNet, x, t, models.Cond{Text: text}), m.VAE.Decode(s, x.To(s, m.VAE.DType()))} {
		out[i] = torch.ToSlice[float64](y.To(s, torch.Float64))
	}
	return out
}

// needOfNew estimates the memory that training a new model takes.
func (p *Plan) needOfNew() (Need, error) {
	averages := 0
	if *p.Run.EMA > 0 {
		averages = 1
	}
	e := p.made.TrainingNeed(p.Run.Batch, averages)
	n := Need{Trained: e.Weights, Activations: e.Activations, Host: p.ahead()}
	if st, ok := p.made.VAE.(interface{ Store() *nn.Store }); ok {
		n.Model = 4 * float64(st.Store().Count())
	}
	return n, nil
}
