package sampling

import (
	"context"
	"errors"
	"fmt"
	"image"
	"iter"
	"math"
	"slices"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/sampling/resample"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// TextToImage draws pictures of texts with a latent diffusion model: from noise, from a picture, or into the masked part of one. With
// a Model alone it draws one picture of each text, as the model was made to. Several goroutines may use one value, or one Model in
// several values.
type TextToImage struct {
	Model *sd.Model

	Method        scheduler.Method // nil: the model's own; see [TextToImage.Plan]
	Steps         int              // 0: as many as Timesteps, or 4 for LCM and TCD, 25 for others
	Timesteps     []int            // in place of the method's own, from the noisiest
	OriginalSteps int              // the grid of LCM's and TCD's timesteps; 0: the model's

	// Guidance is the scale of classifier-free guidance (Ho & Salimans 2022): the prediction is that for no text, plus the scale times
	// what the text changes. 1 is none. A distilled model is told it. 0: 8.5 for such, 1 for LCM and TCD, 7.5 for others.
	Guidance float64
	Rescale  float64 // the part by which a guided prediction is brought back to the deviation without guidance (Lin et al. 2024, section 3.4)
	Negative string  // what to lead away from; it has an effect only with guidance above 1 that the model is not told

	// EmptyNegative: an empty Negative is encoded as a text. Otherwise it is what the model says: SDXL's are zeros. These are negative_prompt=""
	// and None in diffusers.
	EmptyNegative bool

	Plain    bool // texts as they are: no weights in brackets, and cut off after one chunk of tokens, as in diffusers
	ClipSkip int  // last layers of the text encoders that are left out; as in diffusers, not for Negative

	Width, Height int // in pixels; 0: Init's, or what the model was trained for

	Seed        uint64 // of each text's first picture; the others count up
	N           int    // pictures of each text; 0: 1
	Batch       int    // pictures drawn together; 0: 1, so that a picture is the same to the last bit whatever N is
	SharedNoise bool   // a text's pictures share the stream of Seed and are drawn together, as in diffusers with a single generator

	// VariationStrength, from 0 to 1, turns the first noise towards that of VariationSeed, along the sphere.
	VariationSeed     uint64
	VariationStrength float64

	// A picture to start from; of another size it is resized, as are Mask and Controls. Its latents are drawn from what the autoencoder says of
	// it, by each picture's own stream, so that a picture does not depend on those beside it. diffusers does the same, but for inpainting
	// with a list of generators: there the first one draws for all, and picture 2 of 2 is another than the same seed gives alone.
	Init     image.Image
	Strength float64     // how much of it may change, above 0 to 1; 0: 0.8, with a Mask 1
	Shorten  bool        // LCM and TCD take all steps, on the lower part of their timesteps, instead of leaving out the first ones
	Mask     image.Image // where Init is to be drawn anew: where it is at least half white
	Controls []Control

	// What SDXL is told: how large the picture was, and which corner of it was cut off. 0: the size that is drawn, none.
	OriginalSize, Crop image.Point

	Adapters nn.Adapters // of single layers of the network and the text encoders; package lora has such
	// Tagged returns the adapters that a text asks for by tags, <lora:name:weight>, in addition; nil: such tags are an error.
	Tagged func(tags []prompt.LoRA) (nn.Adapters, error)
}

// Control is a ControlNet and the picture that it sees.
type Control struct {
	Net        *unet.ControlNet
	Image      image.Image // of the picture's size
	Scale      float64     // 0: 1
	Start, End float64     // the part of the steps in which it acts; End 0: 1
	Guess      bool        // it acts without the text's help, less at the first levels; the pass without text goes without it
}

// Plan is what a TextToImage will do, with all that was left open decided.
type Plan struct {
	Method      string // its name, if it has one
	Steps       int    // as they were asked for; a strength leaves some out
	Timesteps   []float64
	Evaluations int // of the network, for each picture; with guidance each is of two
	Guidance    float64
	Distilled   bool // the network is told the guidance
	Width       int
	Height      int
	Strength    float64
	Notices     []string // what the user may want to know: options without effect, texts that are cut off
}

// Progress is where a drawing is: after one step of the method.
type Progress struct {
	Text     int           // which of the texts
	Seeds    []uint64      // of the pictures that are being drawn
	I, Steps int           // the step, from 1, of how many
	Pictures []image.Image // after the last step; else nil

	clean *torch.Tensor
	scope *torch.Scope
}

// Preview decodes what the latents are predicted to become, with a tiny autoencoder for instance. It works until the next step is
// asked for.
func (st Progress) Preview(a vae.Autoencoder) (out []image.Image, err error) {
	err = st.scope.NoGrad(func(s *torch.Scope) error {
		out, err = Pictures(a.Decode(s, st.clean.To(s, a.DType())))
		return err
	})
	return out, err
}

// Images yields the pictures of each text in turn, N of each. An error is yielded and ends it; it ends soon after ctx.
func (t TextToImage) Images(ctx context.Context, texts ...string) iter.Seq2[image.Image, error] {
	return func(yield func(image.Image, error) bool) {
		for st, err := range t.Run(ctx, texts...) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, m := range st.Pictures {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// Run draws as Images does and yields every step.
func (t TextToImage) Run(ctx context.Context, texts ...string) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		d, err := t.decide(texts...)
		if err != nil {
			yield(Progress{}, err)
			return
		}
		going := true
		err = torch.Run(t.Model.Device(), func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				return d.draw(ctx, s, texts, func(st Progress) bool {
					going = yield(st, nil)
					return going
				})
			})
		})
		if err != nil && going {
			yield(Progress{}, err)
		}
	}
}

// Plan decides what was left open, and reports what cannot work, without drawing.
func (t TextToImage) Plan(texts ...string) (Plan, error) {
	d, err := t.decide(texts...)
	if err != nil {
		return Plan{}, err
	}
	for i, text := range texts {
		if cut := t.Model.Cut(sd.Text{Prompt: text, Plain: t.Plain}); cut != "" {
			d.plan.Notices = append(d.plan.Notices, fmt.Sprintf("text %d is too long for one chunk of tokens and is cut off before %q", i+1, cut))
		}
	}
	return d.plan, nil
}

// decision is a TextToImage with nothing left open.
type decision struct {
	TextToImage
	plan   Plan
	config scheduler.Config
	cfg    bool          // two passes of the network: with the text and without
	tagged []nn.Adapters // of each text
}

func (t TextToImage) decide(texts ...string) (*decision, error) {
	d := &decision{TextToImage: t}
	if err := d.tags(t.Negative); err != nil {
		return nil, fmt.Errorf("the negative prompt: %w", err)
	}
	if a := (sd.Text{Prompt: t.Negative, Plain: t.Plain}).Adapters(); a != nil {
		return nil, fmt.Errorf("the negative prompt asks for the adapter %q by a tag: an adapter acts on the whole image; move the tag to the prompt", a[0].Name)
	}
	for i, text := range texts {
		if err := d.tags(text); err != nil {
			return nil, fmt.Errorf("text %d: %w", i+1, err)
		}
		tags := (sd.Text{Prompt: text, Plain: t.Plain}).Adapters()
		all := t.Adapters
		switch {
		case tags != nil && t.Tagged == nil:
			return nil, fmt.Errorf("text %d asks for the adapter %q by a tag: want a folder to look for it in (--lora-dir; Tagged in Go), or no tag", i+1, tags[0].Name)
		case tags != nil:
			more, err := t.Tagged(tags)
			if err != nil {
				return nil, fmt.Errorf("text %d: %w", i+1, err)
			}
			all = all.And(more)
		}
		if err := t.fits(all); err != nil {
			return nil, err
		}
		d.tagged = append(d.tagged, all)
	}
	for _, f := range []func() error{d.method, d.size, d.pictures, d.guidance, d.start} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// fits reports adapters of another model.
func (t TextToImage) fits(a nn.Adapters) error {
	var controls []*nn.Store
	for _, c := range t.Controls {
		if c.Net != nil {
			controls = append(controls, c.Net.Store())
		}
	}
	return t.Model.CheckAdapters(a, controls...)
}

func (d *decision) note(format string, args ...any) {
	d.plan.Notices = append(d.plan.Notices, fmt.Sprintf(format, args...))
}

// method chooses method and number of steps.
func (d *decision) method() error {
	m := d.Model
	if m == nil {
		return errors.New("text to image: want a model")
	}
	if m.Scheduler != nil {
		var err error
		if d.config, err = scheduler.ParseConfig(m.Scheduler); err != nil {
			return err
		}
	}
	return d.choose(m.Distilled())
}

// choose fills in what is not said of the method, for a model that is told its guidance or not.
func (d *decision) choose(distilled bool) (err error) {
	if d.Method == nil {
		name, exact := d.config.Default()
		switch {
		case distilled:
			name = "lcm"
		case !exact && d.config.Class != "":
			d.note("the model's own sampler, %s, is not built: %s takes its place", d.config.Class, name)
		}
		if d.Method, err = scheduler.Named(name); err != nil {
			return err
		}
	}
	d.plan.Method = scheduler.NameOf(d.Method)
	if d.Steps == 0 && d.Timesteps == nil {
		d.Steps = 25
		if d.few() {
			d.Steps = 4
		}
	}
	d.plan.Steps = max(d.Steps, len(d.Timesteps))
	return nil
}

// few tells whether the method is for models that were distilled to few steps.
func (d *decision) few() bool {
	switch d.Method.(type) {
	case scheduler.LCM, scheduler.TCD:
		return true
	}
	return false
}

const maxSide = 16384

func (d *decision) size() error {
	w, h := d.Width, d.Height
	if d.Init != nil && w == 0 && h == 0 {
		b, k := d.Init.Bounds(), d.Model.VAE.Factor()
		w, h = b.Dx()/k*k, b.Dy()/k*k
	}
	mw, mh := d.Model.Size()
	if w == 0 {
		w = mw
	}
	if h == 0 {
		h = mh
	}
	for _, side := range []struct {
		name string
		v    int
	}{{"width", w}, {"height", h}} {
		k := d.Model.VAE.Factor()
		if side.v < k || side.v > maxSide {
			return fmt.Errorf("%s: want %d to %d pixels, got %d", side.name, k, maxSide, side.v)
		}
		if side.v%k != 0 {
			return fmt.Errorf("%s: want a multiple of %d pixels, got %d: take %d or %d", side.name, k, side.v, side.v/k*k, side.v/k*k+k)
		}
	}
	d.plan.Width, d.plan.Height = w, h
	return nil
}

// pictures checks the pictures that are given and the numbers that go with them.
func (d *decision) pictures() error {
	want := image.Pt(d.plan.Width, d.plan.Height)
	fit := func(what string, m *image.Image) error {
		switch got := (*m).Bounds().Size(); {
		case got == want:
		case got.X < 1 || got.Y < 1:
			return fmt.Errorf("the %s is empty", what)
		default:
			d.note("the %s is resized from %d×%d to %d×%d pixels", what, got.X, got.Y, want.X, want.Y)
			*m = resample.Resize(*m, want.X, want.Y, resample.Lanczos) // diffusers' filter
		}
		return nil
	}
	switch {
	case d.Model.Inpaints() && (d.Init == nil || d.Mask == nil):
		return errors.New("the model fills in masked parts of pictures: want a picture to start from and a mask")
	case d.Mask != nil && d.Init == nil:
		return errors.New("a mask was given without a picture to start from")
	case d.Init != nil && !encodes(d.Model.VAE):
		return errors.New("the tiny autoencoder is a decoder alone and cannot read the picture to start from: want its encoder's file, too")
	case d.Strength != 0 && d.Init == nil:
		return errors.New("a strength was given without a picture to start from")
	case !(d.VariationStrength >= 0 && d.VariationStrength <= 1):
		return fmt.Errorf("variation strength: want 0 to 1, got %g", d.VariationStrength)
	case d.N < 0 || d.Batch < 0:
		return fmt.Errorf("want a number of pictures and of those drawn together from 1 on, got %d and %d", d.N, d.Batch)
	case d.ClipSkip < 0 || d.ClipSkip >= d.Model.Texts[0].Config().Depth-1:
		return fmt.Errorf("clip skip: want 0 to %d, got %d", d.Model.Texts[0].Config().Depth-2, d.ClipSkip)
	}
	d.N, d.Batch = max(d.N, 1), max(d.Batch, 1)
	if d.SharedNoise {
		d.Batch = d.N
	}
	if d.Init != nil {
		if err := fit("picture to start from", &d.Init); err != nil {
			return err
		}
		d.plan.Strength = d.strength()
	}
	if d.Mask != nil {
		if err := fit("mask", &d.Mask); err != nil {
			return err
		}
	}
	d.Controls = slices.Clone(d.Controls)
	for i, c := range d.Controls {
		if c.Net == nil || c.Image == nil {
			return fmt.Errorf("control %d: want a network and a picture", i+1)
		}
		if err := together(c.Net.Config().Encoder, d.Model.UNet.Config().Encoder); err != nil {
			return fmt.Errorf("control %d: its network is of another family than the model: %w", i+1, err)
		}
		if err := fit("control picture", &d.Controls[i].Image); err != nil {
			return err
		}
		if c.End == 0 {
			d.Controls[i].End = 1
		}
		if c.Scale == 0 {
			d.Controls[i].Scale = 1
		}
		if !(c.Start >= 0 && c.Start < d.Controls[i].End && d.Controls[i].End <= 1) {
			return fmt.Errorf("control %d: want a part of the steps from 0 to 1, got %g to %g", i+1, c.Start, d.Controls[i].End)
		}
	}
	return nil
}

// strength is what holds with a picture to start from.
func (d *decision) strength() float64 {
	switch {
	case d.Strength != 0:
		return d.Strength
	case d.Mask != nil:
		return 1
	}
	return 0.8
}

// Try tells whether the method can work with a model of that scheduler's configuration, before there is one. distilled is
// [sd.Model.Distilled].
func (t TextToImage) Try(config scheduler.Config, distilled bool) error {
	d := &decision{TextToImage: t, config: config}
	if err := d.choose(distilled); err != nil {
		return err
	}
	if d.Init != nil {
		d.plan.Strength = d.strength()
	}
	return d.start()
}

// together tells whether a ControlNet can be added to a network.
func together(control, network unet.Encoder) error {
	level := func(list unet.Ints, i int) int { return list[min(i, len(list)-1)] } // one number stands for all
	for i := range network.BlockOutChannels {
		if c, n := level(control.LayersPerBlock, i), level(network.LayersPerBlock, i); c != n {
			return fmt.Errorf("layers_per_block: want %d, got %d", n, c)
		}
	}
	switch c, n := control.CrossAttentionDim[0], network.CrossAttentionDim[0]; {
	case !slices.Equal(control.BlockOutChannels, network.BlockOutChannels):
		return fmt.Errorf("block_out_channels: want %v, got %v", network.BlockOutChannels, control.BlockOutChannels)
	case c != n:
		return fmt.Errorf("cross_attention_dim: want %d, got %d", n, c)
	case control.AdditionEmbedType != "" && network.AdditionEmbedType == "":
		return fmt.Errorf("addition_embed_type: want none, got %q", control.AdditionEmbedType)
	}
	return nil
}

// encodes tells whether an autoencoder has an encoder.
func encodes(a vae.Autoencoder) bool {
	half, ok := a.(interface{ Encodes() bool })
	return !ok || half.Encodes()
}

func (d *decision) guidance() error {
	g := d.Guidance
	told := d.Model.Distilled()
	switch {
	case !(g >= 0 && g <= 1000):
		return fmt.Errorf("guidance: want a scale from 0 to 1000, got %g", g)
	case !(d.Rescale >= 0 && d.Rescale <= 1):
		return fmt.Errorf("guidance rescale: want 0 to 1, got %g", d.Rescale)
	case g == 0 && told:
		g = 8.5
	case g == 0 && d.few():
		g = 1
	case g == 0:
		g = 7.5
	}
	d.plan.Guidance, d.plan.Distilled, d.cfg = g, told, g > 1 && !told
	if d.Negative != "" && told {
		d.note("the negative prompt has no effect: the model is told its guidance, and makes no pass without the text")
	} else if d.Negative != "" && !d.cfg {
		d.note("the negative prompt has no effect at guidance %g: want more than 1", g)
	}
	if d.EmptyNegative && d.Negative != "" {
		d.note("that an empty negative prompt is to be encoded has no effect: it is not empty")
	}
	if d.Rescale > 0 && !d.cfg {
		d.note("the rescaling of guidance has no effect without a pass without the text")
	}
	return nil
}

// options are the scheduler's.
func (d *decision) options() scheduler.Options {
	return scheduler.Options{Steps: d.Steps, Timesteps: d.Timesteps, OriginalSteps: d.OriginalSteps, Strength: d.plan.Strength, Shorten: d.Shorten}
}

// start tries the scheduler, for its errors and notices.
func (d *decision) start() error {
	run, err := d.Method.Start(d.config, d.options())
	if err != nil {
		return err
	}
	d.plan.Notices = append(d.plan.Notices, run.Notices()...)
	d.plan.Timesteps = run.Timesteps()
	d.plan.Evaluations = len(d.plan.Timesteps)
	return nil
}

// errStop ends a drawing whose pictures nobody wants any more.
var errStop = errors.New("stopped")

func (d *decision) draw(ctx context.Context, s *torch.Scope, texts []string, yield func(Progress) bool) error {
	fixed, err := d.prepare(s)
	if err != nil {
		return err
	}
	for i, text := range texts {
		err := s.Run(func(s *torch.Scope) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			d.Adapters = d.tagged[i]
			words := d.embed(s, text)
			for first := 0; first < d.N; first += d.Batch {
				seeds := Seeds(d.Seed+uint64(first), min(d.Batch, d.N-first))
				err := s.Run(func(s *torch.Scope) error {
					return d.batch(ctx, s, fixed, words, Progress{Text: i, Seeds: seeds}, yield)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("text %d: %w", i+1, err)
		}
	}
	return nil
}

// embed encodes a text, and what to lead away from before it: [2 or 1, …].
func (d *decision) embed(s *torch.Scope, text string) sd.Embedding {
	positive := sd.Text{Prompt: text, Plain: d.Plain, ClipSkip: d.ClipSkip}
	var encoders []*nn.Store
	for _, t := range d.Model.Texts {
		encoders = append(encoders, t.Store())
	}
	adapters := d.Adapters.Of(encoders...)
	if !d.cfg {
		return d.Model.Embed(s, adapters, positive)[0]
	}
	both := d.Model.Embed(s, adapters, sd.Text{Prompt: d.Negative, Plain: d.Plain}, positive)
	none, some := both[0], both[1]
	if d.Negative == "" && d.Model.ZeroNegative && !d.EmptyNegative {
		none.Text = torch.ZerosLike(s, some.Text)
		if some.Pooled != nil {
			none.Pooled = torch.ZerosLike(s, some.Pooled)
		}
	}
	out := sd.Embedding{Text: torch.Cat(s, []*torch.Tensor{none.Text, some.Text}, 0)}
	if some.Pooled != nil {
		out.Pooled = torch.Cat(s, []*torch.Tensor{none.Pooled, some.Pooled}, 0)
	}
	return out
}

// fixed is what all pictures have in common: the given pictures as tensors.
type fixed struct {
	init, masked *torch.Tensor // [1, 3, H, W] in [-1, 1]; masked has 0 where it is to be drawn anew
	mask         *torch.Tensor // [1, 1, h, w] of the latents: 1 where they are drawn anew
	controls     []*torch.Tensor
}

func (d *decision) prepare(s *torch.Scope) (f fixed, err error) {
	kind := d.Model.VAE.DType()
	if d.Init != nil {
		f.init = pixels(s, d.Init).MulScalar(s, 2).SubScalar(s, 1)
	}
	if d.Mask != nil {
		m := grey(s, d.Mask).GeScalar(s, 0.5).To(s, torch.Float32)
		f.masked = f.init.Mul(s, m.LtScalar(s, 0.5).To(s, torch.Float32)).To(s, kind)
		k := d.Model.VAE.Factor()
		f.mask = m.Interpolate(s, d.plan.Height/k, d.plan.Width/k, torch.Nearest).To(s, d.Model.DType())
	}
	if d.Init != nil {
		f.init = f.init.To(s, kind)
	}
	for i, c := range d.Controls {
		x := pixels(s, c.Image).To(s, d.Model.DType())
		if got := c.Net.Store().DType(); got != d.Model.DType() {
			return f, fmt.Errorf("control %d: its network is of %s and the model of %s: want the same", i+1, got, d.Model.DType())
		}
		f.controls = append(f.controls, x)
	}
	return f, nil
}

// batch draws some pictures of one text.
func (d *decision) batch(ctx context.Context, s *torch.Scope, f fixed, words sd.Embedding, at Progress, yield func(Progress) bool) error {
	n := len(at.Seeds)
	net := d.network(s, f, words, n)
	k, kind := d.Model.VAE.Factor(), d.Model.DType()
	shape := []int{d.Model.VAE.Channels(), d.plan.Height / k, d.plan.Width / k}
	streams := NewStreams(s, at.Seeds...)
	if d.SharedNoise {
		streams = streams[:1]
	}
	// Noise is drawn in float32, whatever the model's type is: the same numbers, rounded.
	noise := func(s *torch.Scope) *torch.Tensor {
		return s.Tidy(func(s *torch.Scope) *torch.Tensor {
			if d.SharedNoise {
				return torch.Randn(s, streams[0], torch.Float32, append([]int{n}, shape...)...).To(s, kind)
			}
			return streams.Randn(s, torch.Float32, shape...).To(s, kind)
		})
	}
	run, err := d.Method.Start(d.config, d.options())
	if err != nil {
		return err
	}
	x, kept, z := d.begin(s, f, run, streams, noise, n)
	net.masked(s, d, f, streams, n)

	for i, t := range run.Timesteps() {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := s.Tidy(func(s *torch.Scope) *torch.Tensor { return net.predict(s, run.Input(s, x, i), t, i) })
		next, clean := run.Step(s, i, x, out, noise)
		out.Free()
		if kept != nil {
			next = d.blend(s, f, run, next, kept, z, i)
		}
		x.Free()
		x = next
		if !finite(s, x) {
			return fmt.Errorf("step %d: the network's prediction is not finite: its weights are broken, or too large for %s", i+1, kind)
		}
		at.I, at.Steps, at.clean, at.scope = i+1, len(run.Timesteps()), clean, s
		if at.I == at.Steps {
			if at.Pictures, err = d.decode(ctx, s, x); err != nil {
				return err
			}
		}
		if !yield(at) {
			return errStop
		}
		if clean != x {
			clean.Free()
		}
	}
	return nil
}

// finite tells whether all of x is a number.
func finite(s *torch.Scope, x *torch.Tensor) bool {
	sum := s.Tidy(func(s *torch.Scope) *torch.Tensor { return x.To(s, torch.Float32).Sum(s) })
	defer sum.Free()
	v := sum.Item()
	return !math.IsNaN(v) && !math.IsInf(v, 0)
}

// begin returns the latents to start from. For an ordinary network with a mask it returns the latents of the picture and the noise,
// too. The order in which noise is drawn is diffusers'.
func (d *decision) begin(s *torch.Scope, f fixed, run scheduler.Run, streams Streams, noise scheduler.Noise, n int) (x, kept, z *torch.Tensor) {
	whole := d.Init == nil || (d.Mask != nil && d.plan.Strength == 1)
	fill := d.Mask != nil && !d.Model.Inpaints()
	var image *torch.Tensor
	if !whole || fill {
		image = d.encode(s, f.init, streams, n)
	}
	z = noise(s)
	if whole {
		x = z.MulScalar(s, run.InitSigma())
		if d.VariationStrength > 0 {
			x = s.Tidy(func(s *torch.Scope) *torch.Tensor { return d.vary(s, z).MulScalar(s, run.InitSigma()) })
		}
	} else {
		x = run.AddNoise(s, image, z, 0)
	}
	if fill {
		kept = image
	}
	return x, kept, z
}

// encode makes latents of a picture, [n, …].
func (d *decision) encode(s *torch.Scope, picture *torch.Tensor, streams Streams, n int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		z := d.Model.VAE.Encode(s, picture, streams).To(s, d.Model.DType())
		return z.Expand(s, append([]int{n}, z.Shape()[1:]...)...).Contiguous(s)
	})
}

// vary turns noise z towards that of the variation's seed, on the sphere that both lie near.
func (d *decision) vary(s *torch.Scope, z *torch.Tensor) *torch.Tensor {
	shape := z.Shape()
	other := NewStreams(s, d.VariationSeed).Randn(s, torch.Float32, shape[1:]...)
	var out []*torch.Tensor
	for i := range shape[0] {
		a := z.Narrow(s, 0, i, 1).To(s, torch.Float32)
		cos := a.Mul(s, other).Sum(s).Item() / (a.Norm(s).Item() * other.Norm(s).Item())
		angle, v := math.Acos(min(max(cos, -1), 1)), d.VariationStrength
		if sin := math.Sin(angle); sin > 1e-4 {
			a = a.MulScalar(s, math.Sin((1-v)*angle)/sin).Add(s, other.MulScalar(s, math.Sin(v*angle)/sin))
		}
		out = append(out, a)
	}
	return torch.Cat(s, out, 0).To(s, z.DType())
}

// blend puts the picture's own latents where the mask keeps them, with the noise that the next step expects.
func (d *decision) blend(s *torch.Scope, f fixed, run scheduler.Run, x, kept, z *torch.Tensor, i int) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		outside := kept
		if i+1 < len(run.Timesteps()) {
			outside = run.AddNoise(s, kept, z, i+1)
		}
		keep := f.mask.Neg(s).AddScalar(s, 1)
		return keep.Mul(s, outside).Add(s, f.mask.Mul(s, x))
	})
}

// decode makes pictures of latents, one at a time.
func (d *decision) decode(ctx context.Context, s *torch.Scope, x *torch.Tensor) ([]image.Image, error) {
	var all []image.Image
	for i := range x.Dim(0) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := s.Run(func(s *torch.Scope) error {
			one, err := Pictures(d.Model.VAE.Decode(s, x.Narrow(s, 0, i, 1).To(s, d.Model.VAE.DType())))
			all = append(all, one...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// network is the model's with all it is told but latents and timestep.
type network struct {
	*decision
	cond     unet.Cond
	controls []*torch.Tensor // pictures
	around   *torch.Tensor   // mask and masked latents, for an inpainting network: [n, 1+c, h, w]
	n        int
}

func (d *decision) network(s *torch.Scope, f fixed, words sd.Embedding, n int) *network {
	kind := d.Model.DType()
	net := &network{decision: d, controls: f.controls, n: n}
	net.cond.Text = words.Text.RepeatInterleave(s, n, 0)
	net.cond.Adapters = d.Adapters
	if words.Pooled != nil {
		net.cond.Pooled = words.Pooled.RepeatInterleave(s, n, 0)
		size := d.OriginalSize
		if size == (image.Point{}) {
			size = image.Pt(d.plan.Width, d.plan.Height)
		}
		v := []float32{float32(size.Y), float32(size.X), float32(d.Crop.Y), float32(d.Crop.X), float32(d.plan.Height), float32(d.plan.Width)}
		net.cond.Sizes = torch.FromSlice(s, v, 1, len(v)).To(s, kind).Expand(s, net.cond.Text.Dim(0), len(v))
	}
	if d.plan.Distilled {
		net.cond.Guidance = torch.FromSlice(s, []float32{float32(d.plan.Guidance - 1)}, 1).Expand(s, n)
	}
	return net
}

// masked encodes what surrounds the mask, for an inpainting network. diffusers does so for others too, without using it; it draws noise,
// so that we do as well.
func (net *network) masked(s *torch.Scope, d *decision, f fixed, streams Streams, n int) {
	if f.mask == nil {
		return
	}
	around := d.encode(s, f.masked, streams, n)
	if d.Model.Inpaints() {
		shape := f.mask.Shape()
		net.around = torch.Cat(s, []*torch.Tensor{f.mask.Expand(s, n, 1, shape[2], shape[3]), around}, 1)
	}
}

// predict calls the network at timestep t in step i, with guidance.
func (net *network) predict(s *torch.Scope, x *torch.Tensor, t float64, i int) *torch.Tensor {
	at := torch.FromSlice(s, []float32{float32(t)}, 1)
	twice := func(x *torch.Tensor) *torch.Tensor {
		if !net.cfg {
			return x
		}
		return torch.Cat(s, []*torch.Tensor{x, x}, 0)
	}
	in := twice(x)
	c := net.cond
	net.control(s, &c, in, at, i)
	if net.around != nil {
		in = torch.Cat(s, []*torch.Tensor{in, twice(net.around)}, 1)
	}
	out := net.Model.UNet.Forward(s, in, at, c)
	if !net.cfg {
		return out
	}
	none, some := out.Narrow(s, 0, 0, net.n), out.Narrow(s, 0, net.n, net.n)
	guided := none.Add(s, some.Sub(s, none).MulScalar(s, net.plan.Guidance))
	if net.Rescale > 0 {
		ratio := some.StdDim(s, 1, true, 1, 2, 3).Div(s, guided.StdDim(s, 1, true, 1, 2, 3))
		guided = guided.Mul(s, ratio).MulScalar(s, net.Rescale).Add(s, guided.MulScalar(s, 1-net.Rescale))
	}
	return guided
}

// control adds what the ControlNets say.
func (net *network) control(s *torch.Scope, c *unet.Cond, in, at *torch.Tensor, i int) {
	steps := float64(len(net.plan.Timesteps))
	for j, k := range net.Controls {
		if float64(i)/steps < k.Start || float64(i+1)/steps > k.End {
			continue
		}
		x, told := in, *c
		told.Down, told.Mid = nil, nil
		guess := k.Guess && net.cfg
		if guess { // for the pass with the text alone
			half := func(t *torch.Tensor) *torch.Tensor {
				if t == nil {
					return nil
				}
				return t.Narrow(s, 0, net.n, net.n)
			}
			x, told.Text, told.Pooled, told.Sizes = half(x), half(told.Text), half(told.Pooled), half(told.Sizes)
		}
		down, mid := k.Net.Forward(s, x, at, told, net.controls[j], k.Scale, k.Guess)
		all := append(down, mid)
		if guess {
			for m, r := range all {
				all[m] = torch.Cat(s, []*torch.Tensor{torch.ZerosLike(s, r), r}, 0)
			}
		}
		if c.Down == nil {
			c.Down, c.Mid = all[:len(all)-1], all[len(all)-1]
			continue
		}
		for m := range c.Down {
			c.Down[m] = c.Down[m].Add(s, all[m])
		}
		c.Mid = c.Mid.Add(s, all[len(all)-1])
	}
}
