package job

import (
	"encoding/json"
	"strings"

	"github.com/onestep-go/onestep/sampling/texttoimage"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

// text is the metadata of image i of a batch: A1111's parameters and all settings.
func (o Generate) text(plan *texttoimage.Plan, on *adapters, st texttoimage.Progress, i int) ([]vision.Text, error) {
	seed := st.Seeds[i]
	one := o
	one.Prompt, one.Seed, one.N = o.Prompts[st.Prompts[i]], &seed, 0
	one.Sampler, one.Guidance, one.Width, one.Height = plan.Method, new(o.guided(plan)), plan.Width, plan.Height
	if one.Timesteps == nil {
		one.Steps = plan.Steps
	}
	if o.SharedNoise {
		one.Seed, one.N, one.Index = o.Seed, o.N, i
	}
	var err error
	if one.PartHashes, err = o.hashing.wait(); err != nil {
		return nil, err
	}
	one.keepPaths()
	settings, err := json.Marshal(one)
	if err != nil {
		return nil, err
	}
	info := st.Info(i)
	var parts infotext.Text
	one.describeParts(&parts)
	info.AddAfter("Model", parts.Fields...)
	files := infotext.Text{Prompt: info.Prompt}
	on.describe(&files)
	if len(o.EmbeddingHashes) > 0 {
		files.Add("TI hashes", strings.Join(o.EmbeddingHashes, ", "))
	}
	info.Prompt = files.Prompt
	info.AddBefore("RNG", files.Fields...)
	return []vision.Text{{Keyword: infotext.Keyword, Value: strings.ToValidUTF8(info.String(), "\ufffd")}, {Keyword: "Software", Value: "onestep"},
		{Keyword: "onestep", Value: string(settings)}}, nil
}
