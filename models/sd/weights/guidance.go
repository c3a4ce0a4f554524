package weights

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// Scales is the range of guidance scales with which a guidance-distilled U-Net was trained; the zero value is an unknown one. It is in the
// metadata of the U-Net's file, where other programs ignore it.
type Scales struct{ Min, Max float64 }

// guidanceKey is its metadata key.
const guidanceKey = "onestep.guidance"

// Known reports whether the range is known.
func (s Scales) Known() bool { return s.Max > 0 }

// Middle is the scale in the middle.
func (s Scales) Middle() float64 { return (s.Min + s.Max) / 2 }

// Has reports whether a scale is in the range, or the range is unknown.
func (s Scales) Has(scale float64) bool { return !s.Known() || s.Min <= scale && scale <= s.Max }

func (s Scales) metadata() string {
	return strconv.FormatFloat(s.Min, 'g', -1, 64) + " " + strconv.FormatFloat(s.Max, 'g', -1, 64)
}

// readGuidance sets the range from the metadata of the weights' file. The notice says what is ignored.
func (c *Component) readGuidance(metadata map[string]string) (notice string) {
	text, ok := metadata[guidanceKey]
	if !ok {
		return ""
	}
	low, high, _ := strings.Cut(text, " ")
	from, err := strconv.ParseFloat(low, 64)
	to, err2 := strconv.ParseFloat(high, 64)
	if err != nil || err2 != nil || !(0 <= from && from <= to && to <= 1000) {
		return fmt.Sprintf("metadata %s is ignored: want two guidance scales, got %s", guidanceKey, quote.Quoted(text))
	}
	c.Guidance = Scales{from, to}
	return ""
}
