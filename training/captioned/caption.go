package captioned

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxCaption limits a caption, in bytes. Text encoders read 77 tokens.
const maxCaption = 1 << 16

// checkText refuses what is no text of a caption.
func checkText(text string) error {
	switch {
	case len(text) > maxCaption:
		return fmt.Errorf("it has %d bytes; of a caption at most %d kB are read", len(text), maxCaption>>10)
	case !utf8.ValidString(text):
		return errors.New("it is not UTF-8")
	case strings.ContainsRune(text, 0):
		return errors.New("it has a NUL character and is no text")
	}
	return nil
}

// captions are the captions of a text file. dropped reports whether there are lines that are not used.
func (x *Settings) captions(data []byte) (captions []string, dropped bool, err error) {
	text := strings.TrimPrefix(string(data), "\ufeff")
	if err := checkText(text); err != nil {
		return nil, false, err
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	switch {
	case len(lines) == 0:
		return nil, false, nil
	case x.Lines == JoinLines:
		return []string{strings.Join(lines, " ")}, false, nil
	case x.Lines == FirstLine:
		return lines[:1], len(lines) > 1, nil
	}
	return lines, false, nil
}

// caption returns one of an image's captions with the changes that are asked for, as kohya's scripts make them: dropout of the whole, the
// prefix and suffix, wildcards, shuffling and dropout of parts, the second separator.
func (x *Settings) caption(all []string, epoch int64, d draws) string {
	if d.chance(saltDropout, x.Dropout) || x.DropoutEvery > 0 && (epoch+1)%int64(x.DropoutEvery) == 0 {
		return ""
	}
	text := all[d.below(saltCaption, len(all))]
	if x.Prefix != "" {
		text = strings.TrimSpace(x.Prefix + " " + text)
	}
	if x.Suffix != "" {
		text = strings.TrimSpace(text + " " + x.Suffix)
	}
	if x.Wildcards {
		text = wildcards(text, d)
	}
	if x.Shuffle || x.PartDropout > 0 || x.KeepSeparator != "" && strings.Contains(text, x.KeepSeparator) {
		text = x.shuffled(text, d)
	}
	if x.SecondSeparator != "" {
		text = strings.ReplaceAll(text, x.SecondSeparator, x.Separator)
	}
	return text
}

// shuffled shuffles and drops, as asked for, the parts of a caption that are not kept, and joins them without separators of kept ones.
func (x *Settings) shuffled(text string, d draws) string {
	var first, parts, last []string
	kept, rest, found := strings.Cut(text, x.KeepSeparator)
	if found && x.KeepSeparator != "" {
		rest, end, _ := strings.Cut(rest, x.KeepSeparator)
		first, parts, last = x.parts(kept), x.parts(rest), x.parts(end)
	} else {
		parts = x.parts(text)
		n := min(x.KeepTokens, len(parts))
		first, parts = parts[:n], parts[n:]
	}
	if x.Shuffle {
		for i := len(parts) - 1; i > 0; i-- {
			j := d.nth(i).below(saltShuffle, i+1)
			parts[i], parts[j] = parts[j], parts[i]
		}
	}
	all := first[:len(first):len(first)]
	for i, p := range parts {
		if !d.nth(i).chance(saltPart, x.PartDropout) {
			all = append(all, p)
		}
	}
	return strings.Join(append(all, last...), strings.TrimSpace(x.Separator)+" ")
}

// parts are what is between the separators of a text.
func (x *Settings) parts(text string) []string {
	var list []string
	for p := range strings.SplitSeq(text, x.Separator) {
		if p = strings.TrimSpace(p); p != "" {
			list = append(list, p)
		}
	}
	return list
}

// wildcards replaces {a|b|c} by one of a, b and c, and {{ and }} by braces. A brace without its other one stays.
func wildcards(text string, d draws) string {
	var out strings.Builder
	for n := 0; text != ""; n++ {
		at := strings.IndexAny(text, "{}")
		if at < 0 {
			break
		}
		out.WriteString(text[:at])
		brace := text[at : at+1]
		text = text[at+1:]
		switch {
		case strings.HasPrefix(text, brace):
			out.WriteString(brace)
			text = text[1:]
		case brace == "{":
			end := strings.IndexAny(text, "{}")
			if end < 0 || text[end] != '}' {
				out.WriteString(brace)
				continue
			}
			words := strings.Split(text[:end], "|")
			out.WriteString(words[d.nth(n).below(saltWildcard, len(words))])
			text = text[end+1:]
		default:
			out.WriteString(brace)
		}
	}
	return out.String() + text
}
