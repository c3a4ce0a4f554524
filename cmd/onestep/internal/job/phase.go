package job

import "github.com/onestep-go/onestep/sampling/texttoimage"

// Phase is what generating images is at.
type Phase string

// The phases, in their order. Those from PhaseText on repeat.
const (
	PhaseLoading  Phase = "loading"
	PhaseText           = Phase(texttoimage.EncodingText)
	PhaseImage          = Phase(texttoimage.EncodingImage)
	PhaseSampling       = Phase(texttoimage.Sampling)
	PhaseDecoding       = Phase(texttoimage.Decoding)
	PhaseSaving   Phase = "saving"
)

// GenerateProgress says where generating images is: at the beginning of a phase, and after each step of sampling.
type GenerateProgress struct {
	Phase         Phase
	What          string // the model that is loaded, the file that is saved
	Image, Images int    // the first of those that are generated together, from 0; how many there are in all
	Together      int    // images that are generated together
	Step, Steps   int    // that were taken, of how many
}

// Progress is told where generating images is.
type Progress func(GenerateProgress)
