package job

import (
	"fmt"

	"github.com/onestep-go/onestep/sampling/texttoimage"
)

// scale is the guidance scale for package texttoimage, where 0 means the model's default.
func (o Generate) scale() float64 {
	switch {
	case o.Guidance == nil:
		return 0
	case o.off():
		return texttoimage.NoGuidance
	}
	return *o.Guidance
}

// off reports whether a scale of 0 turned guidance off, as in diffusers. In A1111 a scale of 0 follows only the negative prompt.
func (o Generate) off() bool { return o.Guidance != nil && *o.Guidance == 0 }

// guided is the scale in use, counted as in the flag.
func (o Generate) guided(plan *texttoimage.Plan) float64 {
	if o.off() {
		return 0
	}
	return plan.Guidance
}

// remarkGuidance remarks on the meaning of a scale of 0.
func (o *Generate) remarkGuidance() {
	if !o.off() {
		return
	}
	text := "guidance 0 turns guidance off, as in diffusers"
	if !o.Bare {
		text += fmt.Sprintf("; in the A1111 settings of the image it is written as CFG scale %g, which turns it off there", texttoimage.NoGuidance)
	}
	o.remarks = append(o.remarks, text)
}
