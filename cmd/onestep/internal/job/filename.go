package job

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// placeholders of file names: the index of the image and of its prompt, from 0; the shortened prompt; the image's seed.
var placeholders = []string{"n", "i", "prompt", "seed"}

var placeholder = regexp.MustCompile(`\{([A-Za-z_]+)\}`)

// checkPlaceholders refuses unknown placeholders, which would end up in the file names unchanged.
func checkPlaceholders(pattern string) error {
	for _, m := range placeholder.FindAllStringSubmatch(pattern, -1) {
		known := false
		for _, p := range placeholders {
			known = known || m[1] == p
		}
		if !known {
			return usage("--out: %s", suggest.OneOf(m[0], []string{"{n}", "{i}", "{prompt}", "{seed}"}))
		}
	}
	return nil
}

// fileName fills in a pattern's placeholders for image j of prompt i.
func (o Drawing) fileName(pattern string, i, j int) string {
	return strings.NewReplacer("{n}", fmt.Sprintf("%05d", i*o.N+j), "{i}", fmt.Sprintf("%05d", i), "{prompt}", inFileName(o.Prompts[i], o.Plain),
		"{seed}", strconv.FormatUint(*o.Seed+uint64(j), 10)).Replace(pattern)
}

// The lengths after which a prompt in a file's name is cut. File systems allow names of 255 bytes.
const (
	mostRunes = 60
	mostBytes = 120
)

// inFileName turns a prompt into part of a file name: its words joined by _, without weights and tags, shortened.
func inFileName(text string, plain bool) string {
	if !plain {
		spans, _ := prompt.Parse(text)
		var all []string
		for _, s := range spans {
			all = append(all, s.Text)
		}
		text = strings.Join(all, " ")
	}
	words := strings.FieldsFunc(text, func(r rune) bool {
		return r == utf8.RuneError || r != '-' && !unicode.IsLetter(r) && !unicode.IsNumber(r) && !unicode.IsMark(r)
	})
	name := ""
	for _, w := range words {
		w = strings.Trim(w, "-")
		longer := strings.TrimPrefix(name+"_"+w, "_")
		if w == "" {
			continue
		}
		if utf8.RuneCountInString(longer) > mostRunes || len(longer) > mostBytes {
			if name == "" { // a single word longer than the limit
				name = shortened(w)
			}
			break
		}
		name = longer
	}
	if name == "" {
		return "prompt"
	}
	return name
}

// shortened cuts a prompt at the lengths above.
func shortened(text string) string {
	runes := 0
	for at, r := range text {
		if runes == mostRunes || at+utf8.RuneLen(r) > mostBytes {
			return text[:at]
		}
		runes++
	}
	return text
}
