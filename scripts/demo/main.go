// Command demo turns a small denoiser of emoji, denoiser.safetensors beside it, into a consistency model in a minute and a half, and puts
// the images of both into one picture, before-after.png. It also generates images with the two models that ship with onestep. It runs
// bin/onestep, and prints each command. scripts/builtin.sh made the denoiser.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/internal/sheet"
	"github.com/onestep-go/onestep/scripts/internal/tool"
	"github.com/onestep-go/onestep/torch/vision"
)

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.onestep, "onestep", "bin/onestep", "path of the onestep binary")
	flag.StringVar(&o.denoiser, "denoiser", "scripts/demo/denoiser.safetensors", "denoiser to start from")
	flag.StringVar(&o.out, "out", cmp.Or(os.Getenv("DEMO"), "demo"), "directory of the results; an earlier one is renamed")
	flag.DurationVar(&o.training, "for", 90*time.Second, "time for training")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	onestep, denoiser, out string
	training               time.Duration
}

// columns are the classes of the data, in the order of their numbers. Image i has the class i modulo their number.
var columns = []string{"smileys", "people", "animals", "food", "travel", "sports", "objects", "symbols", "flags"}

const seeds = 3 // images of each class

func (o options) run(ctx context.Context) error {
	if err := makeRoom(o.out); err != nil {
		return err
	}
	run := filepath.Join(o.out, "run")
	var result struct {
		Images int64 `json:"images"`
	}
	// Ten levels and a target that follows closely: a model learns in few steps, and nothing depends on their number, which is that of the machine.
	out, err := o.onestepPrints(ctx, "train", "--method", "cd", "--teacher", o.denoiser, "--data", "emoji", "--resolution", "16", "--classes",
		"--levels", "10", "--mu", "0.5", "--batch", "32", "--lr", "0.002", "--lr-decay", "0", "--ema", "0.98", "--steps", "100000",
		"--duration", o.training.String(), "--threads", "1", "--seed", "1", "--sample-every", "0", "--json", "--out", run)
	if err == nil {
		err = json.Unmarshal(out, &result)
	}
	if err != nil {
		return err
	}
	picture := sheet.Sheet{Columns: columns}
	for _, w := range []struct {
		model, name string
		steps       int
	}{
		{o.denoiser, "before, 1 evaluation", 1},
		{o.denoiser, "before, 35 evaluations", 18},
		{run, "after, 1 evaluation", 1},
	} {
		rows, err := o.draw(ctx, w.model, w.name, w.steps)
		if err != nil {
			return err
		}
		picture.Rows = append(picture.Rows, rows...)
	}
	if err := vision.Write(filepath.Join(o.out, "before-after.png"), picture.Draw(), vision.WriteOptions{}); err != nil {
		return err
	}
	if _, err := o.onestepPrints(ctx, "sample", "--model", "builtin", "--steps", "1", "--n", "63", "--columns", "9", "--quiet", "--out", filepath.Join(o.out, "builtin.png")); err != nil {
		return err
	}
	prompts := []string{"generate", "--steps", "4", "--seed", "1", "--quiet", "--out", filepath.Join(o.out, "{prompt}.png")}
	for _, p := range []string{"a smiling cat", "a rocket", "a slice of pizza", "ghost"} {
		prompts = append(prompts, "--prompt", p)
	}
	if _, err := o.onestepPrints(ctx, prompts...); err != nil {
		return err
	}
	return o.report(result.Images)
}

// makeRoom creates the directory; one that exists is renamed.
func makeRoom(dir string) error {
	_, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		old := dir + time.Now().Format("-20060102-150405")
		if err := os.Rename(dir, old); err != nil {
			return err
		}
		log.Printf("the last demo is now in %s", old)
	}
	return os.MkdirAll(dir, 0o777)
}

// draw generates images of all classes with a model, the same seeds for each model.
func (o options) draw(ctx context.Context, model, name string, steps int) (rows []sheet.Row, err error) {
	dir := filepath.Join(o.out, "images", strings.ReplaceAll(name, ", ", "-"))
	if _, err := o.onestepPrints(ctx, "sample", "--model", model, "--steps", strconv.Itoa(steps), "--n", strconv.Itoa(seeds*len(columns)), "--quiet", "--out", dir+"/"); err != nil {
		return nil, err
	}
	for i := range seeds {
		row := sheet.Row{Apart: i == 0}
		if i == seeds/2 {
			row.Name = name
		}
		for j := range columns {
			var img image.Image
			if img, err = vision.Read(filepath.Join(dir, fmt.Sprintf("%06d.png", i*len(columns)+j))); err != nil {
				return nil, err
			}
			row.Cells = append(row.Cells, img)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// onestepPrints runs the tool, whose progress is shown, and returns its output.
func (o options) onestepPrints(ctx context.Context, args ...string) ([]byte, error) {
	var line strings.Builder
	line.WriteString("\n$ " + o.onestep)
	for _, a := range args {
		if strings.ContainsAny(a, " {}") {
			a = strconv.Quote(a)
		}
		line.WriteString(" " + a)
	}
	log.Print(line.String())
	out, _, err := tool.Tool(o.onestep).Show(ctx, args...)
	return out, err
}

func (o options) report(images int64) error {
	dir, err := filepath.Abs(o.out)
	if err != nil {
		return err
	}
	fmt.Printf(`
The images are in %s:
  before-after.png    nine kinds of emoji by a denoiser, in one evaluation of the network and in 35, and by the consistency model that was
                      just trained from it, in one; the seeds are the same
  builtin.png         63 emoji in one evaluation, by the consistency model that ships with onestep
  a_smiling_cat.png   and three more in four evaluations, by the text-to-image model that ships with onestep
`, dir)
	fmt.Printf("The model was trained on %d images in %v.\n", images, o.training)
	return nil
}
