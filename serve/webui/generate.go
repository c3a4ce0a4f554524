package webui

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"image"
	"net/http"
	"slices"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
)

// reply is that of txt2img and img2img.
type reply struct {
	Images     []string                   `json:"images"`
	Parameters map[string]json.RawMessage `json:"parameters"`
	Info       string                     `json:"info"`
}

func (s *server) textToImage(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	q, err := s.common(r, f)
	if err != nil {
		return err
	}
	return s.generate(w, r, q, "txt2img")
}

// result is what the engine has made of a request.
type result struct {
	as     engine.Resolved
	images []engine.Image
}

// generate serves a request and answers it.
func (s *server) generate(w http.ResponseWriter, r *http.Request, q *request, task string) error {
	if q.chosen != nil {
		s.choices.set(q.Client, *q.chosen)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	j := &job{client: q.Client, name: "scripts_" + task, iterations: q.iterations, batch: q.batch, started: time.Now(), cancel: cancel}
	s.jobs.add(j)
	defer s.jobs.remove(j)
	if time.Since(s.choices.of(q.Client).looks) < previewsFor {
		q.Previews = previews
	}
	got, err := s.run(ctx, q, j)
	if err != nil && !(errors.Is(err, context.Canceled) && j.ended() && r.Context().Err() == nil) {
		return err
	}
	q.N = max(got.as.N, 1) // the engine may allow fewer than the request asks for, which may be any number
	if j.ended() {
		q.note("interrupted after %d of %d images", len(got.images), q.N)
	} else {
		q.N = len(got.images)
	}
	s.note(nil, r, q.notices) // package serve logs the engine's
	for _, n := range got.as.Notices {
		if !q.repaint.resizes(n) {
			q.note("%s", n)
		}
	}
	info, texts := s.info(q, got, j.started)
	out := reply{Images: []string{}, Parameters: q.form.parameters(task == "img2img", got.as)}
	if q.send {
		for i, img := range got.images {
			if q.repaint != nil {
				if err := q.work.Do(func() error { img.Image = q.repaint.over(img.Image); return nil }); err != nil {
					return err
				}
			}
			text, err := encode(img.Image, q.format, withParameters(img.Texts, texts[i]))
			if err != nil {
				return err
			}
			out.Images = append(out.Images, text)
		}
	}
	if out.Info, err = info.json(); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// A client that has looked at images in work gets this many previews of a request for this long.
const (
	previews    = 4
	previewsFor = 10 * time.Minute
)

// run has the engine serve a request, and reports to the job.
func (s *server) run(ctx context.Context, q *request, j *job) (got result, err error) {
	got.as = engine.Resolved{Seed: *q.Seed, Model: q.Model, Steps: q.Steps, Guidance: q.Guidance, Width: q.Width, Height: q.Height}
	for e, err := range s.engine.Images(ctx, q.Request) {
		if err != nil {
			return got, err
		}
		if e.Resolved != nil {
			got.as = *e.Resolved
		}
		if e.Image != nil {
			got.images = append(got.images, *e.Image)
		}
		j.change(func() {
			if j.running.IsZero() && e.Queued == 0 {
				j.running = time.Now()
			}
			if e.Resolved != nil {
				j.each = e.Resolved.Steps
			}
			if e.Step > 0 {
				j.step, j.steps = e.Step, e.Steps
			}
			if len(e.Previews) > 0 {
				j.image = e.Previews[0]
			}
			if e.Image != nil {
				j.image = e.Image.Image
				j.finished++
			}
		})
	}
	slices.SortStableFunc(got.images, func(a, b engine.Image) int { return cmp.Compare(a.Seed, b.Seed) })
	return got, ctx.Err()
}

// encode returns an image file in base64.
func encode(m image.Image, format string, texts []vision.Text) (string, error) {
	var b bytes.Buffer
	write := vision.EncodePNG
	switch format {
	case "jpg", "jpeg":
		write = vision.EncodeJPEG
	case "webp":
		write = vision.EncodeWebP
	}
	if err := write(&b, m, texts); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// withParameters puts the settings in A1111's format before the other texts of an image.
func withParameters(texts []vision.Text, parameters string) []vision.Text {
	out := []vision.Text{{Keyword: vision.Parameters, Value: parameters}}
	for _, t := range texts {
		if t.Keyword != vision.Parameters {
			out = append(out, t)
		}
	}
	return out
}
