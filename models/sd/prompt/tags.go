package prompt

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/onestep-go/onestep/internal/quote"
)

// LoRA is an adapter tag of a prompt: <lora:name:weight>, or <lora:name:weight of the text encoders:weight of the U-Net>.
type LoRA struct {
	Name         string
	Weight, Text float64 // of the U-Net and of the text encoders
}

// Check refuses weights that are not finite numbers, or beyond ±1000.
func (l LoRA) Check() error {
	for _, v := range []float64{l.Weight, l.Text} {
		if !(math.Abs(v) <= 1000) {
			return fmt.Errorf("adapter %s: want weights from -1000 to 1000, got %g", quote.Quoted(l.Name), v)
		}
	}
	return nil
}

// Tag returns it as a prompt has it.
func (l LoRA) Tag() string {
	s := "<lora:" + l.Name + ":" + strconv.FormatFloat(l.Text, 'g', -1, 64)
	if l.Weight != l.Text {
		s += ":" + strconv.FormatFloat(l.Weight, 'g', -1, 64)
	}
	return s + ">"
}

// Tag is a part of a prompt in the form <kind:name:…>.
type Tag struct {
	Text string // the whole tag, as written
	Kind string // in lower case, without spaces
	Rest string // between the first colon and the closing bracket
}

// LoRA parses an adapter tag: of kind lora, or its alias lyco.
func (t Tag) LoRA() (LoRA, bool) {
	if !t.adapter() {
		return LoRA{}, false
	}
	return parseLoRA(t.Rest)
}

func (t Tag) adapter() bool { return t.Kind == "lora" || t.Kind == "lyco" }

// Tags returns the tags that [Parse] leaves in the prompt as text: tags of other kinds and invalid adapter tags, including unclosed ones.
func Tags(text string) []Tag {
	var out []Tag
	eachTag(text, func(_ string, t Tag) {
		if _, ok := t.LoRA(); !ok && t.Text != "" {
			out = append(out, t)
		}
	})
	return out
}

// AllTags returns all tags of a prompt, including valid adapter tags.
func AllTags(text string) []Tag {
	var out []Tag
	eachTag(text, func(_ string, t Tag) {
		if t.Text != "" {
			out = append(out, t)
		}
	})
	return out
}

// takeLoRAs removes the adapter tags from a prompt and returns them.
func takeLoRAs(text string) (string, []LoRA) {
	var rest strings.Builder
	var loras []LoRA
	eachTag(text, func(before string, t Tag) {
		rest.WriteString(before)
		if l, ok := t.LoRA(); ok {
			loras = append(loras, l)
			return
		}
		rest.WriteString(t.Text)
	})
	if loras == nil {
		return text, nil
	}
	return rest.String(), loras
}

// eachTag splits a prompt at its tags and calls each with the text before a tag and the tag; the last call has no tag.
func eachTag(text string, each func(before string, t Tag)) {
	from := 0
	for at := 0; ; {
		i := strings.IndexByte(text[at:], '<')
		if i < 0 {
			break
		}
		i += at
		n := strings.IndexAny(text[i+1:], "<>")
		end, closed := len(text), false
		if n >= 0 {
			end = i + 1 + n
			closed = text[end] == '>'
		}
		kind, rest, ok := strings.Cut(text[i+1:end], ":")
		kind = strings.TrimSpace(kind)
		t := Tag{Kind: strings.ToLower(kind), Rest: rest}
		if closed {
			end++
		} else {
			t.Rest = "" // an unclosed tag has no valid content
		}
		word := kind != "" && strings.IndexFunc(kind, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r)
		}) < 0
		if at = end; !ok || !word || !closed && !t.adapter() || closed && rest == "" && !t.adapter() {
			continue
		}
		t.Text = text[i:end]
		each(text[from:i], t)
		from = end
	}
	each(text[from:], Tag{})
}

// parseLoRA parses the content between "<lora:" and ">". As in A1111's web UI, the first number is for the text encoders and the second for
// the U-Net, by default the same.
func parseLoRA(tag string) (l LoRA, ok bool) {
	fields := strings.Split(tag, ":")
	if fields[0] == "" {
		return l, false
	}
	none := math.NaN()
	var placed []float64
	text, network := none, none // by name
	for _, f := range fields[1:] {
		name, value, named := strings.Cut(f, "=")
		if !named {
			name, value = "", f
		}
		v := none
		if value = strings.TrimSpace(value); value != "" {
			var err error
			if v, err = strconv.ParseFloat(value, 64); err != nil || math.IsNaN(v) || math.Abs(v) > maxWeight {
				return l, false
			}
		}
		switch {
		case !named && len(placed) < 2:
			placed = append(placed, v)
		case named && name == "te":
			text = v
		case named && name == "unet":
			network = v
		default:
			return l, false
		}
	}
	placed = append(placed, none, none)
	l = LoRA{Name: fields[0], Text: known(text, placed[0], 1)}
	l.Weight = known(network, placed[1], l.Text)
	return l, true
}

// known returns the first number that is not NaN.
func known(of ...float64) float64 {
	return of[slices.IndexFunc(of, func(v float64) bool { return !math.IsNaN(v) })]
}
