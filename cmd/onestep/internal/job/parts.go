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
)

// options are how the model is opened.
func (o Generate) options(dev torch.Device) sd.Options {
	tiny := o.TinyVAE
	if o.Preview != "" {
		tiny = "" // it is for the previews
	}
	return sd.Options{
		Device: dev, DType: dtypes[o.DType], Variant: o.Variant, Mixed: o.Mixed, EMA: o.EMA, Config: o.Config, Prediction: o.Prediction,
		UNet: o.UNet, TextEncoder: o.TextEncoder, TextEncoder2: o.TextEncoder2, VAE: o.VAE, TinyVAE: tiny, Tile: o.Tile,
	}
}

// part is a part in place of the model's.
type part struct {
	flag, name, key string // key: what the text of images calls it, as "VAE" in A1111
	path            string // "": none
	of              func(m *weights.Model) *weights.Component
}

// parts are those that may be replaced.
func (o Opening) parts() []part {
	return []part{
		{"--unet", "unet", "UNet", o.UNet, func(m *weights.Model) *weights.Component { return m.UNet }},
		{"--text-encoder", "text_encoder", "Text encoder", o.TextEncoder, func(m *weights.Model) *weights.Component { return m.Text }},
		{"--text-encoder-2", "text_encoder_2", "Text encoder 2", o.TextEncoder2, func(m *weights.Model) *weights.Component { return m.Text2 }},
		{"--vae", "vae", "VAE", o.VAE, func(m *weights.Model) *weights.Component { return m.VAE }},
	}
}

// hashing computes the hashes of parts beside the work: of gigabytes it takes as long as reading them.
type hashing struct {
	done   chan struct{}
	hashes []string // part: hash
	err    error
}

// wait returns the hashes when they are there. It may be called on nil, which has none.
func (h *hashing) wait() ([]string, error) {
	if h == nil {
		return nil, nil
	}
	<-h.done
	return h.hashes, h.err
}

// hashParts begins to hash the parts that are not the model's own. Of those that an image was made with it remarks on others.
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

// hashOf returns the hash of a part.
func hashOf(hashes []string, part string) string {
	for _, v := range hashes {
		if name, hash, _ := strings.Cut(v, ": "); name == part {
			return hash
		}
	}
	return ""
}

// describeParts adds to an image's text the names and hashes of parts that are not the model's own.
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

// partName is the name of the file or directory; of a directory that is called as all such are, the one around it, too.
func partName(p part) string {
	path := filepath.Clean(p.path)
	if filepath.Base(path) != p.name || filepath.Dir(path) == "." {
		return adapterName(path)
	}
	return filepath.Base(filepath.Dir(path)) + "/" + p.name
}

// unetSuits remarks on a U-Net of a few-step model that is drawn with by another sampler.
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
