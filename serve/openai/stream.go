package openai

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/onestep-go/onestep/serve/engine"
)

// maxWrite is the time that a client has to take an event.
const maxWrite = 30 * time.Second

// partial is the event of an image in work, with a field of our own: which image it is.
type partial struct {
	Type       string `json:"type"`
	B64JSON    []byte `json:"b64_json"`
	Background string `json:"background"`
	CreatedAt  int64  `json:"created_at"`
	Format     string `json:"output_format"`
	Partial    int    `json:"partial_image_index"`
	Quality    string `json:"quality"`
	Size       string `json:"size"`
	Index      int    `json:"index"`
}

// completed is the event of a finished image, with fields of our own.
type completed struct {
	Type       string `json:"type"`
	B64JSON    []byte `json:"b64_json"`
	Background string `json:"background"`
	CreatedAt  int64  `json:"created_at"`
	Format     string `json:"output_format"`
	Quality    string `json:"quality"`
	Size       string `json:"size"`
	Usage      usage  `json:"usage"`
	Index      int    `json:"index"`
	Seed       uint64 `json:"seed"`
	Label      *int   `json:"label,omitempty"`
	settings
}

// events writes server-sent events. The reply begins with the first one, so that an error before it has a status of its own.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func (e *events) write(text string) error {
	if !e.begun {
		e.begun = true
		header := e.w.Header()
		header.Set("Content-Type", "text/event-stream; charset=utf-8")
		header.Set("Cache-Control", "no-cache")
		header.Set("X-Accel-Buffering", "no") // of proxies
		e.w.WriteHeader(http.StatusOK)
	}
	_ = e.control.SetWriteDeadline(time.Now().Add(maxWrite)) // if the server can
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}

func (e *events) send(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return e.write("event: " + name + "\ndata: " + string(data) + "\n\n")
}

// streamed generates the images and sends each one, and images in work, as they come. Progress is in comments, which clients leave out.
func (h *handler) streamed(w http.ResponseWriter, r *http.Request, in *input, p *params) error {
	e := &events{w: w, control: http.NewResponseController(w)}
	err := h.stream(e, r, in, p)
	if err == nil || !e.begun {
		return err
	}
	if is := h.explain(r.Context(), err); is != nil {
		_ = e.send("error", is) // a client that is gone needs no reply
	}
	return nil
}

func (h *handler) stream(e *events, r *http.Request, in *input, p *params) error {
	var (
		is       engine.Resolved
		done     int // images
		previews int // events
	)
	for event, err := range h.engine.Images(r.Context(), p.request) {
		if err != nil {
			return err
		}
		switch {
		case event.Resolved != nil:
			is = *event.Resolved
			err = e.write(": started\n\n")
		case event.Queued > 0:
			err = e.write(fmt.Sprintf(": queued %d\n\n", event.Queued))
		case event.Image != nil:
			if err = h.keep(in, p, is, event.Image); err == nil {
				err = h.sendImage(e, p, is, event.Image, done)
			}
			done, previews = done+1, 0
		case event.Step > 0:
			if len(event.Previews) == 0 {
				err = e.write(fmt.Sprintf(": step %d/%d\n\n", event.Step, event.Steps))
			}
			for i, preview := range event.Previews {
				if err = p.sendPartial(e, is, &engine.Image{Image: preview}, done+i, previews); err != nil {
					break
				}
			}
			if event.Previews != nil {
				previews++
			}
		}
		if err != nil {
			return err
		}
	}
	if done == 0 {
		return errNoImage
	}
	return nil
}

func (p *params) sendPartial(e *events, is engine.Resolved, img *engine.Image, index, nth int) error {
	file, err := p.encode(img)
	if err != nil {
		return err
	}
	name := p.event + ".partial_image"
	return e.send(name, partial{
		Type: name, B64JSON: file, Background: background, CreatedAt: time.Now().Unix(), Format: p.format, Partial: nth, Quality: "auto",
		Size: size(is.Width, is.Height), Index: index,
	})
}

func (h *handler) sendImage(e *events, p *params, is engine.Resolved, img *engine.Image, index int) error {
	file, err := p.encode(img)
	if err != nil {
		return err
	}
	name := p.event + ".completed"
	return e.send(name, completed{
		Type: name, B64JSON: file, Background: background, CreatedAt: time.Now().Unix(), Format: p.format, Quality: "auto",
		Size: size(is.Width, is.Height), Index: index, Seed: img.Seed, Label: label(img), settings: p.settings(is),
	})
}
