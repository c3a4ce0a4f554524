// Reconstruct encodes and decodes images with a tiny autoencoder and prints the peak signal-to-noise ratio (PSNR) of the result.
//
//	go run ./scripts/reconstruct -vae taef2_encoder.safetensors [-side 128] [-n 64] [-out sheet.png] DATASET...
//
// A DATASET is what dataset.Open accepts, such as a directory of images or a shard. From each, n evenly spaced images are taken,
// center-cropped and resized. Nothing is random.
package main

import (
	"flag"
	"fmt"
	"image"
	"io"
	"math"
	"os"
	"slices"

	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/dataset"
)

type options struct {
	vae           string
	side, n, show int
	out           string
}

func main() {
	var o options
	flag.StringVar(&o.vae, "vae", "", "tiny autoencoder (TAESD): a directory or a safetensors file")
	flag.IntVar(&o.side, "side", 128, "height and width in pixels")
	flag.IntVar(&o.n, "n", 64, "number of images from each dataset")
	flag.IntVar(&o.show, "show", 5, "number of evenly spaced images on the sheet, from each dataset")
	flag.StringVar(&o.out, "out", "", "PNG file for a sheet: for each dataset a row of images and a row of their reconstructions")
	flag.Parse()
	if err := run(o, flag.Args(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "reconstruct:", err)
		os.Exit(1)
	}
}

func run(o options, specs []string, stdout io.Writer) error {
	a, err := vae.OpenTiny(o.vae, torch.CPU, torch.Float32)
	if err != nil {
		return err
	}
	defer a.Close()
	if len(specs) == 0 || o.n < 1 || o.show < 1 || o.side < 1 || o.side%a.Factor() != 0 {
		return fmt.Errorf("want at least one dataset, -n and -show of at least 1, and -side a multiple of %d; got %d datasets, -n %d, -show %d, -side %d",
			a.Factor(), len(specs), o.n, o.show, o.side)
	}
	fmt.Fprintf(stdout, "| dataset | images | side | lowest | median | mean | highest, dB |\n|---|---|---|---|---|---|---|\n")
	var sheet []image.Image
	for _, spec := range specs {
		set, err := dataset.Open(spec, dataset.Options{Resolution: o.side, Channels: 3})
		if err != nil {
			return err
		}
		decibels, rows, err := reconstruct(a, set, o)
		if err != nil {
			return fmt.Errorf("%s: %w", spec, err)
		}
		slices.Sort(decibels)
		n, sum := len(decibels), 0.0
		for _, v := range decibels {
			sum += v
		}
		fmt.Fprintf(stdout, "| %s | %d | %d | %.1f | %.1f | %.1f | %.1f |\n",
			set.Name(), n, o.side, decibels[0], decibels[n/2], sum/float64(n), decibels[n-1])
		sheet = append(sheet, rows...)
	}
	if o.out == "" {
		return nil
	}
	grid, err := vision.Grid(sheet, o.show)
	if err != nil {
		return err
	}
	return vision.Write(o.out, grid, vision.WriteOptions{Overwrite: true})
}

// reconstruct returns the PSNR of o.n images in dB, and o.show of the images followed by their reconstructions.
func reconstruct(a vae.Autoencoder, set dataset.Dataset, o options) (decibels []float64, rows []image.Image, err error) {
	var before, after []image.Image
	pixels := make([]byte, 3*o.side*o.side)
	n := min(o.n, set.Len())
	if n < o.show && o.out != "" {
		return nil, nil, fmt.Errorf("%d images are too few for -show %d", n, o.show)
	}
	for i := range n {
		if _, err := set.Read(i*set.Len()/n, pixels); err != nil {
			return nil, nil, err
		}
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				x := torch.FromSlice(s, pixels, 1, 3, o.side, o.side).To(s, torch.Float32).DivScalar(s, 127.5).SubScalar(s, 1)
				y := a.Decode(s, a.Encode(s, x, nil)).Clamp(s, -1, 1)
				off := y.Sub(s, x).DivScalar(s, 2) // so that the peak is 1
				decibels = append(decibels, -10*math.Log10(off.Square(s).Mean(s).Item()))
				if i*o.show%n >= o.show {
					return nil
				}
				images, err := vision.ToImages(torch.Cat(s, []*torch.Tensor{x, y}, 0))
				if err == nil {
					before, after = append(before, images[0]), append(after, images[1])
				}
				return err
			})
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return decibels, append(before, after...), nil
}
