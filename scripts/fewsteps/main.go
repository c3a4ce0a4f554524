// Command fewsteps compares the models of scripts/fewsteps.sh: a teacher in many steps and in few, its LCM-LoRA and, if it is there, its full latent
// consistency model, and a style with and without them. It writes a table and a grid of images for each of the two parts. What was
// measured is kept in OUT/eval, so that an interrupted run resumes: remove that directory after retraining.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/sheet"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/scripts/internal/tool"
	"github.com/onestep-go/onestep/torch/vision"
)

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar((*string)(&o.onestep), "onestep", "bin/onestep", "path of the onestep binary")
	flag.StringVar(&o.out, "out", "", "directory of the runs, which gets the results")
	flag.StringVar(&o.model, "model", "", "the teacher")
	flag.StringVar(&o.data, "data", "", "captioned images that it was trained on")
	flag.StringVar(&o.style, "style", "", "captioned images of the style")
	flag.StringVar(&o.prompts, "prompts", "", "file of prompts for the grid of the teacher and its few-step forms")
	flag.StringVar(&o.stylePrompts, "style-prompts", "", "file of prompts for the grid of the style")
	flag.StringVar(&o.only, "part", "", "few for the teacher and its few-step forms, style for the styles (default: both)")
	flag.IntVar(&o.n, "n", 512, "images for each row of the tables")
	flag.Float64Var(&o.guidance, "guidance", 2, "guidance scale of the teacher")
	flag.Parse()
	if err := o.run(); err != nil {
		log.Fatal(err)
	}
}

type options struct {
	onestep tool.Tool

	out, model, data, style, prompts, stylePrompts, only string

	n        int
	guidance float64
}

// row is a way to generate images.
type row struct {
	name, file string
	args       []string
	steps      int
}

func (o options) run() error {
	if o.n < 20 {
		return fmt.Errorf("-n: want at least 20 images, which the interval of the distance needs, got %d", o.n)
	}
	if o.only != "" && o.only != "few" && o.only != "style" {
		return fmt.Errorf("-part: want few or style, got %q", o.only)
	}
	adapter := func(run string) []string { return []string{"--lora", filepath.Join(o.out, run, "best.safetensors")} }
	guided := []string{"--guidance", strconv.FormatFloat(o.guidance, 'g', -1, 64)}
	lcm := append(adapter("lcm"), "--sampler", "lcm")
	var few []row
	for _, steps := range []int{50, 8, 4, 2, 1} {
		few = append(few, row{"teacher", "teacher", guided, steps})
	}
	for _, steps := range []int{8, 4, 2, 1} {
		few = append(few, row{"LCM-LoRA", "lcm", lcm, steps})
	}
	if _, err := os.Stat(filepath.Join(o.out, "full")); err == nil {
		for _, steps := range []int{8, 4, 2, 1} {
			few = append(few, row{"full LCM", "full", nil, steps})
		}
	}
	if err := o.part("few", o.data, o.prompts, few); err != nil {
		return err
	}
	return o.part("style", o.style, o.stylePrompts, []row{
		{"teacher, without the style", "teacher-style", guided, 50},
		{"style", "style", append(adapter("style"), guided...), 50},
		{"style", "style", append(adapter("style"), guided...), 4},
		{"style and LCM-LoRA", "style-lcm", append(adapter("style"), lcm...), 4},
		{"few-step style and LCM-LoRA", "few-lcm", append(adapter("few"), lcm...), 4},
	})
}

// part writes the table and the grid of some rows.
func (o options) part(name, data, prompts string, rows []row) error {
	if o.only != "" && o.only != name {
		return nil
	}
	texts, err := prompt.ReadFile(prompts)
	if err != nil {
		return err
	}
	texts = slices.DeleteFunc(texts, func(text string) bool { return strings.HasPrefix(text, "#") }) // comments, in files of validation prompts
	var table strings.Builder
	table.WriteString("| | steps | network evaluations | FD-EffNetLite0 | 95% | caption agreement, top-1 | top-5 | CPU seconds per image |\n|---|---|---|---|---|---|---|---|\n")
	var drawn sheet.Sheet
	for _, text := range texts {
		drawn.Columns = append(drawn.Columns, shortened.Replace(text))
	}
	for i, r := range rows {
		got, err := o.measured(r, data)
		if err != nil {
			return err
		}
		fmt.Fprintf(&table, "| %s | %d | %d | %.1f | %.1f to %.1f | %.1f%% | %.1f%% | %.2f |\n", r.name, r.steps, got.Evaluations, got.Generated.Frechet,
			got.Interval.Low, got.Interval.High, 100*got.Agreement.Top1, 100*got.Agreement.Top5, got.Seconds)
		if i == len(rows)-1 {
			fmt.Fprintf(&table, "\nReal images: FD %.1f; the autoencoder's agreement is %.1f%% and %.1f%%, chance %.1f%% and %.1f%%.\n", got.Floor.Frechet,
				100*got.Bound.Top1, 100*got.Bound.Top5, 100*got.Agreement.Chance1, 100*got.Agreement.Chance5)
		}
		all, err := o.draw(r, texts)
		if err != nil {
			return err
		}
		drawn.Rows = append(drawn.Rows, sheet.Row{Name: fmt.Sprintf("%s, %s", r.name, plural.N(r.steps, "step")), Cells: all, Apart: i > 0 && r.name != rows[i-1].name})
	}
	err = vision.Write(filepath.Join(o.out, name+".png"), drawn.Draw(), vision.WriteOptions{Overwrite: true})
	return errors.Join(err, atomicfile.WriteBytes(filepath.Join(o.out, name+".md"), atomicfile.Options{Overwrite: true}, []byte(table.String())))
}

// shortened leaves out the style of prompts, which their grid need not repeat.
var shortened = strings.NewReplacer("a flat emoji of ", "", "an emoji of ", "")

// result is what was measured of a row.
type result struct {
	evaluation.Report
	Bound       *evaluation.Agreement `json:"caption_agreement_bound"`
	Evaluations int                   `json:"evaluations"`
	Seconds     float64               `json:"cpu_seconds"`
}

// measured evaluates a row, unless that was done already.
func (o options) measured(r row, data string) (result, error) {
	return tool.Once(filepath.Join(o.out, "eval", fmt.Sprintf("%s-%d-of-%d.json", r.file, r.steps, o.n)), func() (got result, err error) {
		log.Printf("%s, %d steps", r.name, r.steps)
		text, _, err := o.onestep.Run(context.Background(), append([]string{"eval", "--data", data, "--n", strconv.Itoa(o.n), "--json"}, o.args(r)...)...)
		if err != nil {
			return got, err
		}
		if err = json.Unmarshal(text, &got); err != nil {
			return got, err
		}
		got.Seconds, err = o.onestep.PerImage(context.Background(), func(n int, dir string) []string {
			return append([]string{"generate", "--prompt", "a cat", "--n", strconv.Itoa(n), "--out", dir}, o.args(r)...)
		})
		return got, err
	})
}

// args are the arguments of generate and eval for a row. With one thread the same command prints the same numbers, and threads do not wait for
// each other on a busy machine.
func (o options) args(r row) []string {
	model := o.model
	if r.file == "full" {
		model = filepath.Join(o.out, "full")
	}
	return append([]string{"--model", model, "--steps", strconv.Itoa(r.steps), "--seed", "1", "--threads", "1", "--quiet"}, r.args...)
}

// draw generates an image of each prompt.
func (o options) draw(r row, texts []string) (all []image.Image, err error) {
	dir := filepath.Join(o.out, "images", fmt.Sprintf("%s-%d", r.file, r.steps))
	args := []string{"generate", "--overwrite", "--out", filepath.Join(dir, "{i}.png")}
	for _, text := range texts {
		args = append(args, "--prompt", text)
	}
	if _, _, err := o.onestep.Run(context.Background(), append(args, o.args(r)...)...); err != nil {
		return nil, err
	}
	for i := range texts {
		img, err := vision.Read(filepath.Join(dir, fmt.Sprintf("%05d.png", i)))
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}
