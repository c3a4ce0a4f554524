// Command table trains the methods on one network and one data set, measures each, and writes docs/results/table.md. What is trained and
// measured is kept in -out, so that an interrupted run resumes: remove a run and its measures there to train it again.
//
//	go run ./scripts/table [-part fashion-mnist|cifar10|precision] [-jobs 2] [-duration 2h]
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
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/sheet"
	"github.com/onestep-go/onestep/scripts/internal/tool"
	"github.com/onestep-go/onestep/torch/vision"
)

func main() {
	log.SetFlags(0)
	t := &table{onestep: "bin/onestep", running: map[string]*trained{}}
	flag.StringVar((*string)(&t.onestep), "onestep", "bin/onestep", "path of the onestep binary")
	flag.StringVar(&t.out, "out", filepath.Join("runs", "table"), "directory of the runs and the measures")
	flag.StringVar(&t.to, "to", filepath.Join("docs", "results"), "directory that gets the table, its data for curves, and the grid of images")
	flag.StringVar(&t.dataDir, "data-dir", "", "further directory of data sets")
	flag.IntVar(&t.n, "n", 2000, "images for each row")
	flag.IntVar(&t.jobs, "jobs", 1, "runs to train at the same time, each with one thread")
	flag.IntVar(&t.steps, "steps", 0, "optimizer steps of each run, in place of the table's")
	flag.StringVar(&t.ect, "ect", "", "clone of github.com/locuslab/ect, for the rows of its authors' loss in PyTorch; empty: without them")
	flag.StringVar(&t.python, "python", "python3", "Python with scripts/requirements-dev.txt, for -ect")
	flag.StringVar(&t.peers, "peers", filepath.Join("..", "shared", "bench", "peers"), "directory of edm_unet.py, for -ect")
	only := flag.String("part", "fashion-mnist", "fashion-mnist or cifar10, or precision, which compares bfloat16 with float32")
	limit := flag.Duration("duration", 0, "stop after about this time, to continue later")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	for _, p := range []part{fashion(), cifar(), precision()} {
		if p.name == *only {
			t.part = p
		}
	}
	if t.name == "" {
		log.Fatalf("-part: want fashion-mnist, cifar10 or precision, got %q", *only)
	}
	t.out = filepath.Join(t.out, t.name)
	if err := t.run(ctx); err != nil {
		log.Fatal(err)
	}
}

// table is one part of the table with what its rows have in common.
type table struct {
	part

	onestep            tool.Tool
	out, to, dataDir   string
	python, peers, ect string // for the run of ECT's authors

	n, jobs, steps int

	mutex   sync.Mutex
	running map[string]*trained
	tickets chan struct{}
}

// trained is a run that is trained once.
type trained struct {
	once sync.Once
	err  error
}

// measured is what the table shows of a row.
type measured struct {
	evaluation.Report
	Evaluations int     `json:"evaluations"`
	Seconds     float64 `json:"cpu_seconds"`
}

// line is a row with what was measured, as the file for curves has it.
type line struct {
	Name        string    `json:"name"`
	Run         string    `json:"run"`
	Evaluations int       `json:"evaluations"`
	FD          float64   `json:"fd"`
	Low         float64   `json:"low"`
	High        float64   `json:"high"`
	KID         float64   `json:"kid"`
	Recall      float64   `json:"recall"`
	Precision   float64   `json:"precision"`
	Seconds     float64   `json:"cpu_seconds_per_image"`
	Images      int       `json:"images_seen"`   // with those of the runs that this one needs
	Own         int       `json:"images_of_run"` // without them
	Minutes     float64   `json:"cpu_minutes"`
	Steps       []int     `json:"curve_steps"`
	Curve       []float64 `json:"curve_fd"`
	Floor       float64   `json:"floor"`
	Published   string    `json:"published,omitempty"`
}

func (t *table) run(ctx context.Context) error {
	if err := t.part.train(t.steps); err != nil {
		return err
	}
	if t.n < 20 || t.jobs < 1 {
		return fmt.Errorf("want -n 20 or more and -jobs 1 or more, got %d and %d", t.n, t.jobs)
	}
	t.tickets = make(chan struct{}, t.jobs)
	if t.ect == "" {
		t.runs = slices.DeleteFunc(t.runs, func(r run) bool { return r.authors })
		t.rows = slices.DeleteFunc(t.rows, func(r row) bool { return r.run == authors })
	}
	lines := make([]*line, len(t.rows))
	var group sync.WaitGroup
	var failed []error
	for _, r := range t.runs { // in the order of the runs, so that the first rows are complete early
		group.Go(func() {
			err := t.train(ctx, r.name)
			for i, row := range t.rows {
				if err != nil || row.run != r.name {
					continue
				}
				var l *line
				if l, err = t.line(ctx, row); err == nil {
					lines[i] = l
				}
			}
			if err != nil {
				t.mutex.Lock()
				failed = append(failed, fmt.Errorf("%s: %w", r.name, err))
				t.mutex.Unlock()
			}
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		failed = []error{errors.New("stopped before the end; the same command continues")}
	}
	lines = slices.DeleteFunc(lines, func(l *line) bool { return l == nil })
	if len(lines) > 0 {
		failed = append(failed, t.write(lines))
	}
	return errors.Join(failed...)
}

// take waits for a place among the jobs.
func (t *table) take(ctx context.Context) error {
	select {
	case t.tickets <- struct{}{}:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// train trains a run and those that it needs.
func (t *table) train(ctx context.Context, name string) error {
	t.mutex.Lock()
	it := t.running[name]
	if it == nil {
		it = &trained{}
		t.running[name] = it
	}
	t.mutex.Unlock()
	it.once.Do(func() { it.err = t.trainOnce(ctx, name) })
	return it.err
}

func (t *table) trainOnce(ctx context.Context, name string) error {
	r := t.runOf(name)
	args := []string{"train", "--out", filepath.Join(t.out, name), "--resume", "--data", t.data, "--seed", "1", "--threads", "1",
		"--steps", strconv.Itoa(t.stepsOf(r)), "--save-every", strconv.Itoa(t.every()), "--sample-every", "0"}
	if t.dataDir != "" {
		args = append(args, "--data-dir", t.dataDir)
	}
	args = append(args, t.common...)
	if r.authors {
		args = nil
	}
	for _, a := range r.args {
		if from, ok := strings.CutPrefix(a, "@"); ok {
			if err := t.train(ctx, from); err != nil {
				return fmt.Errorf("it needs %s, which failed", from)
			}
			a = t.snapshot(from, 0)
		}
		args = append(args, a)
	}
	if r.authors {
		return t.trainAuthors(ctx, r, args[len(args)-1])
	}
	if _, err := os.Stat(t.snapshot(name, 0)); err == nil {
		return nil
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	defer func() { <-t.tickets }()
	log.Printf("%s: onestep %s", time.Now().Format("15:04"), strings.Join(args, " "))
	_, took, err := t.onestep.Show(ctx, args...)
	return errors.Join(err, t.spend(name, took))
}

// trainAuthors trains by the loss of ECT's authors, from a teacher, and generates images.
func (t *table) trainAuthors(ctx context.Context, r run, teacher string) error {
	out := filepath.Join(t.out, r.name)
	if files, err := filepath.Glob(filepath.Join(out, "images-2", "*.png")); err != nil || len(files) == t.n {
		return err
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	defer func() { <-t.tickets }()
	const data = "/usr/share/datasets/fashion-mnist/train-" // of Debian's package dataset-fashion-mnist
	log.Printf("%s: %s", time.Now().Format("15:04"), r.name)
	_, took, err := tool.Tool(t.python).Show(ctx, filepath.Join("scripts", "table", "peer.py"), "--code", t.ect, "--peers", t.peers, "--init", teacher, "--resume",
		"--images", data+"images-idx3-ubyte.gz", "--labels", data+"labels-idx1-ubyte.gz", "--steps", strconv.Itoa(t.stepsOf(r)), "--n", strconv.Itoa(t.n), "--out", out)
	return errors.Join(err, t.spend(r.name, took))
}

// every is the number of steps between snapshots, each of which is a point of the curve. Progressive distillation's stages end at snapshots.
func (p part) every() int { return p.steps / snapshots }

const snapshots = 7

// train sets another number of optimizer steps; 0: the part's. Rows of a snapshot on the way are of the same part of the run.
func (p *part) train(steps int) error {
	if steps == 0 {
		return nil
	}
	if steps < snapshots {
		return fmt.Errorf("want -steps %d or more, a step for each snapshot, got %d", snapshots, steps)
	}
	was := p.every()
	p.steps = steps
	for i := range p.rows {
		p.rows[i].step = p.rows[i].step / was * p.every()
	}
	return nil
}

func (t *table) runOf(name string) run {
	i := slices.IndexFunc(t.runs, func(r run) bool { return r.name == name })
	return t.runs[i]
}

func (t *table) stepsOf(r run) int {
	if r.half {
		return t.part.steps / 2
	}
	return t.part.steps
}

// snapshot is the path of a run's snapshot; step 0 is the last.
func (t *table) snapshot(name string, step int) string {
	if step == 0 {
		step = t.stepsOf(t.runOf(name))
	}
	return filepath.Join(t.out, name, fmt.Sprintf("model-%07d.safetensors", step))
}

// spend adds processor time to that of a run.
func (t *table) spend(name string, took time.Duration) error {
	path := t.spentPath(name)
	spent, err := tool.Once(path, func() (time.Duration, error) { return 0, nil })
	if err != nil {
		return err
	}
	text, err := json.Marshal(spent + took)
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, atomicfile.Options{Overwrite: true}, text)
}

func (t *table) spentPath(name string) string {
	return filepath.Join(t.out, "eval", name+"-spent.json")
}

// budget is the number of images that a run has seen itself, and with the runs that it needs, and the processor time of all of them.
func (t *table) budget(name string) (own, images int, spent time.Duration, err error) {
	r := t.runOf(name)
	batch, err := strconv.Atoi(t.common[slices.Index(t.common, "--batch")+1])
	if err != nil {
		return 0, 0, 0, err
	}
	own = t.stepsOf(r) * batch
	images = own
	if spent, err = tool.Once(t.spentPath(name), func() (time.Duration, error) { return 0, nil }); err != nil {
		return 0, 0, 0, err
	}
	for _, a := range r.args {
		if from, ok := strings.CutPrefix(a, "@"); ok {
			_, n, more, err := t.budget(from)
			if err != nil {
				return 0, 0, 0, err
			}
			images, spent = images+n, spent+more
		}
	}
	return own, images, spent, nil
}

// sampling are the arguments of sample and eval for a row.
func (t *table) sampling(r row) []string {
	if r.run == authors {
		return []string{"--images", filepath.Join(t.out, r.run, fmt.Sprintf("images-%d", r.evaluations)), "--threads", "1", "--quiet"}
	}
	return append([]string{"--model", t.snapshot(r.run, r.step), "--seed", "1", "--threads", "1", "--quiet"}, r.args...)
}

// line measures a row, unless that was done already.
func (t *table) line(ctx context.Context, r row) (*line, error) {
	if err := t.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-t.tickets }()
	name := fmt.Sprintf("%s-%d", r.run, r.evaluations)
	got, err := tool.Once(filepath.Join(t.out, "eval", fmt.Sprintf("%s-of-%d.json", name, t.n)), func() (got measured, err error) {
		log.Printf("%s: %s, %d evaluations", time.Now().Format("15:04"), r.name, r.evaluations)
		if err = t.eval(ctx, &got, t.n, t.sampling(r)); err != nil {
			return got, err
		}
		if r.run == authors {
			got.Evaluations = r.evaluations
			return got, nil
		}
		got.Seconds, err = t.onestep.PerImage(ctx, func(n int, dir string) []string {
			return append([]string{"sample", "--n", strconv.Itoa(n), "--out", dir}, t.sampling(r)...)
		})
		return got, err
	})
	if err != nil {
		return nil, err
	}
	if got.Evaluations != r.evaluations {
		return nil, fmt.Errorf("want %d evaluations of the network, %s has %d", r.evaluations, name, got.Evaluations)
	}
	own, images, spent, err := t.budget(r.run)
	if err != nil {
		return nil, err
	}
	l := &line{
		Name: r.name, Run: r.run, Evaluations: r.evaluations, FD: got.Generated.Frechet, Low: got.Interval.Low, High: got.Interval.High,
		KID: got.Generated.Kernel, Precision: got.Generated.Precision, Recall: got.Generated.Recall, Seconds: got.Seconds, Images: images, Own: own,
		Minutes: spent.Minutes(), Floor: got.Floor.Frechet, Published: r.published,
	}
	if r.evaluations > 1 || r.step != 0 || r.run == authors || t.byLoss { // the curve is that of one evaluation
		return l, nil
	}
	for step := t.every(); step <= t.stepsOf(t.runOf(r.run)); step += t.every() {
		at, err := tool.Once(filepath.Join(t.out, "eval", fmt.Sprintf("%s-at-%d.json", name, step)), func() (got measured, err error) {
			at := r
			at.step = step
			return got, t.eval(ctx, &got, curveImages, t.sampling(at))
		})
		if err != nil {
			return nil, err
		}
		l.Steps, l.Curve = append(l.Steps, step), append(l.Curve, at.Generated.Frechet)
	}
	return l, nil
}

// curveImages is the number of images for a point of a curve.
const curveImages = 500

func (t *table) eval(ctx context.Context, got *measured, n int, sampling []string) error {
	args := []string{"eval", "--data", t.data, "--n", strconv.Itoa(n), "--json"}
	if t.dataDir != "" {
		args = append(args, "--data-dir", t.dataDir)
	}
	text, _, err := t.onestep.Run(ctx, append(args, sampling...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, got)
}

// write writes the table, the grid of images and the data for curves.
func (t *table) write(lines []*line) error {
	var grid sheet.Sheet
	for i, l := range lines {
		cells, err := t.draw(t.rowOf(l))
		if err != nil {
			return err
		}
		grid.Rows = append(grid.Rows, sheet.Row{Name: fmt.Sprintf("%s, %d", l.Name, l.Evaluations), Cells: cells, Apart: i > 0 && l.Run != lines[i-1].Run})
	}
	grid.Columns = make([]string, gridColumns)
	path := filepath.Join(t.to, "table-"+t.name)
	text, err := json.MarshalIndent(lines, "", "  ")
	return errors.Join(err,
		vision.Write(path+".png", grid.Draw(), vision.WriteOptions{Overwrite: true}),
		atomicfile.WriteBytes(path+".json", atomicfile.Options{Overwrite: true}, append(text, '\n')),
		atomicfile.WriteBytes(path+".md", atomicfile.Options{Overwrite: true}, []byte(t.text(lines))))
}

const gridColumns = 10

func (t *table) rowOf(l *line) row {
	return t.rows[slices.IndexFunc(t.rows, func(r row) bool { return r.run == l.Run && r.evaluations == l.Evaluations })]
}

// draw generates an image of each class.
func (t *table) draw(r row) (all []image.Image, err error) {
	dir := filepath.Join(t.out, "images", fmt.Sprintf("%s-%d", r.run, r.evaluations))
	if r.run == authors {
		return read(filepath.Join(t.out, r.run, fmt.Sprintf("images-%d", r.evaluations)))
	}
	args := append([]string{"sample", "--n", strconv.Itoa(gridColumns), "--overwrite", "--out", dir + "/"}, t.sampling(r)...)
	if _, _, err := t.onestep.Run(context.Background(), args...); err != nil {
		return nil, err
	}
	return read(dir)
}

// read reads the first images of a directory.
func read(dir string) (all []image.Image, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.png"))
	if err != nil {
		return nil, err
	}
	for _, file := range files[:min(gridColumns, len(files))] {
		img, err := vision.Read(file)
		if err != nil {
			return nil, err
		}
		all = append(all, img)
	}
	return all, nil
}
