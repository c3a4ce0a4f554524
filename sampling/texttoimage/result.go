package texttoimage

import (
	"context"
	"fmt"
	"image"
	"iter"
	"strconv"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

// Result is a generated image with the settings to reproduce it.
type Result struct {
	Image  image.Image
	Prompt int           // index of the prompt, from 0
	Seed   uint64        // of the image
	Texts  []vision.Text // the settings in A1111's format, for [vision.Write]
}

// Results yields the images of each prompt in turn, N per prompt, with their settings:
//
//	for r, err := range plan.Results(ctx) {
//		// handle err
//		err = vision.Write("cat.png", r.Image, r.Texts, false)
//	}
//
// An error is yielded last. It stops soon after ctx is done.
func (p *Plan) Results(ctx context.Context) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		if p.o.LatentsOnly {
			yield(Result{}, errLatentsOnly)
			return
		}
		for st, err := range p.Run(ctx) {
			if err != nil {
				yield(Result{}, err)
				return
			}
			for i, m := range st.Images {
				if !yield(Result{m, st.Prompts[i], st.Seeds[i], st.Texts(i)}, nil) {
					return
				}
			}
		}
	}
}

// Texts returns the settings of image i in the batch for [vision.Write], in A1111's format. Adapters that are not tags of the prompt are added to
// it, as A1111 names them.
func (st Progress) Texts(i int, adapters ...prompt.LoRA) []vision.Text {
	info := st.Info(i)
	for _, l := range adapters {
		info.Prompt += " " + l.Tag()
	}
	return []vision.Text{{Keyword: infotext.Keyword, Value: info.String()}, {Keyword: "Software", Value: "onestep"}}
}

// Info returns the settings of image i in the batch in the form of A1111's "parameters": prompts, steps, sampler, guidance, seed, size and
// model. The caller may add more, such as adapter files and their hashes.
func (st Progress) Info(i int) infotext.Text {
	p := st.plan
	info := infotext.Text{Prompt: p.prompts[st.Prompts[i]].text, Negative: p.o.Negative}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	info.Add("Steps", strconv.Itoa(p.Steps))
	info.AddSampler(p.Method)
	info.Add("CFG scale", number(p.Guidance))
	info.Add("Seed", strconv.FormatUint(st.Seeds[i], 10))
	info.Add("Size", fmt.Sprintf("%dx%d", p.Width, p.Height))
	info.Add("Model hash", p.o.Model.Hash)
	info.Add("Model", p.o.Model.Name())
	if p.o.Init != nil {
		info.Add("Denoising strength", number(p.Strength))
	}
	if p.o.ClipSkip > 0 {
		info.Add("Clip skip", strconv.Itoa(p.o.ClipSkip+1)) // A1111 counts from 1
	}
	if p.o.VariationStrength > 0 {
		info.Add("Variation seed", strconv.FormatUint(p.o.VariationSeed, 10))
		info.Add("Variation seed strength", number(p.o.VariationStrength))
	}
	info.Add("RNG", "CPU")
	info.Add("Version", "onestep")
	return info
}
