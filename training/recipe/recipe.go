package recipe

import (
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/rundir"
)

// methods are all methods, in the order of help texts. A new one needs a file of its own and an entry here.
var methods = []func() Method{
	of[CT], of[ICT], of[ECT], of[StableECT], of[CD], of[CMT], of[SCT], of[SCD], of[CTM], of[MeanFlow], of[SoFlow], of[AlphaFlow], of[IMF], of[PD],
	of[MSCT], of[MSCD], of[EDM], of[DDPM], of[Flow],
}

// of returns a method without options.
func of[T any, P interface {
	*T
	Method
}]() Method {
	return P(new(T))
}

// Method is a training method with its options: a pointer to a struct whose fields have the tags in the package overview. A method may also
// implement [Filler], [Tabler] and [Former]. A program's own method needs a name that is not in [Names], and none of its options may have
// the name of an option of all runs or of a network. The options teacher, guidance and distance mean the same in all methods.
type Method interface {
	Spec() Spec
	// Objective returns the loss. f is what Spec's Function returned for the network that is trained.
	Objective(p *Parts, f any) (training.Objective, error)
}

// Spec describes a method and its needs.
type Spec struct {
	Name     string
	About    string // one line
	Formulas string // the loss, one formula per line
	// Forms are the supported predictions of its network; the first is that of a new network.
	Forms    []checkpoint.FormType
	Teachers []checkpoint.FormType // those of a teacher's network; nil: Forms
	// Function turns the network into the function that the method trains: a consistency function, a denoiser or an average velocity.
	Function func(Model) (any, error)

	Distils     bool // needs a teacher
	Stages      bool // has stages: the learning rate falls to 0 in each, not at the end of the run
	Guidable    bool // trains a denoiser: label dropout, for classifier-free guidance, is supported
	Leveled     bool // the model is for its own noise levels only (training.Leveled): it is no teacher
	Until       bool // the network has the end time of a jump as an input
	Copies      int  // copies of the network that it keeps, such as a target; for the memory estimate
	Derivatives bool // takes forward-mode derivatives of the network; for the memory estimate
}

// Filler is a [Method] with options whose defaults depend on the number of steps. Fill sets those that are zero, and returns an error for
// options that cannot work. A second call changes nothing.
type Filler interface {
	Fill(steps int) error
}

// Tabler is a [Method] with schedules: Table returns them for a run of that many steps as a Markdown table, with a note.
type Tabler interface {
	Table(steps int) (table, note string, err error)
}

// Former is a [Method] whose options are a part of the form of its network's prediction, such as a beta schedule.
type Former interface {
	// Form returns the form of a new network.
	Form() checkpoint.Form
	// Adopt sets the options from the form of the model that a run starts from. Options that differ from it are errors.
	Adopt(f checkpoint.Form) error
}

// Model is a network and its description at the start of the run.
type Model struct {
	Net   network.Network
	Start checkpoint.Description
}

// Parts are the parts that a method builds its objective from.
type Parts struct {
	Model
	Teacher models.Denoiser // nil: none
	Device  torch.Device
	Steps   int // of the run
	Seed    uint64

	function func(Model) (any, error)
	closers  []func()
}

// Own registers a function that is called at the end of the run, in reverse order, to free resources.
func (p *Parts) Own(closer func()) { p.closers = append(p.closers, closer) }

// Copy returns the method's function with a copy of the network, such as for a target network.
func (p *Parts) Copy() (any, error) {
	c, err := network.Clone(p.Net)
	if err != nil {
		return nil, err
	}
	p.Own(c.Close)
	return p.function(Model{c, p.Start})
}

func (p *Parts) close() {
	for _, c := range slices.Backward(p.closers) {
		c()
	}
}

// Default is the name of the method of a run without one: improved consistency training, which reaches better samples than the original
// at the same cost.
const Default = "ict"

// byDefault returns the run's method if none was chosen: that of the run that it resumes, or Default.
func (r *Run) byDefault() Method {
	if r.Resume && r.Out != "" {
		was, err := rundir.ReadOptions(r.Out)
		of, _ := was["method"].(string)
		if m, unknown := Named(of); err == nil && unknown == nil {
			return m
		}
	}
	return new(ICT)
}

// Methods returns all methods, without options, in the order of help texts.
func Methods() []Method {
	var all []Method
	for _, m := range methods {
		all = append(all, m())
	}
	return all
}

// Names returns the methods' names.
func Names() []string {
	var names []string
	for _, m := range Methods() {
		names = append(names, m.Spec().Name)
	}
	return names
}

// Named returns the method of that name, without options.
func Named(method string) (Method, error) {
	for _, m := range Methods() {
		if m.Spec().Name == method {
			return m, nil
		}
	}
	return nil, usage("method", "%s: want one of %s, got %s", name("method"), strings.Join(Names(), ", "), quote.Quoted(method))
}

// continuous are the forms with continuous timesteps; every are all forms.
var (
	continuous = []checkpoint.FormType{checkpoint.EDM, checkpoint.VP, checkpoint.Flow, checkpoint.TrigFlow}
	every      = append(slices.Clip(continuous), checkpoint.DDPM)
)

// consistency returns a [Spec]'s Function for consistency functions.
func consistency(at models.Boundary) func(Model) (any, error) {
	return func(m Model) (any, error) {
		return m.Start.Form.Consistency(m.Net, m.Start.SigmaData, at, m.Start.SigmaMin)
	}
}

// denoiser is a [Spec]'s Function for denoisers.
func denoiser(m Model) (any, error) { return m.Start.Form.Denoiser(m.Net, m.Start.SigmaData) }
