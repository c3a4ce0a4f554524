package job

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/training/rundir"
)

// Values of --lora-apply.
const (
	applyRuntime = "runtime"
	applyMerge   = "merge"
)

// LoRAApplies lists the values of --lora-apply.
func LoRAApplies() []string { return []string{applyRuntime, applyMerge} }

// idle remarks on adapter options that have no effect without an adapter.
func (o *Generate) idle() {
	if len(o.LoRAs) == 0 && (o.LoRADir == "" || o.Plain) {
		if o.LoRAPartial {
			o.remarks = append(o.remarks, "--lora-partial has no effect: there is no adapter")
		}
		if o.LoRAApply == applyMerge {
			o.remarks = append(o.remarks, "--lora-apply has no effect: there is no adapter")
		}
	}
	if o.Plain && o.LoRADir != "" {
		o.remarks = append(o.remarks, "--lora-dir has no effect: with --plain prompts have no tags")
	}
}

// adapter is the value of one --lora: a file and its scales.
type adapter struct {
	file    string
	weights lora.Weights

	open *lora.File // until a cache takes it
}

// parseAdapter reads FILE[=WEIGHT[,BLOCK:WEIGHT…]].
func parseAdapter(text string) (adapter, error) {
	a := adapter{file: text, weights: lora.Weights{"": 1}}
	i := strings.LastIndexByte(text, '=')
	if _, err := os.Stat(text); err == nil || (i < 0 && text != "") { // a file name may contain an equals sign
		return a, nil
	}
	if i <= 0 {
		return a, usage("--lora: want FILE or FILE=WEIGHT, got %s", quote.Quoted(text))
	}
	a.file, a.weights = text[:i], lora.Weights{}
	for j, word := range strings.Split(text[i+1:], ",") {
		block, number, found := strings.Cut(word, ":")
		if !found {
			block, number = "", word
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || (!found && j > 0) {
			return a, usage("--lora: want FILE, FILE=WEIGHT or FILE=WEIGHT,BLOCK:WEIGHT, such as lcm.safetensors=0.8,text_encoder:0, got %s", quote.Quoted(text))
		}
		if block = strings.TrimSpace(block); found && block == "" {
			return a, usage("--lora: %s: want a block before each colon, such as text_encoder:0", quote.Quoted(text))
		}
		if _, twice := a.weights[block]; twice {
			return a, usage("--lora: %s: the block %s has two weights", quote.Quoted(text), block)
		}
		a.weights[block] = v
	}
	return a, nil
}

// adapters are the adapters of a run: those that are loaded, and how prompt tags find more.
type adapters struct {
	cache  *lora.Cache
	named  bool // the cache has a directory to look for names in
	loaded []*lora.Adapter
	held   []func()
	hashes []string // name: hash, of loaded
	tags   string   // as A1111 writes them into the prompt

	mentions func(word string) bool // whether a word is in a prompt
	words    []sd.Inversion         // of all prompts
	remarks  []string               // on embeddings bundled with adapters
}

// remark adds a remark, once.
func (on *adapters) remark(text string) {
	if !slices.Contains(on.remarks, text) {
		on.remarks = append(on.remarks, text)
	}
}

// parsedAdapters reads the flags.
func (o Generate) parsedAdapters() (all []adapter, err error) {
	for _, text := range o.LoRAs {
		a, err := parseAdapter(text)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// adapters opens the adapters of the flags before any model is read, so that a file that is not an adapter is refused early.
func (o Generate) adapters() (all []adapter, err error) {
	if all, err = o.parsedAdapters(); err != nil {
		return nil, err
	}
	for i, a := range all {
		if err = o.there(Path{"--lora", a.file, wantAdapter, Either}); err == nil {
			if all[i].open, err = lora.Open(a.file); err != nil {
				err = fmt.Errorf("--lora: %w", err)
			}
		}
		if err != nil {
			return nil, errors.Join(err, closeAdapters(all))
		}
	}
	return all, nil
}

// trainedFor are the grids of timesteps that the open adapters were distilled on, and the runs that made them, of those with a scale.
func trainedFor(all []adapter) (grids []int, runs []sd.AdapterRun) {
	for _, a := range all {
		for _, scale := range a.weights {
			if scale != 0 {
				grids, runs = append(grids, a.open.OriginalSteps()), append(runs, a.open.Run())
				break
			}
		}
	}
	return grids, runs
}

// closeAdapters closes the files that are open.
func closeAdapters(all []adapter) (err error) {
	for _, a := range all {
		if a.open != nil {
			err = errors.Join(err, a.open.Close())
		}
	}
	return err
}

// adapt loads the adapters onto the model and adds them to the pipeline. The function that it returns frees them.
func (o Generate) adapt(ctx context.Context, t *texttoimage.Pipeline, all []adapter) (*adapters, func(), error) {
	on := &adapters{
		cache: lora.NewCache(t.Model, lora.CacheOptions{Dir: o.LoRADir, Options: lora.Options{Partial: o.LoRAPartial}}), named: o.LoRADir != "",
		mentions: o.mentions, words: t.Inversions,
	}
	free := func() {
		if o.LoRAApply == applyMerge {
			_ = lora.Merge(t.Model, nil)
		}
		for _, release := range on.held {
			release()
		}
		_ = on.cache.Close() // files that were only read
	}
	for i, a := range all {
		file := a.open
		all[i].open = nil
		one, err := on.hold(ctx, func() (*lora.Adapter, func(), error) { return on.cache.Add(ctx, file) })
		if err != nil {
			return on, free, fmt.Errorf("--lora: %w", err)
		}
		if err := one.Check(a.weights); err != nil {
			return on, free, fmt.Errorf("--lora: %s: %w", quote.Path(a.file), err)
		}
		t.Adapters = t.Adapters.And(one.By(a.weights))
		words, err := on.bundled(one)
		if err != nil {
			return on, free, fmt.Errorf("--lora: %w", err)
		}
		on.words = slices.Concat(on.words, words)
		if len(a.weights) == 1 {
			on.tags += fmt.Sprintf("<lora:%s:%s>", adapterName(a.file), strconv.FormatFloat(a.weights[""], 'g', -1, 64))
		}
	}
	t.Inversions = on.words
	if o.LoRAApply == applyMerge {
		if err := lora.Merge(t.Model, t.Adapters); err != nil {
			return on, free, err
		}
		t.Adapters = nil
	}
	t.Tagged = func(tags []prompt.LoRA) (sd.Adaptation, error) { return on.tagged(ctx, tags) }
	return on, free, nil
}

// hold loads an adapter into the cache and keeps it there until generation ends.
func (on *adapters) hold(ctx context.Context, load func() (*lora.Adapter, func(), error)) (*lora.Adapter, error) {
	a, release, err := load()
	if err != nil {
		return nil, partly(err, "--lora-partial")
	}
	on.held = append(on.held, release)
	if slices.Contains(on.loaded, a) {
		return a, nil
	}
	hash, err := adapterHash(ctx, a.File().Tensors)
	if err != nil {
		return nil, err
	}
	on.loaded = append(on.loaded, a)
	on.hashes = append(on.hashes, nameOf(a)+": "+hash)
	return a, nil
}

// tagged returns the adapters that a prompt's tags name, and the embeddings bundled with them.
func (on *adapters) tagged(ctx context.Context, tags []prompt.LoRA) (all sd.Adaptation, err error) {
	own := on.words
	defer func() { on.words = own }() // the words hold in this prompt alone
	for _, tag := range tags {
		if !on.named {
			return all, fmt.Errorf("its tag names the adapter %s: pass --lora-dir, the directory of adapters, or remove the tag", quote.Quoted(tag.Name))
		}
		a, err := on.hold(ctx, func() (*lora.Adapter, func(), error) { return on.cache.Named(ctx, tag.Name) })
		if err != nil {
			return all, err
		}
		all.Adapters = all.Adapters.And(a.By(lora.Weights{"": tag.Text, "unet": tag.Weight}))
		if tag.Weight != 0 {
			a.TrainedFor(&all)
		}
		more, err := on.bundled(a)
		if err != nil {
			return all, err
		}
		on.words, all.Inversions = slices.Concat(on.words, more), append(all.Inversions, more...)
	}
	return all, nil
}

// adapterName is a file's name without its extension, or of a run's best snapshot the run's name, by which --lora-dir finds it.
func adapterName(file string) string {
	file = filepath.Clean(file)
	if dir := filepath.Dir(file); filepath.Base(file) == rundir.BestName {
		if run, _, _ := ofRun(dir); run == file {
			if name, err := filepath.Abs(dir); err == nil {
				return filepath.Base(name)
			}
		}
	}
	name := filepath.Base(file)
	return strings.TrimSuffix(name, filepath.Ext(name))
}

// nameOf is the name of an adapter's file.
func nameOf(a *lora.Adapter) string { return adapterName(a.File().Path) }

// describe adds the adapters to an image's metadata as A1111 writes them.
func (on *adapters) describe(info *infotext.Text) {
	if on == nil || len(on.hashes) == 0 {
		return
	}
	if on.tags != "" {
		info.Prompt += " " + on.tags
	}
	info.Add("Lora hashes", strings.Join(on.hashes, ", "))
}

// fewStep lists few-step adapters and U-Nets, by parts of their names, with the samplers they were distilled for; other samplers give bad images.
var fewStep = []struct {
	name     string
	samplers []string
	hint     string
}{
	{"lcm", []string{"lcm", "tcd"}, "--sampler lcm --steps 4 --guidance 1"},
	{"dmd2", []string{"lcm"}, "--sampler lcm --timesteps 999,749,499,249 --guidance 1"},
	{"tcd", []string{"tcd"}, "--sampler tcd --steps 4 --guidance 1"},
	{"pcm_", []string{"tcd", "lcm", "ddim"}, "--sampler tcd --steps 4 --guidance 1"},
	{"lightning", []string{"euler_trailing"}, "--sampler euler --spacing trailing --guidance 1, with as many steps as its name says"},
	{"hyper-sd", []string{"ddim", "tcd", "lcm"}, "--sampler ddim --guidance 1, or tcd for the unified ones"},
}

// wants reports whether a file of that name needs another sampler, and which.
func wants(name, sampler string) (hint string, ok bool) {
	for _, f := range fewStep {
		if strings.Contains(strings.ToLower(name), f.name) {
			return f.hint, !slices.Contains(f.samplers, sampler)
		}
	}
	return "", false
}

// suits remarks on few-step adapters that are used with another sampler than theirs.
func (on *adapters) suits(sampler string) (notes []string) {
	for _, a := range on.loaded {
		if hint, ok := wants(nameOf(a), sampler); ok {
			notes = append(notes, fmt.Sprintf("the adapter %s seems to be made for %s; the sampler here is %s", quote.Text(nameOf(a)), hint, sampler))
		}
	}
	return notes
}

// counts returns how many modules each adapter has on the model.
func (on *adapters) counts() map[string]int {
	of := map[string]int{}
	for _, a := range on.loaded {
		of[a.File().Path] = len(a.Modules)
	}
	return of
}

// changed lists the adapters of an image's metadata that are missing here or have another hash. They may have other names: a run's best snapshot
// is named after the run, also where its file was named before.
func (on *adapters) changed(before []string) (notes []string) {
	hash := func(text string) string { return text[strings.LastIndexByte(text, ' ')+1:] }
	for _, b := range before {
		if !slices.ContainsFunc(on.hashes, func(now string) bool { return hash(now) == hash(b) }) {
			notes = append(notes, fmt.Sprintf("the image was generated with an adapter (name and hash %s) that is not used, or has changed since", b))
		}
	}
	return notes
}
