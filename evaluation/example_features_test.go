package evaluation_test

import (
	"context"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/models/inception"
	"github.com/onestep-go/onestep/torch"
)

// inceptionFeatures opens the network of FID with the weights in a file that pytorch-fid or torch-fidelity publishes; without one it returns
// features of the program's own.
func inceptionFeatures(path string) (evaluation.Features, func(), error) {
	if path == "" {
		return evaluation.Features{Extractor: pixels{}, Name: "Pixels", Resize: "none"}, func() {}, nil
	}
	net, err := inception.Open(path, torch.CPU)
	if err != nil {
		return evaluation.Features{}, nil, err
	}
	net.Resize = inception.TensorFlow // as the original FID; PyTorch is pytorch-fid's way, and Clean that of clean-fid
	return evaluation.Features{
		Extractor: net, Name: inception.Name, Resize: net.Resize.String(), Device: net.Device(), Logits: net.ScoreLogits,
	}, net.Close, nil
}

// FID of generated images: a Fréchet distance over the features of its Inception network. Any type with a method Features takes its place.
// A reference is made once, and compared with any number of sets.
func ExampleNewReference() {
	ctx := context.Background()
	features, release, err := inceptionFeatures("") // or the path that inception.Find returns
	if err != nil {
		log.Fatal(err)
	}
	defer release()
	reference, err := evaluation.NewReference(ctx, features, draw(1, 200, 100), evaluation.ReferenceOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer reference.Close()
	for _, brightness := range []float64{100, 140} {
		generated := draw(2, 100, brightness)
		report, err := reference.Compare(ctx, generated.all, evaluation.Options{})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s (%s): %.1f, of real images %.1f\n", report.Features, report.Resize, report.Generated.Frechet, report.Floor.Frechet)
	}
	// Output:
	// Pixels (none): 0.0, of real images 0.0
	// Pixels (none): 1.2, of real images 0.0
}
