package webui

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// info is what A1111 says of the images, as JSON in a string. Notices are ours.
type info struct {
	Prompt          string            `json:"prompt"`
	AllPrompts      []string          `json:"all_prompts"`
	Negative        string            `json:"negative_prompt"`
	AllNegatives    []string          `json:"all_negative_prompts"`
	Seed            uint64            `json:"seed"`
	AllSeeds        []uint64          `json:"all_seeds"`
	Subseed         uint64            `json:"subseed"`
	AllSubseeds     []uint64          `json:"all_subseeds"`
	SubseedStrength float64           `json:"subseed_strength"`
	Width           int               `json:"width"`
	Height          int               `json:"height"`
	Sampler         string            `json:"sampler_name"`
	Guidance        float64           `json:"cfg_scale"`
	Steps           int               `json:"steps"`
	Batch           int               `json:"batch_size"`
	RestoreFaces    bool              `json:"restore_faces"`
	FaceModel       *string           `json:"face_restoration_model"`
	Model           string            `json:"sd_model_name"`
	ModelHash       *string           `json:"sd_model_hash"`
	VAE             *string           `json:"sd_vae_name"`
	VAEHash         *string           `json:"sd_vae_hash"`
	SeedFromW       int               `json:"seed_resize_from_w"`
	SeedFromH       int               `json:"seed_resize_from_h"`
	Strength        *float64          `json:"denoising_strength"`
	Extra           map[string]string `json:"extra_generation_params"`
	First           int               `json:"index_of_first_image"` // there is no grid before it
	Texts           []string          `json:"infotexts"`
	Styles          []string          `json:"styles"`
	Timestamp       string            `json:"job_timestamp"`
	ClipSkip        int               `json:"clip_skip"`
	Inpaints        bool              `json:"is_using_inpainting_conditioning"`
	Version         string            `json:"version"`
	Notices         []string          `json:"notices"`
}

func (i info) json() (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(i)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// info describes a result. texts are the settings of its images, in A1111's format.
func (s *server) info(q *request, got result, started time.Time) (out info, texts []string) {
	as := got.as
	out = info{
		Prompt: q.Prompt, Negative: q.Negative, Seed: as.Seed, Subseed: as.Seed,
		Width: as.Width, Height: as.Height, Sampler: samplerName(as.Sampler), Guidance: as.Guidance, Steps: as.Steps, Batch: q.batch,
		Model: as.Model, SeedFromW: -1, SeedFromH: -1, Extra: map[string]string{}, Styles: nonNil(q.styles),
		Timestamp: started.Format(timestamp), ClipSkip: 1, Inpaints: q.Mask != nil, Version: "onestep", Notices: nonNil(q.notices),
	}
	if q.subseed != nil {
		out.Subseed = *q.subseed
	}
	if q.Init != nil {
		strength := q.strength()
		out.Strength = &strength
	}
	for _, f := range q.extra {
		out.Extra[f.Name] = f.Value
	}
	model, _ := s.model(as.Model)
	for _, img := range got.images {
		texts = append(texts, infotextOf(q, as, model, img))
		out.AllSeeds = append(out.AllSeeds, img.Seed)
	}
	for i := uint64(0); len(out.AllSeeds) < q.N; i++ { // those of images that were not finished
		if !slices.Contains(out.AllSeeds[:len(got.images)], as.Seed+i) {
			out.AllSeeds = append(out.AllSeeds, as.Seed+i)
		}
	}
	for i := range q.N {
		out.AllPrompts, out.AllNegatives = append(out.AllPrompts, q.Prompt), append(out.AllNegatives, q.Negative)
		out.AllSubseeds = append(out.AllSubseeds, out.Subseed+uint64(i))
	}
	if out.Texts = texts; len(texts) == 0 { // clients take the first
		out.Texts = []string{infotextOf(q, as, model, engine.Image{Seed: as.Seed, Label: -1})}
	}
	return out, texts
}

// strength is the one that was asked for.
func (q *request) strength() float64 {
	if q.Strength == engine.LeastStrength {
		return 0
	}
	return q.Strength
}

// infotextOf returns the settings of an image in A1111's format: its own, or for a model in pixel space what A1111's format has of them.
func infotextOf(q *request, as engine.Resolved, model engine.Info, img engine.Image) string {
	if text, ok := vision.Lookup(img.Texts, vision.Parameters); ok {
		return withFields(text, q.extra)
	}
	t := infotext.Text{Prompt: q.Prompt, Negative: q.Negative}
	t.Add("Steps", strconv.Itoa(as.Steps))
	t.AddSampler(as.Sampler)
	if as.Guidance != 0 {
		t.Add("CFG scale", plainNumber(as.Guidance))
	}
	t.Add("Seed", strconv.FormatUint(img.Seed, 10))
	t.Add("Size", fmt.Sprintf("%dx%d", as.Width, as.Height))
	t.Add("Model", as.Model)
	if img.Label >= 0 && img.Label < len(model.Classes) {
		t.Add("Class", model.Classes[img.Label])
	} else if img.Label >= 0 {
		t.Add("Class", strconv.Itoa(img.Label))
	}
	if q.Init != nil {
		t.Add("Denoising strength", plainNumber(q.strength()))
	}
	t.Fields = append(t.Fields, q.extra...)
	t.Add("Version", "onestep")
	return t.String()
}

// withFields adds settings at the end of a text in A1111's format, which is where its settings are.
func withFields(text string, more []infotext.Field) string {
	if len(more) == 0 {
		return text
	}
	return text + ", " + strings.TrimSpace(infotext.Text{Fields: more}.String())
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
