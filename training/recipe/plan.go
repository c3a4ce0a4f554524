package recipe

import (
	"errors"
	"os"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training/dataset"
)

// Plan is a run with all options resolved and its data open, before weights are created.
type Plan struct {
	Run   Run                    // with all options filled in
	Start checkpoint.Description // the model at the start: its network and what that predicts
	Data  *dataset.Set

	spec Spec
}

// Plan opens the data, reads the descriptions of the run's models, and fills in all options. The caller closes the plan.
func (r Run) Plan() (*Plan, error) {
	r, err := r.Resolve()
	if err != nil {
		return nil, err
	}
	p := &Plan{Run: r, spec: r.Method.Spec()}
	if err := p.fromTeacher(); err != nil {
		return nil, err
	}
	p.Data, err = dataset.Open(r.Data, dataset.Options{Resolution: r.Resolution, Channels: r.Colors, Dir: r.DataDir, Square: true, Side: p.sideOfStart()})
	if err != nil {
		return nil, ofData(err)
	}
	if err = p.start(); err == nil {
		err = p.checkTeacher()
	}
	if err == nil {
		err = p.Run.checkLPIPS()
	}
	if err != nil {
		if cerr := p.Data.Close(); cerr != nil {
			err = errors.Join(err, cerr)
		}
		return nil, err
	}
	return p, nil
}

// Close closes the data.
func (p *Plan) Close() error { return p.Data.Close() }

// ofData turns an error of package dataset, which begins with data:, into one of the option.
func ofData(err error) error {
	return &OptionError{Option: "data", Err: prefixed{err}}
}

// prefixed is an error of package dataset with the option's name in place of the word data at its beginning.
type prefixed struct{ error }

func (p prefixed) Error() string {
	if rest, ok := strings.CutPrefix(p.error.Error(), "data"); ok {
		return name("data") + rest
	}
	return name("data") + ": " + p.error.Error()
}

func (p prefixed) Unwrap() error { return p.error }

// checkLPIPS returns an error if the weights of the distance lpips are missing.
func (r *Run) checkLPIPS() error {
	path := valueOf[string](r, "lpips")
	if path == "" {
		return nil
	}
	if _, missing := os.Stat(path); missing == nil {
		return nil
	}
	_, err := lpips.Open(path, lpips.Config{}, torch.CPU) // its error says what to do
	return failed("lpips", err)
}

// sideOfStart returns the image size of the model that the run starts from; 0 if there is none, or it cannot be read.
func (p *Plan) sideOfStart() int {
	if !p.Run.starts() {
		return 0
	}
	d, err := p.Run.describes(p.Run.Init)
	if err != nil {
		return 0
	}
	if shape := d.Network.Shape(); len(shape) == 3 && shape[1] == shape[2] {
		return shape[1]
	}
	return 0
}

// start fits the model at the start, a new one or that of Init, to the data.
func (p *Plan) start() error {
	r := &p.Run
	c, h, _ := p.Data.Shape() // squares
	var err error
	if p.Start, err = p.fit(c, h); err != nil {
		return err
	}
	classes := 0
	if r.Classes {
		if classes = len(p.Data.Classes()); classes == 0 {
			return usage("classes", "%s: the data %s has no labels", name("classes"), quote.Text(p.Data.Name()))
		}
	}
	if !r.starts() {
		in := p.Start.Network.Inputs()
		in.Classes, in.Dropout = classes, r.Dropout
		p.Start.Network = p.inputs(p.Start.Network.With(in))
		return nil
	}
	p.Start.Network = p.inputs(p.Start.Network)
	return sameImages(r.startsBy(), p.Start.Network, []int{c, h, h}, classes)
}

// fit returns the model for images of that many channels and pixels: that of Init, or a new one.
func (p *Plan) fit(colors, side int) (checkpoint.Description, error) {
	r := &p.Run
	if !r.starts() {
		cfg, err := r.shape(colors, side)
		d := checkpoint.Description{Form: checkpoint.Form{Type: p.spec.Forms[0]}, Network: cfg, SigmaData: 0.5, SigmaMin: 0.002, SigmaMax: 80}
		if f, ok := r.Method.(Former); ok {
			d.Form = f.Form()
		}
		return d, err
	}
	by := r.startsBy()
	d, err := r.describes(r.Init)
	if err != nil {
		return d, noModel(by, err)
	}
	if err := p.takes(by, d, p.spec.Forms); err != nil {
		return d, err
	}
	if !p.adoptable(d.Network) {
		return d, usage(by, "%s: the run needs more conditioning inputs than the network %s in %s has, and only %s can get new ones: %s",
			name(by), quote.Text(d.Network.Name()), quote.Path(r.Init), strings.Join(network.Adopting(), ", "), set("init", "none")) //quote: our own names
	}
	in := d.Network.Inputs()
	in.Dropout = r.Dropout
	d.Network = d.Network.With(in)
	r.Resolution, r.Colors = side, colors
	if f, ok := r.Method.(Former); ok {
		if err := f.Adopt(d.Form); err != nil {
			return d, err
		}
		if err := r.fillAdopted(); err != nil {
			return d, err
		}
	}
	return d, r.describe(by, d.Network)
}
