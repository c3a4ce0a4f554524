package job

import (
	"context"
	"fmt"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/torch"
)

// opened holds the files of the model and the ControlNets, and what was loaded from them.
type opened struct {
	files    *weights.Model // until it is loaded
	controls []control

	model *sd.Model
}

// control is a ControlNet's file, and what was loaded from it.
type control struct {
	path  string
	files *weights.Component // until it is loaded
	net   *sd.ControlNet
}

// openFiles opens the files of the model and the ControlNets, and checks that they suit the pipeline and fit into memory, before their
// weights are read. The result has to be closed even with an error.
func (o *Generate) openFiles(ctx context.Context, t texttoimage.Pipeline) (*opened, error) {
	all := &opened{}
	how := o.options(torch.CPU)
	var err error
	if all.files, err = openModel(o.Model, how.Files()); err != nil {
		return all, o.otherFlag(err)
	}
	o.remarks = append(o.remarks, all.files.Notices...)
	if err := draws(o.Model, all.files); err != nil {
		return all, o.otherFlag(err)
	}
	if err := t.Try(all.files); err != nil {
		return all, o.byOption(err)
	}
	for _, path := range o.ControlModels {
		c, err := weights.OpenComponent(path, weights.Options{Variant: o.Variant, Mixed: o.Mixed})
		if err != nil {
			return all, err
		}
		all.controls = append(all.controls, control{path: path, files: c})
	}
	if err := o.fitsMemory(all, t); err != nil {
		return all, err
	}
	return all, o.hashParts(ctx, all.files)
}

// draws returns an error for files of a model that cannot generate from prompts.
func draws(path string, files *weights.Model) error {
	if files.UNet == nil || files.Text == nil {
		return fmt.Errorf("%s: want a whole model with a text encoder, a U-Net and a VAE; it is a %s", quote.Path(path), files.Kind)
	}
	return nil
}

// load loads the weights and adds the model and the ControlNets to the pipeline.
func (all *opened) load(t *texttoimage.Pipeline, how sd.Options) (err error) {
	files := all.files
	all.files = nil
	if all.model, err = sd.From(files, how); err != nil {
		return err
	}
	t.Model = all.model
	for i := range all.controls {
		c := &all.controls[i]
		files := c.files
		c.files = nil
		if c.net, err = sd.ControlNetFrom(files, how); err != nil {
			return fmt.Errorf("%s: %w", quote.Path(c.path), err)
		}
		t.Controls[i].Net = c.net.ControlNet
	}
	return nil
}

// close frees what was loaded and closes the files.
func (all *opened) close() {
	for _, c := range all.controls {
		if c.net != nil {
			_ = c.net.Close()
		}
		if c.files != nil {
			_ = c.files.Close()
		}
	}
	if all.model != nil {
		_ = all.model.Close()
	}
	if all.files != nil {
		_ = all.files.Close()
	}
}
