// Reconstruct encodes pictures with a tiny autoencoder, decodes them, and prints how much is lost, as the ratio of peak to noise (PSNR).
//
//	go run ./scripts/reconstruct -vae taef2_encoder.safetensors [-side 128] [-n 64] [-out sheet.png] SPEC...
//
// A SPEC is what package dataset opens, such as a folder of pictures or a shard. Of each, n pictures are taken, at equal distances, and
// their middle squares brought to the side. Nothing is drawn at random.
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
	flag.StringVar(&o.vae, "vae", "", "the autoencoder: a folder or a safetensors file")
	flag.IntVar(&o.side, "side", 128, "height and width in pixels")
	flag.IntVar(&o.n, "n", 64, "how many pictures of each set")
	flag.IntVar(&o.show, "show", 5, "how many of them, again at equal distances, on the sheet")
	flag.StringVar(&o.out, "out", "", "PNG file for a sheet: of each set a row of pictures, and below it what became of them")
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
		return fmt.Errorf("want sets of pictures, counts above 0, and a side that %d divides", a.Factor())
	}
	fmt.Fprintf(stdout, "| set | pictures | side | lowest | median | mean | highest, dB |\n|---|---|---|---|---|---|---|\n")
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

// reconstruct returns the ratio for each picture of the set, and the first pictures before and after.
func reconstruct(a vae.Autoencoder, set dataset.Dataset, o options) (decibels []float64, rows []image.Image, err error) {
	var before, after []image.Image
	pixels := make([]byte, 3*o.side*o.side)
	n := min(o.n, set.Len())
	if n < o.show && o.out != "" {
		return nil, nil, fmt.Errorf("%d pictures, and -show asks for %d on the sheet: want at least as many", n, o.show)
	}
	for i := range n {
		if _, err := set.Read(i*set.Len()/n, pixels); err != nil {
			return nil, nil, err
		}
		err := torch.Run(torch.CPU, func(s *torch.Scope) error {
			return s.NoGrad(func(s *torch.Scope) error {
				x := torch.FromSlice(s, pixels, 1, 3, o.side, o.side).To(s, torch.Float32).DivScalar(s, 127.5).SubScalar(s, 1)
				y := a.Decode(s, a.Encode(s, x, nil)).Clamp(s, -1, 1)
				off := y.Sub(s, x).DivScalar(s, 2) // the peak is 1 then
				decibels = append(decibels, -10*math.Log10(off.Square(s).Mean(s).Item()))
				if i*o.show%n >= o.show {
					return nil
				}
				pictures, err := vision.ToImages(torch.Cat(s, []*torch.Tensor{x, y}, 0))
				if err == nil {
					before, after = append(before, pictures[0]), append(after, pictures[1])
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
