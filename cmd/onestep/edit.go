package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
)

func (a *app) edit() *cobra.Command {
	o := job.DefaultEdit()
	var from string
	cmd := &cobra.Command{
		Use:        "edit --model MODEL --task TASK --image IMAGE --out OUT",
		SuggestFor: []string{"inpaint", "colorize", "colourise", "superres", "upscale", "denoise", "interpolate", "stroke", "sdedit", "repaint"},
		Short:      "Inpaint, colorize, enlarge, denoise or interpolate images with a model that generates such images",
		Long: `Edit images with a consistency model or a denoiser, which needs no training for the task (Song et al. 2023, algorithm 4):

  inpaint      repaint where --mask is white, and keep the rest exactly
  colorize     generate the colours of a grey image, and keep its luminance
  superres     generate the details of a small image, and keep the means of its patches
  stroke       turn a coarse painting into an image (SDEdit): the higher --sigma, the less like it
  denoise      remove Gaussian noise of the standard deviation --sigma
  interpolate  generate images between two seeds, or between --image and --image2

The input image is cropped to the model's proportions and resized to its size, with a notice; for superres it is small. Result i has seed SEED+i
and does not depend on --n and --batch. The settings are written into the image: onestep info prints them, and --from reads them. The names of
the files go to standard output. If an output file exists, nothing is generated, unless --overwrite is set.`,
		Example: `  onestep edit --model runs/photos --task inpaint --image photo.png --mask mask.png --n 4 --out repainted.png
  onestep edit --model runs/photos --task superres --factor 4 --image photo.png --with-input --out details.png
  onestep edit --model runs/photos --task stroke --image painting.png --times 1,0.4 --out photo2.png
  onestep edit --model builtin --task interpolate --seed 1 --seed2 7 --label Flags --n 10 --columns 10 --out between.png
  onestep edit --from between.png --out again.png`,
		Args: arguments(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			if given("label") && o.Class == "" {
				return &job.UsageError{Msg: "--label: want a class, got an empty value"}
			}
			if given("sigma") && o.Sigma == 0 {
				return &job.UsageError{Msg: "--sigma: want a number above 0, got 0"}
			}
			if err := job.There(job.Path{Flag: "--from", Path: from, Want: "an image file with settings of onestep edit", Form: job.File}); err != nil {
				return err
			}
			if from != "" {
				if err := readBeneath(cmd.Flags(), func() error { return o.ReadImage(from, given) }); err != nil {
					return err
				}
			}
			sc := a.screen()
			o.Note = func(note string) { sc.log.Warn(note) }
			got, err := o.Run(cmd.Context(), sc.images(o.Batch))
			sc.stop()
			if err != nil {
				return err
			}
			return a.print(got, strings.Join(got.Files, "\n")+"\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Model, "model", "", pixelModel+", or builtin:\nemoji, ships with onestep (required)")
	f.Var(choice{&o.Task, job.Tasks()}, "task", "task: "+strings.Join(job.Tasks(), ", ")+" (required)")
	f.StringVar(&o.Image, "image", "", "input image; interpolate without one: between two seeds")
	f.StringVar(&o.Mask, "mask", "", "inpaint: mask of the size of --image; white is repainted")
	f.Var(count{&o.Factor}, "factor", "superres: factor from the small image to the model's size; a larger image is reduced first (default: by the size of --image)")
	f.Float64Var(&o.Sigma, "sigma", 0, "noise level of the first step, on a scale from -1 (black) to 1 (white); denoise: the standard deviation of the noise in --image\n(required); stroke, and interpolate with images: that of the noise added (default: 0.67 for 32 pixels, 1.3 for 64, 5.38 for 256)")
	f.StringVar(&o.Image2, "image2", "", "interpolate: image at the other end")
	f.Var(seed{&o.Seed2}, "seed2", "interpolate without images: seed of the noise at the other end (default: SEED+1)")
	f.Var(choice{&o.Sampler, editSamplers()}, "sampler", "sampler (default: multistep for a consistency model, of a denoiser dpmpp_2s_a for inpaint, colorize and superres, heun for others): "+strings.Join(editSamplers(), ", "))
	f.Var(count{&o.Steps}, "steps", "sampling steps (default: the number of --times, or of a consistency model 40; stroke and interpolate with images 2, interpolate without 1,\ndenoise 1; of a denoiser 18, denoise 1)")
	f.Float64SliceVar(&o.Times, "times", nil, "noise levels, largest first, above 0.002 and up to 80, without a final 0 (default: 80 and Karras's levels from 10 to 0.05; by --sigma\nfor stroke, denoise and interpolate)")
	f.Float64Var(&o.Guidance, "guidance", 0, "guidance scale (CFG); 1: no guidance (default 1)")
	f.StringVar(&o.Class, "label", "", "classes of a conditional model: names, or numbers from 0 on, such as cat or cat,dog,5, used in turn;\nonestep info MODEL lists them (default: all classes in turn, by the seed)")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the first result; the next ones have SEED+1, SEED+2, ... (default 0)")
	f.StringVar(&o.Out, "out", "", "FILE.png, FILE.jpg or FILE.webp (lossless) for the image, or for several a grid; DIR/ for one PNG per image, named by its seed,\nor for interpolate by its number (required)")
	f.Var(count{&o.N}, "n", "number of results (default: 1; 8 for interpolate, with both ends)")
	f.BoolVar(&o.Input, "with-input", false, "put the input image, as the model sees it, before the results in the grid")
	f.Var(count{&o.Columns}, "columns", "columns of the grid (default: nearly square)")
	f.StringVar(&from, "from", "", "image file to take the settings from; other flags override them")
	f.Var(count{&o.Batch}, "batch", "batch size; larger needs more memory")
	f.StringVar(&o.Device, "device", o.Device, "cpu, cuda or cuda:N")
	f.Var(count{&o.Threads}, "threads", "CPU threads per operator (default: all processors)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files that exist")
	f.BoolVar(&o.Force, "force", false, "run even if the estimated memory exceeds what is available")
	a.quietFlag(cmd)
	a.jsonFlag(cmd)
	offerChoices(cmd)
	call(f, "FILE|DIR|builtin", "model")
	call(f, "TASK", "task")
	call(f, "FILE", "image", "image2", "mask", "from")
	call(f, "NAME", "sampler")
	call(f, "FILE.png|DIR/", "out")
	call(f, "N", "seed", "seed2")
	call(f, "T,T", "times")
	call(f, "X", "guidance", "sigma")
	call(f, "CLASS,CLASS", "label")
	call(f, "DEVICE", "device")
	hideDefault(f, "times")
	offer(cmd, "model", "builtin")
	offer(cmd, "device", "cpu", "cuda")
	byTopic(cmd,
		topic{"Model", "model"},
		topic{"Task and input images", "task image mask factor sigma image2 seed2"},
		topic{"Sampling", "sampler steps times guidance label seed"},
		topic{"Output", "out n with-input columns from overwrite quiet json"},
		topic{"Device and memory", "device threads batch force"},
	)
	return cmd
}

// editSamplers lists the samplers that can edit.
func editSamplers() (names []string) {
	for _, name := range job.Samplers() {
		if name != "ctm" {
			names = append(names, name)
		}
	}
	return names
}
