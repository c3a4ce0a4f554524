package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
)

// Limits of forms.
const (
	maxParts = 1000
	maxValue = 1 << 20 // bytes of a part that is no file; most are a few
)

// input is what a request has: parameters, and images of a form. Images in JSON are parameters until they are decoded.
type input struct {
	values

	image     image.Image
	imageSize image.Point // as it was given
	images    int         // that were given
	mask      image.Image // white is repainted
	maskSize  image.Point // as it was given
	opaque    bool        // the mask had no transparent pixel
}

// read reads a request's body.
func (h *handler) read(w http.ResponseWriter, r *http.Request, forms bool) (*input, error) {
	kind, options, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" {
		kind, err = "application/json", nil
	}
	body := http.MaxBytesReader(w, r.Body, h.MaxBody)
	switch {
	case err == nil && kind == "application/json":
		return readJSON(body)
	case err == nil && kind == "multipart/form-data" && options["boundary"] != "" && forms:
		return h.readForm(multipart.NewReader(body, options["boundary"]))
	}
	want := "application/json"
	if forms {
		want = "multipart/form-data with a boundary, or application/json"
	}
	return nil, &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
		Msg: "Content-Type: want " + want + ", got " + quoted(r.Header.Get("Content-Type"))}
}

func malformed(what string, err error) error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_body", Msg: "the body is not " + what + ": " + err.Error()}
}

// limited tells errors of reading that are not about what was read: limits, a client that is gone.
func limited(err error) bool {
	var (
		is      *Error
		tooMuch *http.MaxBytesError
	)
	return errors.As(err, &is) || errors.As(err, &tooMuch)
}

func readJSON(r io.Reader) (*input, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		if limited(err) {
			return nil, err
		}
		return nil, malformed("complete", err)
	}
	in := &input{values: values{used: map[string]bool{}}}
	if !utf8.Valid(data) {
		return nil, malformed("JSON", errors.New("it is not UTF-8"))
	}
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) == 0 || first[0] != '{' {
		return nil, malformed("a JSON object", errors.New("want { at its beginning"))
	}
	if err := json.Unmarshal(data, &in.byName); err != nil {
		return nil, malformed("JSON", err)
	}
	return in, nil
}

func (h *handler) readForm(form *multipart.Reader) (*input, error) {
	in := &input{values: values{byName: map[string]json.RawMessage{}, used: map[string]bool{}}}
	lists := map[string][]string{}
	for n := 0; ; n++ {
		part, err := form.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return in, in.join(lists)
		case err != nil && limited(err):
			return nil, err
		case err != nil:
			return nil, malformed("a form", err)
		case n == maxParts:
			return nil, tooLarge("body", "the form has too many parts")
		}
		if err := h.part(in, part, lists); err != nil {
			return nil, err
		}
	}
}

// part reads one part of a form. Names of arrays end in [], or in [0] and so on.
func (h *handler) part(in *input, part *multipart.Part, lists map[string][]string) error {
	name := part.FormName()
	base, index, isList := strings.Cut(name, "[")
	isList = isList && strings.HasSuffix(index, "]")
	if part.FileName() != "" || base == "image" || base == "mask" && isFile(part) {
		switch {
		case base == "image":
			in.images++
			if in.images > 1 {
				return skip(part)
			}
			return h.uploaded(in, "image", part)
		case base == "mask" && in.mask == nil:
			return h.uploaded(in, "mask", part)
		case base == "mask":
			return invalid("mask", "want one image, got more")
		}
		in.byName[name] = json.RawMessage(`"file"`) // which nothing uses
		return skip(part)
	}
	data, err := io.ReadAll(io.LimitReader(part, maxValue+1))
	switch {
	case err != nil && limited(err):
		return err
	case err != nil:
		return malformed("a form", err)
	case len(data) > maxValue:
		return tooLarge(quote.Text(name), quote.Text(name)+" is too long")
	case !utf8.Valid(data):
		return invalid(quote.Text(name), "want text in UTF-8")
	}
	if isList {
		lists[name] = append(lists[name], string(data))
		return nil
	}
	if len(data) == 0 && name != "prompt" {
		return nil
	}
	if in.has(name) {
		return invalid(quote.Text(name), "it is given more than once")
	}
	in.byName[name], err = json.Marshal(string(data))
	return err
}

// isFile tells whether a part without a file name is an image all the same.
func isFile(part *multipart.Part) bool {
	return strings.HasPrefix(part.Header.Get("Content-Type"), "image/") || part.Header.Get("Content-Type") == "application/octet-stream"
}

func skip(part *multipart.Part) error {
	if _, err := io.Copy(io.Discard, part); err != nil {
		if limited(err) {
			return err
		}
		return malformed("a form", err)
	}
	return nil
}

// join adds the arrays of a form: labels[], loras[], and the objects of loras[][name] and loras[][weight], as OpenAI's client sends them.
func (in *input) join(lists map[string][]string) error {
	var err error
	for name, list := range lists {
		base, _, _ := strings.Cut(name, "[")
		if base == "loras" && strings.Contains(name, "][") {
			continue
		}
		if base == "labels" || base == "loras" {
			in.byName[base], err = json.Marshal(list)
		} else {
			in.byName[name], err = json.Marshal(list)
		}
		if err != nil {
			return err
		}
	}
	if names := lists["loras[][name]"]; names != nil {
		weights := lists["loras[][weight]"]
		if weights != nil && len(weights) != len(names) {
			return invalid("loras", "want a weight for each name, or none")
		}
		objects := make([]map[string]string, len(names))
		for i := range names {
			objects[i] = map[string]string{"name": names[i]}
			if weights != nil {
				objects[i]["weight"] = weights[i]
			}
		}
		in.byName["loras"], err = json.Marshal(objects)
	}
	return err
}
