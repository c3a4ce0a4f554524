package job

import (
	"context"
	"fmt"
	"image"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
)

// pipeline returns the pipeline with all options but the model.
func (o Generate) pipeline() (t texttoimage.Pipeline, err error) {
	t = texttoimage.Pipeline{
		Steps: o.Steps, Timesteps: o.Timesteps, OriginalSteps: o.OriginalSteps, Guidance: o.scale(), Rescale: o.Rescale,
		Negative: o.Negative, EmptyNegative: o.Empty, Plain: o.Plain, ClipSkip: o.ClipSkip, Width: o.Width, Height: o.Height, Seed: *o.Seed, N: o.N, Batch: o.Batch,
		SharedNoise: o.SharedNoise, VariationSeed: o.VariationSeed, VariationStrength: o.VariationStrength,
		Strength: o.Strength, Shorten: o.Shorten,
	}
	if t.Method, err = o.method(); err != nil {
		return t, err
	}
	if t.Method == nil { // a named sampler has its spacing already
		t.Spacing = o.Spacing
	}
	if t.Init, err = inputImage("--init-image", o.Init); err != nil {
		return t, err
	}
	if t.Mask, err = inputImage("--mask", o.Mask); err != nil {
		return t, err
	}
	for _, path := range o.ControlImages {
		m, err := inputImage("--control-image", path)
		if err != nil {
			return t, err
		}
		t.Controls = append(t.Controls, texttoimage.Control{Image: m, Scale: o.ControlScale})
	}
	return t, nil
}

// inputImage reads an image file; it returns nil without a path.
func inputImage(flag, path string) (image.Image, error) {
	if path == "" {
		return nil, nil
	}
	m, err := vision.Read(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return m, nil
}

// began returns a callback that reports progress at the beginning of each stage.
func (o Generate) began(is *GenerateProgress, progress Progress) func(texttoimage.Stage) {
	return func(s texttoimage.Stage) {
		is.Phase, is.Together, is.Step = Phase(s), min(o.Batch, is.Images-is.Image), 0 // less where prompts cannot share a batch, which its first step tells
		if o.SharedNoise {
			is.Together = o.N
		}
		if s == texttoimage.Decoding {
			is.Step = is.Steps
		}
		progress(*is)
	}
}

func (o Generate) draw(ctx context.Context, m *sd.Model, plan *texttoimage.Plan, on *adapters, out Generated, is *GenerateProgress, progress Progress) error {
	if err := makeDirectories(out.Files...); err != nil {
		return err
	}
	var preview vae.Autoencoder
	if o.Preview != "" {
		tiny, err := sd.OpenTiny(o.TinyVAE, m.Device(), torch.Float32)
		if err != nil {
			return err
		}
		defer tiny.Close()
		if got, want := tiny.Channels(), m.VAE.Channels(); got != want {
			return fmt.Errorf("%s: its latents have %d channels, the model's have %d: they are incompatible", quote.Path(o.TinyVAE), got, want)
		}
		preview = tiny
		if err := makeDirectories(o.Preview); err != nil {
			return err
		}
	}
	for st, err := range plan.Run(ctx) {
		if err != nil {
			return err
		}
		at := st.First
		is.Image, is.Together, is.Step, is.Steps = at, len(st.Seeds), st.I, st.Steps
		if st.Images == nil {
			progress(*is)
		}
		if preview != nil && st.Images == nil {
			shown, err := st.Preview(preview)
			if err != nil {
				return err
			}
			if err := vision.Write(o.Preview, shown[0], vision.WriteOptions{Overwrite: true}); err != nil {
				return err
			}
		}
		for i, image := range st.Images {
			var texts []vision.Text
			if !o.Bare {
				if texts, err = o.text(plan, on, st, i); err != nil {
					return err
				}
			}
			saving := *is
			saving.Phase, saving.Image, saving.What = PhaseSaving, at+i, out.Files[at+i]
			progress(saving)
			if err := vision.Write(out.Files[at+i], image, vision.WriteOptions{Texts: texts, Overwrite: o.Overwrite}); err != nil {
				return err
			}
		}
		if st.Images != nil {
			is.Image = at + len(st.Images)
		}
	}
	return nil
}
