package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/rundir"
)

// longest is the number of characters after which info cuts what was asked for, such as a prompt; --json has all of it.
const longest = 2000

// informs is what info reads.
const informs = "a model, an adapter, a run's folder, an image, or a folder or archive of training images"

func (a *app) info() *cobra.Command {
	var all bool
	var variant string
	cmd := &cobra.Command{
		Use:   "info FILE|DIR",
		Short: "Tell what a model file, a run's folder or a picture holds",
		Long: `Tell what a safetensors file or index holds (the model it describes, tensors, metadata), which Stable Diffusion a folder or a
checkpoint is, how far a run has come (its folder), or with which settings a picture was drawn (a PNG). "builtin" is the model that ships
with onestep.`,
		Example: `  onestep info runs/fashion
  onestep info model.safetensors --all
  onestep info emoji.png --json`,
		Args: arguments(1, "one file or folder"),
		RunE: func(_ *cobra.Command, args []string) error { return a.inform(args[0], variant, all) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every tensor (--json always does)")
	cmd.Flags().StringVar(&variant, "variant", "", "of a folder's files: fp16 for those with .fp16. in their names; other parts are read without")
	call(cmd.Flags(), "NAME", "variant")
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) inform(path, variant string, all bool) error {
	if path == "builtin" {
		f, err := builtin.File()
		if err != nil {
			return err
		}
		return a.infoModel(f, all)
	}
	if err := job.There(job.Path{Path: path, Want: "a file or folder: " + informs}); err != nil {
		return err
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return a.infoFolder(path, variant, all)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s: want a file or a folder", quote.Path(path))
	}
	for _, magic := range []string{"\x89PNG\r\n\x1a\n", "\xff\xd8\xff", "RIFF"} {
		isPicture, err := startsWith(path, magic)
		if err != nil {
			return err
		}
		if isPicture {
			return a.infoPicture(path)
		}
	}
	if e, ok, err := job.DescribeEmbedding(path); ok {
		if err != nil {
			return err
		}
		return a.print(e, e.String())
	}
	if isZip, err := startsWith(path, "PK\x03\x04"); err != nil || isZip { // a checkpoint of torch.save
		if err != nil {
			return err
		}
		return a.infoSD(path, "")
	}
	return a.openModel(path, all)
}

// sdInfo is what a model of Stable Diffusion holds, as JSON.
type sdInfo struct {
	Kind  string     `json:"kind"` // sd15, sdxl, …
	Path  string     `json:"path"`
	Parts []job.Part `json:"parts"`
}

func (a *app) infoSD(path, variant string) error {
	kind, parts, err := job.Parts(path, variant)
	if err != nil {
		return err
	}
	return a.printSD(path, kind, parts)
}

func (a *app) printSD(path, kind string, parts []job.Part) error {
	return a.print(sdInfo{kind, path, parts}, fmt.Sprintf("%s: Stable Diffusion, %s\n%s", quote.Long(path, longest), kind, partsText(parts)))
}

func partsText(parts []job.Part) string {
	var b strings.Builder
	for _, p := range parts {
		var types []string
		for name, n := range sorted(p.DTypes) {
			types = append(types, fmt.Sprintf("%d %s", n, name))
		}
		fmt.Fprintf(&b, "  %-15s %s, %d elements (%s)\n", quote.Text(p.Name), plural(p.Tensors, "tensor"), p.Elements, strings.Join(types, ", "))
	}
	return b.String()
}

// startsWith tells whether a file begins with these bytes.
func startsWith(path, magic string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, len(magic))
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	return string(head[:n]) == magic, nil
}

func (a *app) infoFolder(path, variant string, all bool) error {
	_, err := os.Stat(filepath.Join(path, "options.json"))
	if err == nil {
		return a.infoRun(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err == nil {
		return a.infoSD(path, variant)
	}
	if kind, parts, err := job.Parts(path, variant); err == nil { // the folder of a part
		return a.printSD(path, kind, parts)
	}
	err = a.openModel(path, all)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: neither a run's folder (it has no options.json) nor one with a model (no .safetensors file)", quote.Path(path))
	}
	return err
}

func (a *app) openModel(path string, all bool) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.infoModel(f, all)
}

// modelInfo is what a safetensors file holds, as JSON.
type modelInfo struct {
	Kind        string                  `json:"kind"` // "consistency model", "denoiser model", "training state" or "weights"
	Path        string                  `json:"path"`
	Elements    int                     `json:"elements"`
	Bytes       int                     `json:"bytes"` // of the tensors
	DTypes      map[string]int          `json:"dtypes"`
	Description *checkpoint.Description `json:"description,omitempty"`
	Diffusion   string                  `json:"diffusion,omitempty"` // which Stable Diffusion it is
	Parts       []job.Part              `json:"parts,omitempty"`     // and of what
	Metadata    map[string]string       `json:"metadata"`
	Tensors     []tensorInfo            `json:"tensors"`
}

type tensorInfo struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
}

func (a *app) infoModel(f *safetensors.File, all bool) error {
	out := modelInfo{Kind: "weights", Path: f.Path(), DTypes: map[string]int{}, Metadata: f.Metadata(), Tensors: []tensorInfo{}}
	for t := range f.Tensors() {
		out.Bytes += len(t.Data)
		out.Elements += len(t.Data) * 8 / t.DType.Bits()
		out.DTypes[string(t.DType)]++
		out.Tensors = append(out.Tensors, tensorInfo{t.Name, string(t.DType), append([]int{}, t.Shape...)})
	}
	d, err := checkpoint.ReadDescription(f.Metadata())
	switch {
	case err == nil:
		out.Kind, out.Description = string(d.Kind)+" model", &d
	case !errors.Is(err, checkpoint.ErrNoDescription):
		return fmt.Errorf("%s: %w", quote.Path(f.Path()), err)
	case out.Metadata["onestep_state"] != "":
		out.Kind = "training state"
	default:
		if got, err := job.InspectLoRA(f.Path(), "", weights.Options{}); err == nil {
			return a.print(got, got.String(all))
		}
		if kind, parts, err := job.Parts(f.Path(), ""); err == nil {
			out.Diffusion, out.Parts = kind, parts
		}
	}
	return a.print(out, out.text(all))
}

func (m modelInfo) text(all bool) string {
	var b strings.Builder
	var types []string
	for name, n := range sorted(m.DTypes) {
		types = append(types, fmt.Sprintf("%d %s", n, name))
	}
	fmt.Fprintf(&b, "%s: %s\n%s, %d elements, %.1f MB (%s)\n", quote.Long(m.Path, longest), quote.Text(m.Kind), plural(len(m.Tensors), "tensor"), m.Elements,
		float64(m.Bytes)/1e6, strings.Join(types, ", "))
	if d := m.Description; d != nil {
		fmt.Fprintf(&b, "method %s on %s, step %d, %d images seen\n", quote.Text(d.Method), quote.Text(d.Data), d.Step, d.Images)
		fmt.Fprintf(&b, "samples %s; %s\n", job.Times(d.Network.Shape()), networkText(d.Network))
		if n := d.Network.Classes(); n > 0 {
			fmt.Fprintf(&b, "%d classes: %s\n", n, quote.Long(strings.Join(quote.Texts(d.ClassNames), ", "), longest))
		}
		if d.Kind == checkpoint.Consistency {
			at, _ := d.Boundary.MarshalText()
			fmt.Fprintf(&b, "identity at %s, ", at)
		}
		fmt.Fprintf(&b, "noise levels %g to %g, sigma_data %g, %s\n", d.SigmaMin, d.SigmaMax, d.SigmaData, formText(d.Form))
		if d.Levels != nil {
			fmt.Fprintf(&b, "drawn in %s of Euler's method, at noise levels %.4g\n", plural(len(d.Levels), "step"), d.Levels)
		}
		if d.Command != "" {
			fmt.Fprintf(&b, "made by: %s\n", quote.Long(d.Command, longest))
		}
	} else {
		if m.Diffusion != "" {
			fmt.Fprintf(&b, "Stable Diffusion, %s\n%s", quote.Text(m.Diffusion), partsText(m.Parts))
		}
		for k, v := range sorted(m.Metadata) {
			fmt.Fprintf(&b, "%s: %s\n", quote.Text(k), quote.Text(v))
		}
	}
	if !all {
		return b.String()
	}
	for _, t := range m.Tensors {
		fmt.Fprintf(&b, "%-60s %-5s %v\n", quote.Text(t.Name), quote.Text(t.DType), t.Shape)
	}
	return b.String()
}

// networkText describes a network in a line.
func networkText(c network.Config) string {
	switch {
	case c.UNet != nil:
		n := c.UNet
		attention := "no attention"
		if len(n.Attention) > 0 {
			attention = fmt.Sprint("attention at ", n.Attention)
		}
		return fmt.Sprintf("U-Net of %d channels ×%v, %s a level, %s", n.Channels, n.Mult, plural(n.Blocks, "block"), attention)
	case c.DiT != nil:
		n := c.DiT
		return fmt.Sprintf("DiT of %s, %d features, patches of %d×%d pixels", plural(n.Depth, "block"), n.Width, n.Patch, n.Patch)
	case c.MLP != nil:
		n := c.MLP
		return fmt.Sprintf("MLP of %s, %d features", plural(n.Depth, "hidden layer"), n.Width)
	}
	return "no network"
}

// formText says what a network predicts.
func formText(f checkpoint.Form) string {
	predict, _ := f.Predict.MarshalText()
	switch f.Type {
	case checkpoint.EDM:
		noise, _ := f.Noise.MarshalText()
		return fmt.Sprintf("noise label %s", noise)
	case checkpoint.DDPM:
		if f.Betas == nil {
			return fmt.Sprintf("ddpm, predicts the %s", predict)
		}
		schedule, _ := f.Betas.Schedule.MarshalText()
		return fmt.Sprintf("ddpm of %d steps, betas %s, predicts the %s", f.Betas.Steps, schedule, predict)
	case checkpoint.VP:
		return fmt.Sprintf("vp, predicts the %s", predict)
	}
	return string(f.Type)
}

// sorted ranges over a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// runInfo is how far a run has come, as JSON.
type runInfo struct {
	Kind      string         `json:"kind"` // "run"
	Path      string         `json:"path"`
	Options   map[string]any `json:"options"`
	Last      map[string]any `json:"last"` // of stats.jsonl; null: nothing yet
	Snapshots []int          `json:"snapshots"`
	States    []int          `json:"states"`
}

func (a *app) infoRun(dir string) error {
	out := runInfo{Kind: "run", Path: dir}
	var err error
	if out.Options, err = rundir.ReadOptions(dir); err != nil {
		return err
	}
	if out.Last, err = lastStats(filepath.Join(dir, "stats.jsonl")); err != nil {
		return err
	}
	if out.Snapshots, err = rundir.Steps(dir, "model"); err != nil {
		return err
	}
	if out.States, err = rundir.Steps(dir, "state"); err != nil {
		return err
	}
	out.Snapshots, out.States = append([]int{}, out.Snapshots...), append([]int{}, out.States...)

	var b strings.Builder
	fmt.Fprintf(&b, "%s: run\n", quote.Long(dir, longest))
	list := func(title string, m map[string]any) {
		if m == nil {
			return
		}
		fmt.Fprintf(&b, "%s:\n", title)
		for k, v := range sorted(m) {
			text, err := json.Marshal(v)
			if err != nil {
				text = []byte(fmt.Sprint(v))
			}
			fmt.Fprintf(&b, "  %-18s %s\n", quote.Text(k), quote.Text(string(text)))
		}
	}
	list("options", out.Options)
	list("last statistics", out.Last)
	steps := func(what string, n []int) {
		if len(n) == 0 {
			fmt.Fprintf(&b, "%ss: none\n", what)
		} else {
			fmt.Fprintf(&b, "%s, the last after step %d\n", plural(len(n), what), n[len(n)-1])
		}
	}
	steps("snapshot", out.Snapshots)
	steps("state", out.States)
	return a.print(out, b.String())
}

// lastStats returns the last whole line of a run's statistics, nil if there is none.
func lastStats(path string) (map[string]any, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const tail = 64 << 10 // longer than any two lines
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		if _, err := f.Seek(-tail, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	for _, line := range slices.Backward(bytes.Split(text, []byte("\n"))) {
		var v map[string]any
		if json.Unmarshal(line, &v) == nil && v != nil {
			return v, nil
		}
	}
	return nil, nil
}

// pictureInfo is what a PNG's text chunks or the EXIF of a JPEG or WebP say, as JSON. Values that are JSON themselves are taken over.
type pictureInfo struct {
	Kind string         `json:"kind"` // "picture"
	Path string         `json:"path"`
	Text map[string]any `json:"text"`
}

func (a *app) infoPicture(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	texts, err := vision.ReadTexts(bufio.NewReader(f))
	if err != nil {
		return fmt.Errorf("%s: %w", quote.Path(path), err)
	}
	out := pictureInfo{Kind: "picture", Path: path, Text: map[string]any{}}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: picture\n", quote.Long(path, longest))
	for _, t := range texts {
		fmt.Fprintf(&b, "%s: %s\n", quote.Text(t.Keyword), quote.Long(t.Value, longest))
		out.Text[t.Keyword] = t.Value
		if json.Valid([]byte(t.Value)) && utf8.ValidString(t.Value) {
			out.Text[t.Keyword] = json.RawMessage(t.Value)
		}
	}
	if len(texts) == 0 {
		b.WriteString("no text that says how it was made\n")
	}
	return a.print(out, b.String())
}
