package job

import (
	"context"
	"slices"

	"github.com/onestep-go/onestep/torch"
)

// Generate holds the options for generating images from prompts. Start from [DefaultGenerate]. The JSON names are the keys of an image's metadata.
type Generate struct {
	Opening
	Drawing
	Adding
	Writing

	RawPaths map[string][][]byte `json:"raw_paths,omitempty"` // from image metadata: paths that are not UTF-8, by setting

	foreignSkip int // A1111's Clip skip from image metadata, counted as ClipSkip

	hashing *hashing // hashes of replaced components

	origin  origin
	remarks []string // on image metadata that is not reproduced
}

// DefaultGenerate returns the default options.
func DefaultGenerate() Generate {
	return Generate{Opening: Opening{DType: "f32", Device: "cpu"}, Drawing: Drawing{N: 1, Batch: 1}, Writing: Writing{Out: "onestep-{seed}.png"}}
}

// Generated describes the images written.
type Generated struct {
	Files       []string  `json:"files"`
	Model       string    `json:"model"`
	Kind        string    `json:"kind"`
	Sampler     string    `json:"sampler"`
	Timesteps   []float64 `json:"timesteps"`
	Guidance    float64   `json:"guidance"`
	Evaluations int       `json:"evaluations"` // of the network per image
	Width       int       `json:"width"`
	Height      int       `json:"height"`
	Seed        uint64    `json:"seed"` // of each prompt's first image
	Notices     []string  `json:"notices"`

	Adapters map[string]int `json:"adapters,omitempty"` // modules applied, by adapter file
}

// Run generates and writes the images. Errors that can be found without the weights are reported before they are read. Remarks go to
// note.
func (o Generate) Run(ctx context.Context, progress Progress, note func(string)) (Generated, error) {
	var none Generated
	if err := o.validate(); err != nil {
		return none, err
	}
	dev, err := torch.ParseDevice(o.Device)
	if err != nil {
		return none, usage("--device: %v", err)
	}
	if err := graphsOn(dev, o.Graphs); err != nil {
		return none, err
	}
	if o.Model == "builtin" {
		return none, o.own()
	}
	var ofRuns []string
	if o.LoRAs, ofRuns, err = adaptersOfRuns(o.LoRAs); err != nil {
		return none, err
	}
	var model string
	if o.Model, model, err = modelOfRun("--model", o.Model); err != nil {
		return none, err
	}
	if model != "" {
		ofRuns = append(ofRuns, model)
	}
	o.remarks = append(ofRuns, o.remarks...)
	if err := o.there(o.paths()...); err != nil {
		return none, err
	}
	files, err := o.files()
	if err != nil {
		return none, err
	}
	t, err := o.pipeline()
	if err != nil {
		return none, err
	}
	adapters, err := o.adapters()
	if err != nil {
		return none, err
	}
	defer func() { _ = closeAdapters(adapters) }() // those that were not moved to a cache
	t.Grids, t.Runs = trainedFor(adapters)
	words, err := o.inversions(ctx)
	if err != nil {
		return none, err
	}
	t.Inversions = words.all
	opened, err := o.openFiles(ctx, t)
	defer opened.close()
	if err != nil {
		return none, err
	}
	if err := use(dev, o.Threads, note); err != nil {
		return none, err
	}
	progress(GenerateProgress{Phase: PhaseLoading, What: o.Model, Images: len(files)})
	if err := opened.load(&t, o.options(dev)); err != nil {
		return none, err
	}
	if hash, err := builtinHash(o.Model); err == nil && hash != "" {
		opened.model.Title, opened.model.Hash = o.Model, hash
	}
	if o.Graphs {
		opened.model.UseGraphs(func(err error) { note(withoutGraphs(err)) })
	}
	on, free, err := o.adapt(ctx, &t, adapters)
	defer free()
	if err != nil {
		return none, err
	}
	o.skipAsThere(&t, func(n string) { o.remarks = append(o.remarks, n) })
	is := GenerateProgress{Images: len(files)}
	t.Began = o.began(&is, progress)
	plan, err := t.Plan(o.Prompts...)
	if err != nil {
		return none, o.byOption(err)
	}
	is.Steps = len(plan.Timesteps)
	plan.Notices = slices.Concat(o.remarks, plan.Notices, on.notes(), on.changed(o.LoRAHashes), words.notes, words.changed(o.EmbeddingHashes), on.suits(plan.Method), o.unetSuits(plan.Method))
	o.LoRAHashes, o.EmbeddingHashes = on.hashes, words.hashes
	for _, n := range plan.Notices {
		note(n)
	}
	out := Generated{
		Files: files, Model: o.Model, Kind: t.Model.Kind.String(), Sampler: plan.Method, Timesteps: plan.Timesteps, Guidance: o.guided(plan),
		Evaluations: plan.Evaluations, Width: plan.Width, Height: plan.Height, Seed: *o.Seed, Notices: append([]string{}, plan.Notices...),
		Adapters: on.counts(),
	}
	return out, o.draw(ctx, t.Model, plan, on, out, &is, progress)
}
