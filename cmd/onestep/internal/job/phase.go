package job

import "github.com/onestep-go/onestep/sampling/texttoimage"

// Phase is a stage of generating images.
type Phase string

// The phases, in order. Those from PhaseText on repeat.
const (
	PhaseLoading  Phase = "loading"
	PhaseText           = Phase(texttoimage.EncodingText)
	PhaseImage          = Phase(texttoimage.EncodingImage)
	PhaseSampling       = Phase(texttoimage.Sampling)
	PhaseDecoding       = Phase(texttoimage.Decoding)
	PhaseSaving   Phase = "saving"
)

// GenerateProgress is the progress of generating images, reported at the beginning of a phase and after each sampling step.
type GenerateProgress struct {
	Phase         Phase
	What          string // the model being loaded, or the file being saved
	Image, Images int    // the first image of the batch, from 0; images in all
	Together      int    // images in the batch
	Step, Steps   int    // steps done, steps in all
}

// Progress receives the progress of generating images.
type Progress func(GenerateProgress)
