package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"image"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/internal/jsonsize"
	"github.com/onestep-go/onestep/serve/internal/upload"
)

// Limits of forms.
const (
	maxParts = 1000
	maxValue = 1 << 20 // bytes of a part that is no file; most are a few
)

// input is what a request has: parameters, and images of a form. Images in JSON are parameters until they are decoded.
type input struct {
	values
	work *upload.Work // on its images

	image     image.Image
	imageSize image.Point // as it was given
	images    int         // that were given
	mask      image.Image // white is repainted
	maskSize  image.Point // as it was given
	opaque    bool        // the mask had no transparent pixel

	kept *image.NRGBA // the image in the size of the generated ones, and the mask; nil: none is generated yet
	edge *image.Gray
}

// read reads a request's body.
func (h *handler) read(w http.ResponseWriter, r *http.Request, work *upload.Work, forms bool) (*input, error) {
	kind, options, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" {
		kind, err = "application/json", nil
	}
	body := http.MaxBytesReader(w, r.Body, h.MaxBody)
	switch {
	case err == nil && kind == "application/json":
		return readJSON(body, work)
	case err == nil && kind == "multipart/form-data" && options["boundary"] != "" && forms:
		return h.readForm(work, multipart.NewReader(body, options["boundary"]))
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

func readJSON(r io.Reader, work *upload.Work) (*input, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		if limited(err) {
			return nil, err
		}
		return nil, malformed("complete", err)
	}
	in := &input{work: work, values: values{used: map[string]bool{}}}
	if !utf8.Valid(data) {
		return nil, malformed("JSON", errors.New("it is not UTF-8"))
	}
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) == 0 || first[0] != '{' {
		return nil, malformed("a JSON object", errors.New("want { at its beginning"))
	}
	if !jsonsize.Check(data) {
		return nil, tooMany("body")
	}
	if err := json.Unmarshal(data, &in.byName); err != nil {
		return nil, malformed("JSON", err)
	}
	return in, nil
}

func (h *handler) readForm(work *upload.Work, form *multipart.Reader) (*input, error) {
	in := &input{work: work, values: values{byName: map[string]json.RawMessage{}, used: map[string]bool{}}}
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
	if base == "image" || (base == "images" || base == "file" || base == "mask") && isFile(part) {
		switch {
		case base != "mask":
			in.images++
			if in.images > 1 {
				return skip(part)
			}
			return h.uploaded(in, "image", part)
		case in.mask == nil:
			return h.uploaded(in, "mask", part)
		}
		return invalid("mask", "want one image, got more")
	}
	data, err := io.ReadAll(io.LimitReader(part, maxValue+1))
	text := len(data) <= maxValue && utf8.Valid(data)
	switch {
	case err != nil && limited(err):
		return err
	case err != nil:
		return malformed("a form", err)
	case !text && part.FileName() != "":
		in.byName[name] = json.RawMessage(`{"file": true}`) // no parameter is one
		return skip(part)
	case len(data) > maxValue:
		return tooLarge(quote.Text(name), quote.Text(name)+" is too long")
	case !text:
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

// isFile tells whether a part is a file; some clients send images without a file name.
func isFile(part *multipart.Part) bool {
	return part.FileName() != "" || strings.HasPrefix(part.Header.Get("Content-Type"), "image/") || part.Header.Get("Content-Type") == "application/octet-stream"
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

// join adds the arrays of a form, as OpenAI's client and others send them: labels[] or labels[0] and so on, loras[], and objects of loras.
func (in *input) join(lists map[string][]string) error {
	byBase := map[string][]string{}
	for _, name := range slices.SortedFunc(maps.Keys(lists), byIndex) {
		base, _, _ := strings.Cut(name, "[")
		switch {
		case base == "loras" && strings.Contains(name, "]["):
			continue
		case base != "labels" && base != "loras":
			base = name
		}
		byBase[base] = append(byBase[base], lists[name]...)
	}
	for name, list := range byBase {
		if in.has(name) {
			return invalid(quote.Text(name), "it is given more than once")
		}
		data, err := json.Marshal(list)
		if err != nil {
			return err
		}
		in.byName[name] = data
	}
	return in.joinLoRAs(lists)
}

// byIndex orders numbers in texts that are otherwise the same.
func byIndex(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) }

// joinLoRAs adds the objects of loras[][name] and loras[][weight], which are in order, or of loras[0][name] and so on.
func (in *input) joinLoRAs(lists map[string][]string) error {
	objects, order, inOrder := map[string]map[string]string{}, []string{}, -1
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		index, key, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(name, "loras["), "]"), "][")
		if !strings.HasPrefix(name, "loras[") || !ok {
			continue
		}
		list := lists[name]
		if index == "" && inOrder >= 0 && len(list) != inOrder || index != "" && len(list) > 1 {
			return invalid("loras", "want a weight for each name, or none")
		}
		for i, value := range list {
			at := index
			if at == "" {
				at, inOrder = strconv.Itoa(i), len(list)
			}
			if objects[at] == nil {
				objects[at], order = map[string]string{}, append(order, at)
			}
			objects[at][key] = value
		}
	}
	if len(order) == 0 {
		return nil
	}
	slices.SortFunc(order, byIndex)
	var all []map[string]string
	for _, at := range order {
		all = append(all, objects[at])
	}
	data, err := json.Marshal(all)
	in.byName["loras"] = data
	return err
}
