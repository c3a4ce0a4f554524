package job

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// options returns the options for opening the model.
func (o Generate) options(dev torch.Device) sd.Options {
	tiny := o.TinyVAE
	if o.Preview != "" {
		tiny = "" // it decodes only the previews
	}
	dtype, _ := training.DTypeNamed(o.DType) // checked before
	return sd.Options{
		Device: dev, DType: dtype, Variant: o.Variant, Mixed: o.Mixed, EMA: o.EMA, Config: o.Config, Prediction: o.Prediction,
		UNet: o.UNet, TextEncoder: o.TextEncoder, TextEncoder2: o.TextEncoder2, VAE: o.VAE, TinyVAE: tiny, Tile: o.Tile,
	}
}

// part is a component that replaces the model's.
type part struct {
	flag, name, key string // key: its key in image metadata, such as A1111's "VAE"
	path            string // "": none
	of              func(m *weights.Model) *weights.Component
}

// parts lists the components that can be replaced.
func (o Opening) parts() []part {
	return []part{
		{"--unet", "unet", "UNet", o.UNet, func(m *weights.Model) *weights.Component { return m.UNet }},
		{"--text-encoder", "text_encoder", "Text encoder", o.TextEncoder, func(m *weights.Model) *weights.Component { return m.Text }},
		{"--text-encoder-2", "text_encoder_2", "Text encoder 2", o.TextEncoder2, func(m *weights.Model) *weights.Component { return m.Text2 }},
		{"--vae", "vae", "VAE", o.VAE, func(m *weights.Model) *weights.Component { return m.VAE }},
	}
}

// hashing computes the hashes of components in the background: for gigabytes it takes as long as reading them.
type hashing struct {
	done   chan struct{}
	hashes []string // component: hash
	err    error
}

// wait waits for the hashes and returns them. On nil it returns none.
func (h *hashing) wait() ([]string, error) {
	if h == nil {
		return nil, nil
	}
	<-h.done
	return h.hashes, h.err
}

// hashParts starts hashing the replaced components, and remarks on those that differ from the image's metadata.
func (o *Generate) hashParts(ctx context.Context, files *weights.Model) error {
	before := o.PartHashes
	o.PartHashes = nil
	if o.Bare {
		return nil
	}
	h := &hashing{done: make(chan struct{})}
	o.hashing = h
	type one struct {
		part
		files []string
	}
	var all []one
	for _, p := range o.parts() {
		if c := p.of(files); p.path != "" && c != nil && len(c.Files) > 0 {
			all = append(all, one{p, c.Files})
		}
	}
	go func() {
		defer close(h.done)
		for _, p := range all {
			hash, err := shortHash(ctx, p.files...)
			if err != nil {
				h.err = fmt.Errorf("%s: %w", p.flag, err)
				return
			}
			h.hashes = append(h.hashes, p.name+": "+hash)
		}
	}()
	if len(before) == 0 {
		return nil
	}
	hashes, err := h.wait()
	for _, b := range before {
		name, was, _ := strings.Cut(b, ": ")
		now := hashOf(hashes, name)
		i := slices.IndexFunc(all, func(p one) bool { return p.name == name })
		switch {
		case now == was:
		case i < 0:
			o.remarks = append(o.remarks, fmt.Sprintf("the image was generated with another %s (hash %s), not with the model's own", quote.Text(name), quote.Text(was)))
		default:
			o.remarks = append(o.remarks, fmt.Sprintf("the image was generated with another %s (hash %s), not with that of %s (%s)", name, quote.Text(was), quote.Path(all[i].path), now))
		}
	}
	return err
}

// hashOf returns the hash of a component.
func hashOf(hashes []string, part string) string {
	for _, v := range hashes {
		if name, hash, _ := strings.Cut(v, ": "); name == part {
			return hash
		}
	}
	return ""
}

// describeParts adds the names and hashes of replaced components to an image's metadata.
func (o Opening) describeParts(info *infotext.Text) {
	for _, p := range o.parts() {
		if p.path == "" {
			continue
		}
		info.Add(p.key, partName(p))
		if hash := hashOf(o.PartHashes, p.name); hash != "" {
			info.Add(p.key+" hash", hash)
		}
	}
}

// partName is the name of the file or directory; a directory with the usual name, such as vae, gets its parent's name too.
func partName(p part) string {
	path := filepath.Clean(p.path)
	if filepath.Base(path) != p.name || filepath.Dir(path) == "." {
		return adapterName(path)
	}
	return filepath.Base(filepath.Dir(path)) + "/" + p.name
}

// unetSuits remarks on the U-Net of a few-step model that is used with another sampler than its own.
func (o Opening) unetSuits(sampler string) []string {
	if o.UNet == "" {
		return nil
	}
	name := partName(o.parts()[0])
	hint, ok := wants(name, sampler)
	if !ok {
		return nil
	}
	return []string{fmt.Sprintf("the U-Net %s seems to be made for %s; the sampler here is %s", quote.Text(name), hint, sampler)}
}
