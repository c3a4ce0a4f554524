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
)

// methods are all of them, in the order of help texts. A new one needs a file of its own and a line here.
var methods = []func() Method{
	of[CT], of[ICT], of[ECT], of[CD], of[SCT], of[SCD], of[CTM], of[MeanFlow], of[PD], of[EDM], of[DDPM], of[Flow],
}

// of makes a method without options.
func of[T any, P interface {
	*T
	Method
}]() Method {
	return P(new(T))
}

// Method is a way to train, with its options: a pointer to a struct whose fields have the tags that the package's overview lists. It may be
// more: see [Filler], [Tabler] and [Former]. A program's own has a name that is none of [Names], and no option by the name of one that all
// runs have, or a network. The options teacher, guidance and distance, where it has them, have the same meaning in all methods.
type Method interface {
	Spec() Spec
	// Objective builds the loss of what Spec's Function returned for the network that is trained.
	Objective(p *Parts, f any) (training.Objective, error)
}

// Spec is what a method is, and what it needs.
type Spec struct {
	Name     string
	About    string // in a line
	Formulas string // what it minimises, a line each
	// Forms are what its network may predict; the first is that of a new network.
	Forms    []checkpoint.FormType
	Teachers []checkpoint.FormType // what a teacher's network may predict; nil: the same
	// Function makes what the method trains from the network: a consistency function, a denoiser or jumps.
	Function func(Model) (any, error)

	Distils     bool // it needs a teacher
	Stages      bool // the learning rate falls to 0 in every stage, and not at the end of the run
	Guidable    bool // it trains a denoiser, which guidance can use without a class
	Until       bool // its network takes the end of a jump
	Copies      int  // of the network that it keeps, such as a target; an estimate of memory counts them
	Derivatives bool // it takes derivatives of the network in time, which an estimate of memory counts
}

// Filler is a [Method] that chooses, by the length of a run, what was left at zero. It refuses what cannot work. What it has filled in
// stays as it is when it is asked again.
type Filler interface {
	Fill(steps int) error
}

// Tabler is a [Method] that shows what changes in a run of that many steps as a Markdown table, with a note.
type Tabler interface {
	Table(steps int) (table, note string, err error)
}

// Former is a [Method] whose options are a part of what its network predicts, such as a discrete chain.
type Former interface {
	// Form is that of a new network.
	Form() checkpoint.Form
	// Adopt takes the options from the form of the model that a run starts from, or refuses those that are others.
	Adopt(f checkpoint.Form) error
}

// Model is a network and what it is, or starts as.
type Model struct {
	Net   network.Network
	Start checkpoint.Description
}

// Parts is what objectives are built from.
type Parts struct {
	Model
	Teacher models.Denoiser // nil without one
	Device  torch.Device
	Steps   int // of the run
	Seed    uint64

	function func(Model) (any, error)
	closers  []func()
}

// Own has something closed at the end of the run.
func (p *Parts) Own(closer func()) { p.closers = append(p.closers, closer) }

// Copy returns the method's function of a copy of the network, for a target.
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

// Methods returns every method, without options, in the order of help texts.
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

// continuous are the forms of networks whose timesteps are continuous, every those of all.
var (
	continuous = []checkpoint.FormType{checkpoint.EDM, checkpoint.VP, checkpoint.Flow, checkpoint.TrigFlow}
	every      = append(slices.Clip(continuous), checkpoint.DDPM)
)

// consistency is the consistency function that a model becomes.
func consistency(at models.Boundary) func(Model) (any, error) {
	return func(m Model) (any, error) {
		return m.Start.Form.Consistency(m.Net, m.Start.SigmaData, at, m.Start.SigmaMin)
	}
}

// denoiser is the denoiser that a model becomes.
func denoiser(m Model) (any, error) { return m.Start.Form.Denoiser(m.Net, m.Start.SigmaData) }
