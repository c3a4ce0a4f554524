package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/dataset"
)

// fromTeacher lets the run start from the teacher's weights by default, if the method's network can have them.
func (p *Plan) fromTeacher() error {
	r := &p.Run
	if r.Init != "" || r.teacher() == "" || r.teacher() == Empirical {
		return nil
	}
	d, err := r.describes(r.teacher())
	if err != nil {
		return noModel("teacher", err)
	}
	if slices.Contains(p.spec.Forms, d.Form.Type) && d.Kind == checkpoint.Denoiser && p.adoptable(d.Network) {
		r.Init = r.teacher()
	}
	return nil
}

// inputs returns c with the conditioning inputs that the run needs.
func (p *Plan) inputs(c network.Config) network.Config {
	return c.With(c.Inputs().And(models.Inputs{Until: p.spec.Until, Guidance: len(p.Run.guidance()) == 2, Null: p.Run.LabelDropout > 0}))
}

// adoptable reports whether the run's network can start from the weights of c, though it may have more conditioning inputs.
func (p *Plan) adoptable(c network.Config) bool {
	more := p.inputs(c)
	return c.Adopts() || more.Until() == c.Until() && more.Guidance() == c.Guidance()
}

// checkTeacher returns an error for a teacher that the method cannot distil, or that is for other images.
func (p *Plan) checkTeacher() error {
	r := &p.Run
	if r.teacher() == Empirical && r.LabelDropout > 0 {
		return usage("label-dropout", "%s: the exact denoiser of the data needs the class of every image: leave the option out, or choose another teacher", name("label-dropout"))
	}
	if r.teacher() == "" || r.teacher() == Empirical {
		return nil
	}
	d, err := r.describes(r.teacher())
	if err != nil {
		return noModel("teacher", err)
	}
	if r.LabelDropout > 0 && d.Network.Classes() > 0 && d.Network.NullClass() < 0 {
		return usage("label-dropout", "%s: the teacher was trained without label dropout, so it cannot predict without a class: leave the option out, or train the teacher with it", name("label-dropout"))
	}
	if d.Kind == checkpoint.Consistency {
		return usage("teacher", "%s: want a denoiser (%s: %s), but %s is a %s model", name("teacher"), name("method"), denoisers(), quote.Path(r.teacher()), quote.Text(d.Kind))
	}
	if r.guidance() != nil && d.Network.NullClass() < 0 {
		return usage("guidance", "%s: the teacher was trained without label dropout, which guidance needs: train it with %s and %s", name("guidance"), name("classes"), name("label-dropout"))
	}
	forms := p.spec.Teachers
	if forms == nil {
		forms = p.spec.Forms
	}
	return errors.Join(p.takes("teacher", d, forms), sameImages("teacher", d.Network, p.Start.Network.Shape(), p.Start.Network.Classes()))
}

// takes returns an error for a model whose form is not one of these.
func (p *Plan) takes(option string, d checkpoint.Description, forms []checkpoint.FormType) error {
	if option == "init" && d.Network.Until() && !p.spec.Until {
		return usage(option, "%s: the model's network has an input for the end time of jumps, which the method %s does not use: choose a model that was trained with another method", name(option), p.spec.Name)
	}
	if slices.Contains(forms, d.Form.Type) {
		return nil
	}
	var by []string
	for _, other := range Methods() {
		s := other.Spec()
		teachers := s.Teachers
		if teachers == nil {
			teachers = s.Forms
		}
		if _, distils := options.Named(other, "teacher"); distils && slices.Contains(teachers, d.Form.Type) && s.Name != p.spec.Name {
			by = append(by, s.Name)
		}
	}
	hint := ""
	if len(by) > 0 {
		hint = "; these methods can distil it: " + strings.Join(by, ", ")
	}
	why := fmt.Sprintf("want a model of the form %s", formNames(forms))
	if d.Form.Type == checkpoint.DDPM && slices.Contains(forms, checkpoint.VP) {
		why = "the model has discrete timesteps, and the method needs continuous time"
	}
	return usage(option, "%s: the model has the form %s, which %s %s does not support: %s%s", name(option), quote.Text(d.Form.Type), name("method"), p.spec.Name, why, hint)
}

// denoisers lists the methods that train a denoiser from data.
func denoisers() string {
	var names []string
	for _, m := range Methods() {
		if s := m.Spec(); s.Guidable && !s.Distils && !s.Until && !s.Leveled {
			names = append(names, s.Name)
		}
	}
	return quote.Text(strings.Join(names, ", "))
}

// formNames joins the names of forms.
func formNames(forms []checkpoint.FormType) string {
	var words []string
	for _, f := range forms {
		words = append(words, string(f))
	}
	return strings.Join(words, ", ")
}

// sameImages returns an error for a network for other images than the run's.
func sameImages(option string, got network.Config, shape []int, classes int) error {
	g := got.Shape()
	switch {
	case !slices.Equal(g, shape):
		return usage(option, "%s: the model is for images of %s, but the run's are %s: choose %s and %s to match", name(option), number.Shape(g), number.Shape(shape), name("resolution"), name("colors"))
	case got.Classes() > 0 && classes == 0:
		return usage(option, "%s: the model is class-conditional, with %s: %s, and use data with as many classes", name(option), plural.N(got.Classes(), "class"), set("classes", ""))
	case got.Classes() > 0 && got.Classes() != classes:
		return usage(option, "%s: the model was trained with %s, but the data has %d", name(option), plural.N(got.Classes(), "class"), classes)
	case got.Classes() == 0 && classes > 0:
		return usage(option, "%s: the model was trained without classes: leave out %s, or choose a class-conditional model", name(option), name("classes"))
	}
	return nil
}

// openTeacher opens the denoiser to distil.
func (p *Plan) openTeacher(parts *Parts) error {
	r := &p.Run
	if r.teacher() == "" {
		return nil
	}
	null := -1 // the null class of the exact denoiser
	if r.teacher() == Empirical {
		if err := p.ownTeacher(parts); err != nil {
			return err
		}
	} else {
		t, err := checkpoint.OpenTeacher(r.teacher(), r.Device)
		if err != nil {
			return failed("teacher", err)
		}
		parts.Own(t.Close)
		r.warnOf("teacher", t.File)
		parts.Teacher, null = t.Denoiser, t.Description.Network.NullClass()
	}
	if scales := r.guidance(); scales != nil {
		label := torch.NewScope(r.Device)
		parts.Own(label.Close)
		noClass := models.Cond{Class: torch.FromSlice(label, []int64{int64(null)})}
		parts.Teacher = &models.Guided{Model: parts.Teacher, Null: noClass, Scale: scales[0]}
	}
	return nil
}

// ownTeacher creates the exact denoiser of the run's data.
func (p *Plan) ownTeacher(parts *Parts) error {
	c, h, w := p.Data.Shape()
	n, size := p.Data.Len(), c*h*w
	pixels, labels := make([]byte, n*size), make([]int64, n)
	good := 0
	for i := range n {
		label, err := p.Data.Read(i, pixels[good*size:(good+1)*size])
		var corrupt *dataset.CorruptError
		if errors.As(err, &corrupt) && p.Run.Corrupt == "skip" {
			continue // the loader logs it
		}
		if err != nil {
			return failed("teacher", fmt.Errorf("%s: %w", Empirical, err))
		}
		labels[good], good = int64(label), good+1
	}
	if good == 0 {
		return failed("teacher", fmt.Errorf("%s: %s: no image can be decoded: all of %s are corrupt", Empirical, quote.Path(p.Data.Name()), plural.N(n, "image")))
	}
	n, pixels, labels = good, pixels[:good*size], labels[:good]
	s := torch.NewScope(p.Run.Device)
	parts.Own(s.Close)
	return s.Run(func(inner *torch.Scope) error {
		images := torch.FromSlice(inner, pixels, n, c, h, w).To(inner, torch.Float32).DivScalar(inner, 127.5).SubScalar(inner, 1)
		if p.widens() {
			images = images.To(inner, torch.Float64)
		}
		teacher := &models.Empirical{Data: inner.Keep(images)}
		if p.Run.Classes {
			teacher.Labels = inner.Keep(torch.FromSlice(inner, labels, n))
		}
		if err := teacher.Validate(); err != nil {
			return err
		}
		teacher.Prepare(s)
		parts.Teacher = teacher
		return nil
	})
}

// widens reports whether the exact denoiser keeps the data in float64, the type in which it computes: then it takes at most 256 MB, and need
// not be converted in each evaluation.
func (p *Plan) widens() bool {
	c, h, w := p.Data.Shape()
	return p.Data.Len()*c*h*w <= 1<<25
}

// load loads the weights that the run starts from into a network.
func (p *Plan) load(net network.Network) error {
	r := &p.Run
	if !r.starts() {
		return nil
	}
	f, err := r.open(r.Init)
	if err != nil {
		return failed(r.startsBy(), err)
	}
	defer f.Close()
	if r.Init != r.teacher() { // whose notices were given
		r.warnOf(r.startsBy(), f)
	}
	if err := network.Adopt(net, f.Network.Tensors()); err != nil {
		return failed(r.startsBy(), fmt.Errorf("%s: %w", quote.Path(f.Path), err))
	}
	return nil
}

// warnOf logs what was assumed about a model that an option names.
func (r *Run) warnOf(option string, f *checkpoint.File) {
	for _, note := range f.Notices {
		r.warn(note, option, f.Path)
	}
}

// describes reads the description of a model in a file, a run directory or Models.
func (r *Run) describes(path string) (checkpoint.Description, error) {
	data, ok := r.Models[path]
	if !ok {
		return checkpoint.ReadDescription(path)
	}
	f, err := safetensors.Parse(path, data)
	if err != nil {
		return checkpoint.Description{}, err
	}
	return checkpoint.ParseDescription(f.Metadata())
}

// open opens a model in a file, a run directory or Models.
func (r *Run) open(path string) (*checkpoint.File, error) {
	data, ok := r.Models[path]
	if !ok {
		return checkpoint.OpenFile(path, r.Device)
	}
	m, err := checkpoint.Read(path, bytes.Clone(data), r.Device)
	if err != nil {
		return nil, err
	}
	return m.File, nil
}
