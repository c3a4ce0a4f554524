package webui

import (
	"encoding/json"
	"fmt"
	"image"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plural"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/sampling/scheduler"
	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// request is a txt2img or img2img that is to be served.
type request struct {
	engine.Request
	form       form
	batch      int // images per iteration
	iterations int
	format     string // of the images, by A1111's option samples_format
	send       bool   // images in the reply
	subseed    *uint64
	styles     []string
	work       *upload.Work     // on its images; nil: it has none
	given      image.Point      // size of the input image
	repaint    *repaint         // of inpainting
	extra      []infotext.Field // of the settings, in addition to the engine's
	notices    []string
	chosen     *choice // what the client chooses by override_settings for later requests, too; nil: nothing
}

func (q *request) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(q.notices, n) {
		q.notices = append(q.notices, n)
	}
}

// Limits of what is asked for in one request. The engine has lower ones, of which the server's options decide.
const (
	mostImages = 1000
	mostSteps  = 1000
	mostScale  = 1000
)

// common reads what txt2img and img2img have in common.
func (s *server) common(r *http.Request, f form) (*request, error) {
	q := &request{form: f, send: f.flag("send_images", true), styles: f.texts("styles")}
	q.Client = who(r)
	q.Prompt, q.Negative = f.text("prompt"), f.text("negative_prompt")
	q.batch, q.iterations = 1, 1
	if n, ok := f.integer("batch_size", 1, mostImages); ok {
		q.batch = n
	}
	if n, ok := f.integer("n_iter", 1, mostImages); ok {
		q.iterations = n
	}
	q.N = q.batch * q.iterations
	q.Steps, _ = f.integer("steps", 1, mostSteps)
	q.Width, _ = f.integer("width", 0, engine.MaxSide)
	q.Height, _ = f.integer("height", 0, engine.MaxSide)
	if scale, ok := f.number("cfg_scale", 0, mostScale); ok {
		if q.Guidance = scale; scale == 0 {
			q.Guidance = 1
			q.note("cfg_scale 0 is served as 1: no guidance")
		}
	}
	seed, ok := f.seed("seed")
	if !ok {
		seed = uint64(rand.Uint32()) // as A1111's, which every client can read as a number
	}
	q.Seed = &seed
	if subseed, ok := f.seed("subseed"); ok {
		q.subseed = &subseed
	}
	s.sampler(q)
	if err := s.settings(r, q); err != nil {
		return nil, err
	}
	if name := f.text("script_name"); name != "" && !strings.EqualFold(name, "none") {
		return nil, refuse(http.StatusUnprocessableEntity, "Script %s not found", quote.Quoted(name))
	}
	if len(q.styles) > 0 {
		q.note("styles: there are none on this server, so %s not applied", plural.N(len(q.styles), "style"))
	}
	q.scripts()
	q.unsupported()
	return q, f.err()
}

// sampler maps A1111's names of a sampler and a schedule type.
func (s *server) sampler(q *request) {
	f := q.form
	name, schedule := f.text("sampler_name"), f.text("scheduler")
	if strings.EqualFold(schedule, "automatic") {
		schedule = ""
	}
	field := "sampler_name"
	if name == "" {
		name, field = f.text("sampler_index"), "sampler_index"
	}
	if name == "" || strings.EqualFold(name, "automatic") {
		if schedule != "" {
			q.note("scheduler %s is not applied without a sampler_name", quote.Quoted(schedule))
		}
		return
	}
	method, spacing, exact := infotext.Sampler(name, "")
	switch {
	case method == "":
		if m, err := scheduler.Named(name); err == nil { // our own name, as in lists of samplers
			method = scheduler.NameOf(m)
		} else if slices.Contains(s.ownSamplers(), name) {
			method = name
		} else {
			f.wrong(field, "there is no sampler "+quote.Quoted(name)+": GET /sdapi/v1/samplers lists them", "value_error")
			return
		}
	case schedule == "":
		if spacing == "" {
			_, spacing, _ = infotext.Sampler(name, "automatic")
		}
	default:
		if _, own, supported := infotext.Sampler(name, schedule); own != "" || spacing == "" {
			spacing, exact = own, supported
		}
	}
	if !exact && schedule != "" {
		q.note("scheduler %s is not supported with %s: the sampler's own noise levels are used", quote.Quoted(schedule), quote.Text(name))
	}
	q.Sampler = method
	if spacing == "" {
		return
	}
	if m, err := scheduler.Named(method + "_" + spacing); err == nil {
		q.Sampler = scheduler.NameOf(m)
	} else if schedule != "" {
		q.note("scheduler %s is not supported with %s: the sampler's own noise levels are used", quote.Quoted(schedule), quote.Text(name))
	}
}

// ownSamplers are names that A1111 does not have, of models in pixel space.
func (s *server) ownSamplers() (names []string) {
	for _, m := range s.engine.Models() {
		names = append(names, m.Samplers...)
	}
	return names
}

// samplerName is A1111's name of a sampler.
func samplerName(method string) string {
	var t infotext.Text
	t.AddSampler(method)
	return t.Get("Sampler")
}

// settings applies override_settings on top of the client's options.
func (s *server) settings(r *http.Request, q *request) error {
	mine := s.choices.of(q.Client)
	override := q.form.object("override_settings")
	notices, err := s.apply(&mine, override)
	if err != nil {
		return err
	}
	for _, n := range notices {
		q.note("override_settings: %s", n)
	}
	q.Model, q.format = mine.model, mine.format
	if !q.form.flag("override_settings_restore_afterwards", true) {
		q.chosen = &mine
	}
	return nil
}

// scripts notes the scripts of extensions that the request wants. Clients send them with no arguments, or switched off, whatever is installed.
func (q *request) scripts() {
	all := q.form.object("alwayson_scripts")
	for _, name := range sortedKeys(all.fields) {
		if all.object(name).wantsScript() {
			q.note("alwayson_scripts: %s is not supported and was not applied", quote.Text(name))
		}
	}
}

// wantsScript says whether the arguments of a script switch it on: a list, the first of which may be the switch, or objects with a switch.
func (f form) wantsScript() bool {
	var args []any
	if !f.has("args") || json.Unmarshal(f.fields["args"], &args) != nil || len(args) == 0 {
		return false
	}
	if on, ok := args[0].(bool); ok {
		return on
	}
	for _, a := range args {
		unit, ok := a.(map[string]any)
		if !ok {
			return true
		}
		for _, key := range []string{"enabled", "enable"} {
			if on, given := unit[key].(bool); given && !on {
				ok = false
			}
		}
		if ok {
			return true
		}
	}
	return false
}
