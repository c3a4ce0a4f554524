package finetune

import (
	"context"
	"errors"
	"fmt"
	"image"
	"strconv"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/captioned"
	"github.com/onestep-go/onestep/training/dataset"
	"github.com/onestep-go/onestep/training/latents"
	"github.com/onestep-go/onestep/training/rundir"
)

// LDM trains a small latent diffusion model (Rombach et al. 2022) from scratch: a text-conditioned U-Net and its text encoder, with the
// denoising loss (see [training.DDPM]), on the latents of an autoencoder that is not trained. Its snapshots are diffusers directories, with
// the EMA weights. [Run.Model] is not used, and its defaults are others where the options below say so.
type LDM struct {
	Autoencoder string `option:"autoencoder" value:"DIR|FILE" help:"autoencoder, which is not trained: a directory or file of a KL or tiny autoencoder (TAESD, TAEF2; of two files either), or a model with one (required)"`
	Run
	_ struct{} `overrides:"model" omit:"true"`
	_ struct{} `overrides:"dtype" omit:"true"`
	_ struct{} `overrides:"clip-skip" omit:"true"`
	_ struct{} `overrides:"reg-data" omit:"true"`
	_ struct{} `overrides:"steps" default:"100000"`
	_ struct{} `overrides:"batch" default:"32"`
	_ struct{} `overrides:"lr" default:"0.001" help:"learning rate of AdamW"`
	_ struct{} `overrides:"lr-schedule" default:"linear" help:"learning-rate schedule; cosine and linear end at 0"`
	_ struct{} `overrides:"lr-warmup" default:"" help:"linear warm-up of the learning rate, in steps or, below 1, as a fraction of the run (default: 500, but at most a tenth of the run)"`
	_ struct{} `overrides:"ema" default:"0.9995" help:"EMA decay per step of the weights in snapshots; 0: the weights themselves"`
	_ struct{} `overrides:"resolution" default:"64" help:"side of square training images in pixels, or with buckets of the square whose area they have"`
	_ struct{} `overrides:"caption-dropout" default:"0.1" help:"fraction of samples trained with an empty caption, which guidance needs"`
	_ struct{} `overrides:"save-every" default:"2000"`
	_ struct{} `overrides:"val-steps" default:"20" help:"sampling steps of validation images"`
	_ struct{} `overrides:"val-guidance" help:"guidance scale of validation images (default: 2)"`

	ScalingFactor float64 `option:"scaling-factor" range:"(0,1000000]" help:"factor of latents, which should give them a standard deviation of 1 (default: measured on up to 256 images)"`
	DecoderOnly   bool    `option:"decoder-only" help:"snapshots without a tiny autoencoder's encoder: smaller, but without img2img and training"`

	Size       string `option:"size" default:"mini" choices:"mini,small" help:"size of the U-Net: mini for latents of 8x8, small for 16x16"`
	Channels   []int  `option:"channels" range:"[32,2048]" help:"channels of the U-Net's levels, as many as its size has (default: 96,160 for mini, 64,96,160 for small)"`
	TextSize   string `option:"text-size" default:"mini" choices:"mini,small" help:"size of the text encoder: 2 layers of width 128, or 4 of width 256"`
	Vocabulary int    `option:"vocabulary" range:"[0,48894]" value:"N" help:"tokens of CLIP's tokenizer to keep, the most frequent, besides those of the captions and single bytes (default 0)"`
	Tokens     int    `option:"tokens" range:"[3,77]" help:"maximum length of a prompt in tokens; longer ones take several passes (default: that of the longest caption, from 16 to 77)"`

	Prediction string  `option:"prediction" default:"v" choices:"v,epsilon" help:"what the U-Net predicts"`
	ZeroSNR    bool    `option:"zero-snr" help:"zero terminal SNR: the last timestep is pure noise, for images that are light or dark as a whole, as on a white background"`
	MinSNR     float64 `option:"min-snr" range:"[0,1000]" help:"min-SNR weighting: gamma, such as 5 (default 0: none)"`
	LRDecay    float64 `option:"lr-decay" default:"0.3" range:"(0,1]" help:"fraction of the run at its end over which the learning rate decays"`
	Beta2      float64 `option:"beta2" default:"0.99" range:"(0,1)" help:"decay of AdamW's second moment"`
}

// Plan decides everything, opens the data and makes the new model. The caller closes what it returns.
func (r LDM) Plan(ctx context.Context) (*Plan, error) { return plan(ctx, &r) }

// Train trains. Cancelling ctx saves, and returns the context's error with the result.
func (r LDM) Train(ctx context.Context) (Result, error) { return train(ctx, &r) }

func (r *LDM) kind() string      { return "train-ldm" }
func (r *LDM) common() *Run      { return &r.Run }
func (r *LDM) fewStep() bool     { return false }
func (r *LDM) adapter() *Adapter { return nil }
func (r *LDM) text() bool        { return true }

func (r *LDM) fill() error {
	r.DType = "f32"
	if r.Model != "" {
		return errors.New("a new model is trained from scratch: want no Model")
	}
	if r.Autoencoder == "" {
		return options.Refuse("autoencoder", "%s is required", options.NameOf("autoencoder"))
	}
	if err := options.Fill(r); err != nil {
		return err
	}
	if r.LRWarmup == nil {
		r.LRWarmup = new(Warmup(min(500, r.Steps/10)))
	}
	if r.LRSchedule != "constant" {
		r.lrDecay = r.LRDecay
	}
	if err := r.defaults(r); err != nil {
		return err
	}
	if r.ValPrompts != "" && r.ValGuide == nil {
		r.ValGuide = new(2.0)
	}
	if r.Channels != nil {
		c := r.preset()
		if want := len(c.BlockOutChannels); len(r.Channels) != want {
			return options.Refuse("channels", "%s: want %d numbers, one for each level of the U-Net of the size %s, got %d", options.NameOf("channels"), want, quote.Text(r.Size), len(r.Channels))
		}
		if c.BlockOutChannels = r.Channels; c.WithDefaults().Validate() != nil {
			return options.Refuse("channels", "%s: %w", options.NameOf("channels"), c.WithDefaults().Validate())
		}
	}
	if r.ZeroSNR && r.Prediction == "epsilon" {
		return options.Refuse("zero-snr", "%s: from pure noise, epsilon says nothing of the image: %s, or leave it out", options.NameOf("zero-snr"), options.SetOf("prediction", "v"))
	}
	return r.measured()
}

// measured takes the scaling factor of the run that is resumed.
func (r *LDM) measured() error {
	if !r.Resume || r.ScalingFactor != 0 {
		return nil
	}
	was, err := rundir.ReadOptions(r.Out)
	if err != nil {
		return nil //nolint:nilerr // there is no run, or rundir says what is wrong
	}
	o, _ := options.Named(r, "scaling-factor")
	if v, ok := was[o.Key()].(float64); ok && o.Check(v) == nil {
		r.ScalingFactor = v
	}
	return nil
}

// preset is the network of a size.
func (r *LDM) preset() unet.Config {
	if r.Size == "small" {
		return unet.Small()
	}
	return unet.Mini()
}

// build opens the data and makes the model.
func (r *LDM) build(ctx context.Context, p *Plan, given asked) (err error) {
	p.name, p.side = "new model", r.Resolution
	if p.Data, err = r.set(ctx, "data", r.Data, p.side); err != nil {
		return err
	}
	if err := p.configured(given); err != nil {
		return err
	}
	if s := p.Data.Summary(); s.Uncaptioned-s.ClassTokens >= s.Images {
		return options.Failed("data", fmt.Errorf("none of the images in %s has a caption, which a text-to-image model is trained with: want captions", quote.Path(r.Data)))
	}
	c := sd.NewConfig{UNet: r.preset(), Text: clip.Mini(), Autoencoder: r.Autoencoder, ScalingFactor: r.ScalingFactor, Predict: noise.Velocity, ZeroSNR: r.ZeroSNR, Resolution: p.side, Device: r.Device, Seed: r.Seed}
	if r.Prediction == "epsilon" {
		c.Predict = noise.Epsilon
	}
	if r.TextSize == "small" {
		c.Text = clip.Small()
	}
	if r.Channels != nil {
		c.UNet.BlockOutChannels = r.Channels
	}
	if c.Tokenizer, err = r.tokenizer(p.Data); err != nil {
		return err
	}
	if p.made, err = sd.New(c); err != nil {
		return options.Failed("autoencoder", err)
	}
	if err := p.made.Finite(); err != nil {
		return options.Failed("autoencoder", fmt.Errorf("%s: %w", quote.Path(r.Autoencoder), err))
	}
	if e, ok := p.made.VAE.(interface{ Encodes() bool }); ok && !e.Encodes() {
		return options.Failed("autoencoder", fmt.Errorf("%s has only a decoder: images are encoded by its encoder, whose file is needed too", quote.Path(r.Autoencoder)))
	}
	if n := imageChannels(p.made.VAE); n != 3 {
		return options.Failed("autoencoder", fmt.Errorf("%s takes images of %d channels: want 3", quote.Path(r.Autoencoder), n))
	}
	p.network, p.predicts, p.kind = p.made.UNet.Config(), c.Predict, p.made.Kind
	for _, w := range p.made.Parameters() {
		p.Parameters += int64(w.NumEl())
	}
	return p.sizes(ctx, p.made.VAE.Factor())
}

// imageChannels is the number of channels of an autoencoder's images.
func imageChannels(a vae.Autoencoder) int {
	spec, _, err := vae.SpecOf(a)
	switch {
	case err != nil:
		return 0
	case spec.Tiny != nil:
		return spec.Tiny.InChannels
	}
	return spec.KL.InChannels
}

// tokenizer is CLIP's with the tokens of the captions.
func (r *LDM) tokenizer(set *captioned.Set) (*prompt.Tokenizer, error) {
	var texts []string
	longest := 0
	all := prompt.Default()
	seen := map[string]bool{}
	for i := range set.Len() {
		captions, fixed := set.Captions(i)
		if !fixed { // their parts are in another order
			captions = set.Images()[i].Captions
		}
		for _, text := range captions {
			if !seen[text] {
				seen[text] = true
				texts, longest = append(texts, text), max(longest, len(all.Encode(text)))
			}
		}
	}
	own, err := all.First(r.Vocabulary, texts...)
	if err != nil {
		return nil, options.Refuse("vocabulary", "%s: %w", options.NameOf("vocabulary"), err)
	}
	if r.Tokens == 0 {
		const least, most, ends = 16, 77, 2 // start and end token
		r.Tokens = min(max(longest+ends, least), most)
	}
	own, err = own.WithMax(r.Tokens)
	return own, options.Failed("tokens", err)
}

// open measures the latents.
func (r *LDM) open(ctx context.Context, s *session) (err error) {
	s.model, s.Plan.made = s.Plan.made, nil // the session closes it
	if r.ScalingFactor == 0 {
		if r.ScalingFactor, err = r.measure(ctx, s); err != nil {
			return err
		}
	}
	if err := vae.Rescale(s.model.VAE, r.ScalingFactor); err != nil {
		return options.Failed("autoencoder", err)
	}
	s.holds["model_holds"] = s.tokensHold()
	if r.Log != nil {
		r.Log.Info("new model", "parameters", s.Parameters, "vocabulary", s.model.Texts[0].Tokenizer.Vocab(), "tokens", r.Tokens, "latents", fmt.Sprintf("%d channels of %dx%d", s.model.VAE.Channels(), s.side/s.model.VAE.Factor(), s.side/s.model.VAE.Factor()), "scaling_factor", r.ScalingFactor)
	}
	return nil
}

// measure returns the scaling factor that gives latents a standard deviation of 1, to four digits.
func (r *LDM) measure(ctx context.Context, s *session) (float64, error) {
	const most, pixels = 256, 1 << 22 // limits of what is encoded together
	n := min(s.Data.Len(), max(1, min(most, pixels/(r.Resolution*r.Resolution))))
	var images []image.Image
	var size image.Point
	for items := range s.Data.Order(captioned.OrderOptions{Seed: r.Seed, Batch: 1}).From(0) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if n--; n < 0 {
			break
		}
		img, err := s.Data.Read(items[0])
		var bad *dataset.CorruptError
		if errors.As(err, &bad) && r.Corrupt == "skip" {
			continue
		}
		if err != nil {
			return 0, options.Failed("data", err)
		}
		if images == nil {
			size = img.Rect.Size()
		}
		if img.Rect.Size() == size { // of one bucket
			images = append(images, img)
		}
	}
	if images == nil {
		return 0, options.Failed("data", errors.New("none of the images can be decoded"))
	}
	var factor float64
	err := torch.Run(r.Device, func(in *torch.Scope) error {
		return in.NoGrad(func(in *torch.Scope) error {
			x, err := vision.FromImages(in, 3, images...)
			if err != nil {
				return err
			}
			factor, err = vae.MeasureScaling(in, s.model.VAE, x.ToDevice(in, r.Device).To(in, s.model.VAE.DType()))
			return err
		})
	})
	if err != nil {
		return 0, options.Failed("autoencoder", err)
	}
	return strconv.ParseFloat(strconv.FormatFloat(factor, 'g', 4, 64), 64)
}

// learn makes the objective.
func (r *LDM) learn(s *session) error {
	d, err := s.model.Denoiser()
	if err != nil {
		return err
	}
	s.whole, s.beta2 = s.model, r.Beta2
	s.objective = &training.DDPM{Model: d, MinSNR: r.MinSNR}
	s.prepare = latents.Encode(s.model, nil, 0)
	return nil
}
