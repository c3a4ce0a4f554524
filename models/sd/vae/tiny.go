package vae

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// TinyConfig describes a tiny autoencoder. Its zero value is TAESD. As JSON it is the config.json of diffusers' AutoencoderTiny.
type TinyConfig struct {
	InChannels     int   `json:"in_channels"`                // of pictures; 0: 3
	OutChannels    int   `json:"out_channels"`               // 0: 3
	LatentChannels int   `json:"latent_channels"`            // 0: 4
	EncoderWidths  []int `json:"encoder_block_out_channels"` // of each level, from the largest image; nil: 64 four times
	DecoderWidths  []int `json:"decoder_block_out_channels"` // of each level, from the smallest image; nil: 64 four times
	EncoderBlocks  []int `json:"num_encoder_blocks"`         // nil: 1, 3, 3, 3
	DecoderBlocks  []int `json:"num_decoder_blocks"`         // nil: 3, 3, 3, 1

	ScalingFactor float64 `json:"scaling_factor"` // latents are multiplied by it; 0: 1

	// Pool gives the blocks of the smallest image a look at the whole of it, by way of a group norm (TAEF2). diffusers' class does not
	// know it.
	Pool bool `json:"pool,omitempty"`
}

// TAESD is the tiny autoencoder with the latents of Stable Diffusion 1 and 2, and with other weights those of SDXL.
func TAESD() TinyConfig { return TinyConfig{}.WithDefaults() }

// TAEF2 is the one with the latents of FLUX.2.
func TAEF2() TinyConfig { return TinyConfig{LatentChannels: 32, Pool: true}.WithDefaults() }

// WithDefaults fills in every field that was left at zero.
func (c TinyConfig) WithDefaults() TinyConfig {
	c.InChannels, c.OutChannels, c.LatentChannels = or(c.InChannels, 3), or(c.OutChannels, 3), or(c.LatentChannels, 4)
	c.ScalingFactor = or(c.ScalingFactor, 1)
	fill := func(list *[]int, with ...int) {
		if *list == nil {
			*list = with
		}
	}
	fill(&c.EncoderWidths, 64, 64, 64, 64)
	fill(&c.DecoderWidths, 64, 64, 64, 64)
	fill(&c.EncoderBlocks, 1, 3, 3, 3)
	fill(&c.DecoderBlocks, 3, 3, 3, 1)
	return c
}

// Validate reports what cannot work, of a configuration with its defaults filled in.
func (c TinyConfig) Validate() error {
	var err error
	within := func(key string, v, lo, hi int) {
		if v < lo || v > hi {
			err = errors.Join(err, fmt.Errorf("tiny vae config: %s is %d: want %d to %d", key, v, lo, hi))
		}
	}
	within("in_channels", c.InChannels, 1, 64)
	within("out_channels", c.OutChannels, 1, 64)
	within("latent_channels", c.LatentChannels, 1, 256)
	for _, l := range []struct {
		key            string
		widths, blocks []int
	}{{"encoder", c.EncoderWidths, c.EncoderBlocks}, {"decoder", c.DecoderWidths, c.DecoderBlocks}} {
		within("the length of "+l.key+"_block_out_channels", len(l.widths), 1, maxLevels)
		if len(l.blocks) != len(l.widths) {
			err = errors.Join(err, fmt.Errorf("tiny vae config: num_%s_blocks has %d numbers: want one for each of %d levels", l.key, len(l.blocks), len(l.widths)))
		}
		for _, n := range l.blocks {
			within("a number of num_"+l.key+"_blocks", n, 0, maxLayers)
		}
		for _, n := range l.widths {
			within("a number of "+l.key+"_block_out_channels", n, 1, 1024)
			if n != l.widths[0] {
				err = errors.Join(err, fmt.Errorf("tiny vae config: %s_block_out_channels is %v: want the same number in all levels", l.key, l.widths))
				break
			}
		}
	}
	if len(c.EncoderWidths) != len(c.DecoderWidths) {
		err = errors.Join(err, fmt.Errorf("tiny vae config: %d levels of the encoder and %d of the decoder: want as many", len(c.EncoderWidths), len(c.DecoderWidths)))
	}
	if !(c.ScalingFactor > 0 && c.ScalingFactor < 1e6) {
		err = errors.Join(err, fmt.Errorf("tiny vae config: scaling_factor is %g: want a number above 0", c.ScalingFactor))
	}
	return err
}

// ParseTinyConfig reads a config.json of AutoencoderTiny.
func ParseTinyConfig(data []byte) (TinyConfig, error) {
	var c TinyConfig
	var more struct {
		Class    string   `json:"_class_name"`
		Act      string   `json:"act_fn"`
		Upsample string   `json:"upsample_fn"`
		Factor   *int     `json:"upsampling_scaling_factor"`
		Shift    *float64 `json:"shift_factor"`
	}
	if err := errors.Join(json.Unmarshal(data, &c), json.Unmarshal(data, &more)); err != nil {
		return TinyConfig{}, fmt.Errorf("tiny vae config: %w", err)
	}
	var err error
	switch {
	case more.Class != "" && more.Class != "AutoencoderTiny":
		err = fmt.Errorf("tiny vae config: _class_name is %q: want AutoencoderTiny", more.Class)
	case more.Act != "" && more.Act != "relu":
		err = fmt.Errorf("tiny vae config: act_fn is %q: want relu", more.Act)
	case more.Upsample != "" && more.Upsample != "nearest":
		err = fmt.Errorf("tiny vae config: upsample_fn is %q: want nearest", more.Upsample)
	case more.Factor != nil && *more.Factor != 2:
		err = fmt.Errorf("tiny vae config: upsampling_scaling_factor is %d: want 2", *more.Factor)
	case more.Shift != nil && *more.Shift != 0:
		err = fmt.Errorf("tiny vae config: shift_factor is %g: want 0", *more.Shift)
	}
	if err != nil {
		return TinyConfig{}, err
	}
	c = c.WithDefaults()
	return c, c.Validate()
}

// Tiny is an autoencoder of convolutions alone. It owns its weights, which carry diffusers' names.
type Tiny struct {
	config           TinyConfig
	store            *nn.Store
	encoder, decoder []step
	files            []*torch.Weights // to be closed after the store
}

// NewTiny makes an autoencoder with random weights drawn from seed, by PyTorch's rules.
func NewTiny(c TinyConfig, dev torch.Device, dtype torch.DType, seed uint64) (*Tiny, error) {
	return newTiny(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.Build(dev, dtype, seed, build) })
}

// TinyFrom makes an autoencoder of the weights in src, frozen; see [nn.BuildFrom].
func TinyFrom(c TinyConfig, src nn.Source, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	return newTiny(c, func(build func(p nn.Path)) (*nn.Store, error) { return nn.BuildFrom(src, dev, dtype, build) })
}

func newTiny(c TinyConfig, fill func(build func(p nn.Path)) (*nn.Store, error)) (*Tiny, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	t := &Tiny{config: c}
	var err error
	if t.store, err = fill(t.build); err != nil {
		return nil, fmt.Errorf("tiny vae: %w", err)
	}
	return t, nil
}

// TinyShapes returns the names and shapes of an autoencoder's tensors without making them.
func TinyShapes(c TinyConfig) []nn.Shape { return nn.Shapes((&Tiny{config: c.WithDefaults()}).build) }

// step is one layer of the chain; it may change h in place, and frees it if it makes another.
type step func(s *torch.Scope, h *torch.Tensor) *torch.Tensor

func (t *Tiny) build(p nn.Path) {
	c := t.config
	var chain []step
	var layers nn.Path
	next := func() nn.Path { return layers.Sub(len(chain)) }
	convolution := func(in, out, stride int, bias bool) {
		rule := nn.FanIn(9 * in)
		l := nn.NewConv2DInit(next(), in, out, 3, torch.Conv2DOptions{Padding: 1, Stride: stride}, rule, when(bias, rule))
		chain = append(chain, func(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return release(l.Forward(s, h), h) })
	}
	blocks := func(width, n int, pool bool) {
		for range n {
			b := newTinyBlock(next(), width, pool)
			chain = append(chain, b.forward)
		}
	}
	last := len(c.EncoderWidths) - 1

	layers = p.Sub("encoder", "layers")
	for i, width := range c.EncoderWidths {
		if i == 0 {
			convolution(c.InChannels, width, 1, true)
		} else {
			convolution(width, width, 2, false)
		}
		blocks(width, c.EncoderBlocks[i], c.Pool && i == last)
	}
	convolution(c.EncoderWidths[last], c.LatentChannels, 1, true)
	t.encoder, chain = chain, nil

	layers = p.Sub("decoder", "layers")
	convolution(c.LatentChannels, c.DecoderWidths[0], 1, true)
	chain = append(chain, relu)
	for i, width := range c.DecoderWidths {
		blocks(width, c.DecoderBlocks[i], c.Pool && i == 0)
		if i < last {
			chain = append(chain, func(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return release(h.UpsampleNearest(s, 2), h) })
			convolution(width, width, 1, false)
		} else {
			convolution(width, c.OutChannels, 1, true)
		}
	}
	t.decoder = chain
}

func when(yes bool, rule nn.Init) nn.Init {
	if yes {
		return rule
	}
	return nil
}

func relu(s *torch.Scope, h *torch.Tensor) *torch.Tensor { return release(h.ReLU(s), h) }

// tinyBlock is relu(h + conv(relu(conv(relu(conv(h)))))).
type tinyBlock struct {
	convs [3]nn.Conv2D
	pool  *tinyPool // nil: none
}

// tinyPool is h + narrow(relu(norm(widen(h)))), which goes before a block.
type tinyPool struct {
	widen, narrow nn.Conv2D
	norm          nn.GroupNorm
}

func newTinyBlock(p nn.Path, width int, pool bool) *tinyBlock {
	b := &tinyBlock{}
	for i := range b.convs {
		b.convs[i] = conv(p.Sub("conv", 2*i), width, width, 3)
	}
	if pool {
		wide := 4 * width
		one := func(name int, in, out int) nn.Conv2D {
			return nn.NewConv2DInit(p.Sub("pool", name), in, out, 1, torch.Conv2DOptions{}, nn.FanIn(in), nil)
		}
		b.pool = &tinyPool{widen: one(0, width, wide), norm: nn.NewGroupNorm(p.Sub("pool", 1), 4, wide, 1e-5), narrow: one(3, wide, width)}
	}
	return b
}

func (b *tinyBlock) forward(s *torch.Scope, h *torch.Tensor) *torch.Tensor {
	return release(s.Tidy(func(s *torch.Scope) *torch.Tensor {
		x := h
		if b.pool != nil {
			x = x.Add(s, b.pool.narrow.Forward(s, b.pool.norm.Forward(s, b.pool.widen.Forward(s, x)).ReLU(s)))
		}
		y := relu(s, b.convs[0].Forward(s, x))
		y = relu(s, release(b.convs[1].Forward(s, y), y))
		y = release(b.convs[2].Forward(s, y), y)
		y.AddInPlace(s, x) // no operator saved the convolution's result
		return relu(s, y)
	}), h)
}

// Config returns the configuration with its defaults filled in.
func (t *Tiny) Config() TinyConfig { return t.config }

// Store returns what owns the weights.
func (t *Tiny) Store() *nn.Store { return t.store }

// Parameters yields the weights by diffusers' names.
func (t *Tiny) Parameters() iter.Seq2[string, *torch.Tensor] { return t.store.Parameters() }

// Tensors yields what belongs into a checkpoint, which is the weights.
func (t *Tiny) Tensors() iter.Seq2[string, *torch.Tensor] { return t.store.Tensors() }

// Close frees the weights.
func (t *Tiny) Close() {
	t.store.Close()
	for _, f := range t.files {
		_ = f.Close() // nothing views it any more
	}
}

// Factor implements Autoencoder.
func (t *Tiny) Factor() int { return 1 << (len(t.config.EncoderWidths) - 1) }

// Channels implements Autoencoder.
func (t *Tiny) Channels() int { return t.config.LatentChannels }

// DType implements Autoencoder.
func (t *Tiny) DType() torch.DType { return t.store.DType() }

// Encode implements Autoencoder. It draws nothing.
func (t *Tiny) Encode(s *torch.Scope, pictures *torch.Tensor, _ []*torch.Generator) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := pictures.AddScalar(s, 1).DivScalar(s, 2)
		for _, f := range t.encoder {
			h = f(s, h)
		}
		return h.MulScalar(s, t.config.ScalingFactor)
	})
}

// Decode implements Autoencoder. Latents are squeezed to ±3 first, softly.
func (t *Tiny) Decode(s *torch.Scope, latents *torch.Tensor) *torch.Tensor {
	return s.Tidy(func(s *torch.Scope) *torch.Tensor {
		h := latents.DivScalar(s, t.config.ScalingFactor)
		h = release(h.DivScalar(s, 3).Tanh(s).MulScalar(s, 3), h)
		for _, f := range t.decoder {
			h = f(s, h)
		}
		return h.MulScalar(s, 2).SubScalar(s, 1)
	})
}

// OpenTiny opens a tiny autoencoder: a folder of diffusers' (config.json and diffusion_pytorch_model.safetensors), or one of the two
// safetensors files that its author publishes, NAME_encoder and NAME_decoder, of which the other lies beside it.
func OpenTiny(path string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if st.IsDir() {
		return openTinyFolder(path, dev, dtype)
	}
	name := filepath.Base(path)
	var both [2]string
	for i, part := range []string{"encoder", "decoder"} {
		other := strings.NewReplacer("encoder", part, "decoder", part).Replace(name)
		if both[i] = filepath.Join(filepath.Dir(path), other); other == name && !strings.Contains(name, part) {
			return nil, fmt.Errorf("%s: want a folder with a config.json, or a file named NAME_encoder or NAME_decoder with the other beside it", path)
		}
	}
	var src originals
	var files []*torch.Weights
	drop := func(err error) error {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	for i, p := range both {
		w, err := torch.OpenWeights(p)
		if err != nil {
			return nil, drop(err)
		}
		files = append(files, w)
		src[i] = w
	}
	c, err := src.config()
	if err != nil {
		return nil, drop(fmt.Errorf("%s: %w", path, err))
	}
	t, err := TinyFrom(c, &src, dev, dtype)
	if err != nil {
		return nil, drop(fmt.Errorf("%s: %w", path, err))
	}
	t.files = files
	return t, nil
}

func openTinyFolder(dir string, dev torch.Device, dtype torch.DType) (*Tiny, error) {
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	c, err := ParseTinyConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	w, err := torch.OpenWeights(filepath.Join(dir, "diffusion_pytorch_model.safetensors"))
	if err != nil {
		return nil, err
	}
	t, err := TinyFrom(c, w, dev, dtype)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), w.Close())
	}
	t.files = []*torch.Weights{w}
	return t, nil
}

// originals are the author's two files, encoder and decoder, under diffusers' names. His decoders begin with a layer without weights,
// so that their numbers are one higher.
type originals [2]*torch.Weights

// locate turns our name into the file's.
func (o *originals) locate(name string) (file *torch.Weights, theirs string) {
	if rest, ok := strings.CutPrefix(name, "encoder.layers."); ok {
		return o[0], rest
	}
	rest, ok := strings.CutPrefix(name, "decoder.layers.")
	number, tail, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return o[1], ""
	}
	return o[1], strconv.Itoa(n+1) + "." + tail
}

// Info implements nn.Source.
func (o *originals) Info(name string) ([]int, torch.DType, bool) {
	w, theirs := o.locate(name)
	return w.Info(theirs)
}

// Names implements nn.Source.
func (o *originals) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range o[0].Names() {
			if !yield("encoder.layers." + name) {
				return
			}
		}
		for name := range o[1].Names() {
			number, tail, _ := strings.Cut(name, ".")
			if n, err := strconv.Atoi(number); err == nil {
				name = strconv.Itoa(n-1) + "." + tail
			}
			if !yield("decoder.layers." + name) {
				return
			}
		}
	}
}

// Get implements nn.Source.
func (o *originals) Get(s *torch.Scope, name string) (*torch.Tensor, error) {
	w, theirs := o.locate(name)
	return w.Get(s, theirs)
}

// Release implements nn.Source.
func (o *originals) Release(name string) {
	w, theirs := o.locate(name)
	w.Release(theirs)
}

// config is what the files' shapes say: all of the family are TAESD but for the latents' channels and the pools.
func (o *originals) config() (TinyConfig, error) {
	shape, _, ok := o[1].Info("1.weight")
	if !ok || len(shape) != 4 {
		return TinyConfig{}, errors.New("want a tiny autoencoder's files: the decoder has no tensor 1.weight of four dimensions")
	}
	_, _, pool := o[1].Info("3.pool.0.weight")
	c := TinyConfig{LatentChannels: shape[1], Pool: pool}.WithDefaults()
	return c, c.Validate()
}
