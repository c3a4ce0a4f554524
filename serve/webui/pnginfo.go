package webui

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/serve/internal/upload"
	"github.com/onestep-go/onestep/torch/vision"
)

// pngInfoReply is the text of an image's settings, as A1111 writes it, its other texts, and the settings by name.
type pngInfoReply struct {
	Info       string            `json:"info"`
	Items      map[string]string `json:"items"`
	Parameters map[string]string `json:"parameters"`
}

// pngInfo reads the settings in an image file that a client sends.
func (s *server) pngInfo(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	if !f.has("image") {
		f.wrong("image", "field required: want an image in base64", "missing")
	}
	text := f.text("image")
	if err := f.err(); err != nil {
		return err
	}
	data, err := upload.Base64(text, s.limits)
	if err != nil {
		f.wrong("image", err.Error(), "value_error")
		return f.err()
	}
	work := s.decoder.For(r.Context(), who(r))
	defer work.Close()
	var reply []byte
	if err = work.Do(func() (err error) { reply, err = infoOf(data); return err }); err != nil {
		if upload.Interrupted(err) {
			return err
		}
		f.wrong("image", err.Error(), "value_error")
		return f.err()
	}
	if err := work.Hold(len(reply) / 4); err != nil { // while the client reads it
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(reply) // fails only if the client has gone
	return nil
}

// infoOf is the reply for an image file. Its texts may be packed, and the reply be thousands of times as large as the file.
func infoOf(data []byte) ([]byte, error) {
	texts, err := vision.ReadTexts(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out := pngInfoReply{Items: map[string]string{}, Parameters: map[string]string{}}
	for _, t := range texts {
		if t.Keyword == vision.Parameters && out.Info == "" {
			out.Info = t.Value
			continue
		}
		out.Items[t.Keyword] = t.Value
	}
	settings, _, err := infotext.From(func(keyword string) (string, bool) { return vision.Lookup(texts, keyword) })
	if err == nil { // other programs' settings that cannot be read are among the items
		if out.Info == "" {
			out.Info = settings.String() // of ComfyUI's basic workflow
		}
		out.Parameters = parametersOf(settings)
	}
	var reply bytes.Buffer
	err = encodeJSON(&reply, out)
	return reply.Bytes(), err
}

// parametersOf returns settings by A1111's names, with the size in two parts as its parser has it.
func parametersOf(t infotext.Text) map[string]string {
	all := map[string]string{"Prompt": t.Prompt, "Negative prompt": t.Negative}
	for _, f := range t.Fields {
		if w, h, ok := strings.Cut(f.Value, "x"); ok && f.Name == "Size" {
			all["Size-1"], all["Size-2"] = w, h
			continue
		}
		if _, ok := all[f.Name]; !ok {
			all[f.Name] = f.Value
		}
	}
	return all
}
