package main

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/number"
	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

func (a *app) openModel(path string, all bool) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.infoModel(f, all)
}

// modelInfo describes a safetensors file, as JSON.
type modelInfo struct {
	Kind        string                  `json:"kind"` // "consistency model", "denoiser model", "training checkpoint" or "weights"
	Path        string                  `json:"path"`
	Elements    int                     `json:"elements"`
	Bytes       int                     `json:"bytes"` // of the tensors
	DTypes      map[string]int          `json:"dtypes"`
	Description *checkpoint.Description `json:"description,omitempty"`
	Notices     []string                `json:"notices,omitempty"`   // what was assumed about another program's file
	Diffusion   string                  `json:"diffusion,omitempty"` // kind of Stable Diffusion model
	Parts       []job.Part              `json:"parts,omitempty"`     // and its components
	Parameters  int                     `json:"parameters,omitempty"`
	job.Configured
	Metadata map[string]string `json:"metadata"`
	Tensors  []tensorInfo      `json:"tensors"`
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
	d, err := checkpoint.ParseDescription(f.Metadata())
	switch {
	case err == nil:
		out.Kind, out.Description = string(d.Kind)+" model", &d
	case !errors.Is(err, checkpoint.ErrNoDescription):
		return fmt.Errorf("%s: %w", quote.Path(f.Path()), err)
	case out.Metadata["onestep_state"] != "":
		out.Kind = "training checkpoint"
	case out.imported(f.Path()):
	default:
		if got, err := job.InspectLoRA(f.Path(), "", weights.Options{}, nil); err == nil {
			return a.print(got, got.String(all))
		}
		if got, err := job.DescribeDiffusion(f.Path(), ""); err == nil {
			out.Diffusion, out.Parts, out.Parameters, out.Configured = got.Kind, got.Parts, got.Parameters, got.Configured
		}
	}
	return a.print(out, out.text(all))
}

// add adds a tensor.
func (m *modelInfo) add(name string, d torch.DType, shape []int) {
	n := 1
	for _, size := range shape {
		n *= size
	}
	m.Bytes, m.Elements = m.Bytes+n*d.Size(), m.Elements+n
	m.DTypes[d.String()]++
	m.Tensors = append(m.Tensors, tensorInfo{name, d.String(), append([]int{}, shape...)})
}

// infoContents describes a model in a directory of diffusers.
func (a *app) infoContents(c checkpoint.Contents, all bool) error {
	d := c.Description
	out := modelInfo{Kind: string(d.Kind) + " model", Path: c.Path, DTypes: map[string]int{}, Description: &d, Notices: c.Notices, Metadata: map[string]string{}, Tensors: []tensorInfo{}}
	for _, t := range c.Tensors {
		out.add(t.Name, t.DType, t.Shape)
	}
	return a.print(out, out.text(all))
}

// imported describes a model in a file of another program, if it is one.
func (m *modelInfo) imported(path string) bool {
	d, notices, err := checkpoint.Inspect(path)
	switch {
	case err == nil:
		m.Kind, m.Description, m.Notices = string(d.Kind)+" model", &d, notices
	case errors.Is(err, checkpoint.ErrNoDescription), errors.Is(err, checkpoint.ErrNoSnapshot):
		return false
	default: // it is one, but something is missing
		m.Notices = []string{err.Error()}
	}
	return true
}

// infoSaved describes a file of torch.save if it holds a pixel-space model; ok is false if it does not.
func (a *app) infoSaved(path string, all bool) (ok bool, err error) {
	f, err := checkpoint.OpenSaved(path)
	if err != nil {
		return false, nil // what is wrong is said by what else may read it
	}
	defer f.Close()
	out := modelInfo{Kind: "weights", Path: path, DTypes: map[string]int{}, Metadata: map[string]string{}, Tensors: []tensorInfo{}}
	if !out.imported(path) {
		return false, nil
	}
	for name := range f.Names() {
		shape, d, _ := f.Info(name)
		out.add(name, d, shape)
	}
	return true, a.print(out, out.text(all))
}

func (m modelInfo) text(all bool) string {
	var b strings.Builder
	var types []string
	for name, n := range sorted(m.DTypes) {
		types = append(types, fmt.Sprintf("%d %s", n, name))
	}
	fmt.Fprintf(&b, "%s: %s\n%s, %s, %.1f MB (%s)\n", quote.Long(m.Path, longest), quote.Text(m.Kind), plural.N(len(m.Tensors), "tensor"), plural.N(m.Elements, "element"),
		float64(m.Bytes)/1e6, strings.Join(types, ", "))
	if d := m.Description; d != nil {
		if d.Layout != "" {
			fmt.Fprintf(&b, "weights by the names of %s (layout %s)\n", d.Layout.Name(), d.Layout)
		}
		if d.Layout == "" && d.Method != "" || d.Step > 0 {
			fmt.Fprintf(&b, "method %s", quote.Text(d.Method))
			if d.Data != "" || d.Step > 0 { // not known of a model that was converted
				fmt.Fprintf(&b, " on %s, step %d, %s seen", quote.Text(d.Data), d.Step, plural.N(d.Images, "image"))
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "samples %s; %s\n", number.Shape(d.Network.Shape()), d.Network.Summary())
		if n := d.Network.Classes(); n > 0 {
			names := ""
			if d.ClassNames != nil {
				names = ": " + quote.Long(strings.Join(quote.Texts(d.ClassNames), ", "), longest)
			}
			fmt.Fprintf(&b, "%s%s\n", plural.N(n, "class"), names)
		}
		if d.Kind == checkpoint.Consistency {
			at, _ := d.Boundary.MarshalText()
			fmt.Fprintf(&b, "identity at %s, ", at)
		}
		fmt.Fprintf(&b, "noise levels %s to %s, sigma_data %s, %s\n", number.Short(d.SigmaMin), number.Short(d.SigmaMax), number.Short(d.SigmaData), d.Form.Summary())
		if d.Levels != nil {
			fmt.Fprintf(&b, "sampled in %s of Euler's method, at noise levels %.4g\n", plural.N(len(d.Levels), "step"), d.Levels)
		}
		if class := d.SchedulerClass(); class != "" {
			fmt.Fprintf(&b, "diffusers' scheduler: %s\n", quote.Text(class))
		}
		if d.Command != "" {
			fmt.Fprintf(&b, "made by: %s\n", quote.Long(d.Command, longest))
		}
	} else {
		if m.Diffusion != "" {
			fmt.Fprintf(&b, "Stable Diffusion, %s\n%s", quote.Text(m.Diffusion), diffusionText(job.Diffusion{Kind: m.Diffusion, Parts: m.Parts, Parameters: m.Parameters, Configured: m.Configured}))
		}
		for k, v := range sorted(m.Metadata) {
			fmt.Fprintf(&b, "%s: %s\n", quote.Text(k), quote.Text(v))
		}
	}
	for _, n := range m.Notices {
		fmt.Fprintf(&b, "note: %s\n", quote.Long(n, longest))
	}
	if !all {
		return b.String()
	}
	for _, t := range m.Tensors {
		fmt.Fprintf(&b, "%-60s %-5s %v\n", quote.Text(t.Name), quote.Text(t.DType), t.Shape)
	}
	return b.String()
}

// sorted iterates over a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// sdInfo describes a Stable Diffusion model, as JSON.
type sdInfo struct {
	Path string `json:"path"`
	job.Diffusion
}

func (a *app) infoSD(path, variant string) error {
	got, err := job.DescribeDiffusion(path, variant)
	if err != nil {
		return err
	}
	return a.printSD(path, got)
}

func (a *app) printSD(path string, got job.Diffusion) error {
	return a.print(sdInfo{path, got}, fmt.Sprintf("%s: Stable Diffusion, %s\n%s", quote.Long(path, longest), quote.Text(got.Kind), diffusionText(got)))
}

// diffusionText describes a Stable Diffusion model in lines.
func diffusionText(d job.Diffusion) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-15s %s\n", name, fmt.Sprintf(format, args...))
	}
	for _, p := range d.Parts {
		var types []string
		for name, n := range sorted(p.DTypes) {
			types = append(types, fmt.Sprintf("%d %s", n, name))
		}
		line(quote.Text(p.Name), "%s, %s parameters (%s)", plural.N(p.Tensors, "tensor"), shortCount(p.Elements), strings.Join(types, ", "))
	}
	if len(d.Parts) > 1 {
		line("total", "%s parameters", shortCount(d.Parameters))
	}
	if d.Prediction != "" {
		text := d.Prediction
		if d.ZeroSNR {
			text += ", with zero terminal SNR"
		}
		line("prediction", "%s", quote.Text(text))
	}
	if d.Scheduler != "" {
		text := quote.Text(d.Scheduler)
		if d.Spacing != "" {
			text += ", " + quote.Text(d.Spacing) + " timesteps"
		}
		line("scheduler", "%s; default sampler %s", text, d.Sampler)
	}
	if d.Width > 0 {
		line("image size", "%d×%d pixels", d.Width, d.Height)
	}
	if d.Inpainting {
		line("input", "an inpainting model: takes --init-image and --mask")
	}
	if d.GuidanceEmbedding {
		scales := ""
		if s := d.GuidanceScales; s != nil {
			scales = fmt.Sprintf("; trained with scales from %.4g to %.4g", s[0], s[1])
		}
		line("guidance", "guidance-distilled: the guidance scale is an input of the network%s", scales)
	}
	for _, n := range d.Notices {
		line("note", "%s", quote.Long(n, longest))
	}
	return b.String()
}

// shortCount writes a parameter count in a few digits: 813652 as 813.7 k, 859520964 as 859.5 M.
func shortCount(n int) string {
	v := float64(n)
	for _, unit := range []string{"", " k", " M", " G"} {
		if v < 999.95 || unit == " G" {
			if unit == "" {
				return fmt.Sprint(n)
			}
			return fmt.Sprintf("%.1f%s", v, unit)
		}
		v /= 1000
	}
	return ""
}
