package job

import (
	"fmt"

	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// scale is the guidance scale as package texttoimage counts it, where 0 is the model's own.
func (o Generate) scale() float64 {
	switch {
	case o.Guidance == nil:
		return 0
	case o.off():
		return texttoimage.NoGuidance
	}
	return *o.Guidance
}

// off tells whether guidance was turned off by a scale of 0, as in diffusers. In A1111 that would follow the negative prompt alone.
func (o Generate) off() bool { return o.Guidance != nil && *o.Guidance == 0 }

// guided is the scale that images are generated with, in the user's words.
func (o Generate) guided(plan *texttoimage.Plan) float64 {
	if o.off() {
		return 0
	}
	return plan.Guidance
}

// remarkGuidance says what a scale of 0 is.
func (o *Generate) remarkGuidance() {
	if !o.off() {
		return
	}
	text := "guidance 0 is no guidance, as in diffusers"
	if !o.Bare {
		text += fmt.Sprintf("; the A1111 settings in the image have it as CFG scale %g, which is none there", texttoimage.NoGuidance)
	}
	o.remarks = append(o.remarks, text)
}
