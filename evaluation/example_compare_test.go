package evaluation_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/evaluation"
)

// Generated images beside those of a set, with a program's own features: here the pixels. An EfficientNet's are in models/efficientnet.
func ExampleCompare() {
	f := evaluation.Features{Extractor: pixels{}, Name: "Pixels", Resize: "none"}
	real, generated := draw(1, 200, 100), draw(2, 100, 140) // brighter by 40 levels of 255
	report, err := evaluation.Compare(context.Background(), f, real, generated.all, evaluation.Options{})
	if err != nil {
		log.Fatal(err)
	}
	g := report.Generated
	fmt.Printf("FD-%s (%s) of %d generated and %d real images: %.1f\n", report.Features, report.Resize, g.B, g.A, g.Frechet)
	fmt.Printf("of %d and %d real images: %.1f\n", report.Floor.B, report.Floor.A, report.Floor.Frechet)
	// Output:
	// FD-Pixels (none) of 100 generated and 200 real images: 1.2
	// of 100 and 100 real images: 0.0
}
