package job

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	outside "github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/lora"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/weights"
)

// inversions holds the textual inversion embeddings that the prompts use.
type inversions struct {
	all    []sd.Inversion
	hashes []string // word: hash
	notes  []string
}

// inversions reads the embeddings of --embedding, and those of --embedding-dir whose words are in a prompt.
func (o Generate) inversions(ctx context.Context) (in inversions, err error) {
	mentioned := o.mentions
	add := func(e sd.Inversion) error {
		hash, err := shortHash(ctx, e.Path)
		if err != nil {
			return err
		}
		in.all, in.hashes = append(in.all, e), append(in.hashes, e.Word+": "+hash)
		return nil
	}
	for _, text := range o.Embeddings {
		file, word := text, ""
		if _, err := os.Stat(text); err != nil { // a file name may contain an equals sign
			if i := strings.LastIndexByte(text, '='); i >= 0 {
				if file, word = text[:i], strings.TrimSpace(text[i+1:]); file == "" || word == "" {
					return in, usage("--embedding: want FILE or FILE=WORD, got %s", outside.Quoted(text))
				}
			}
		}
		if err := o.there(Path{"--embedding", file, wantEmbedding, File}); err != nil {
			return in, err
		}
		e, err := sd.OpenInversion(file)
		if err != nil {
			return in, fmt.Errorf("--embedding: %w", err)
		}
		if word != "" {
			e.Word = word
		}
		if !mentioned(e.Word) {
			hint := ""
			if e.Name != "" && e.Name != e.Word && mentioned(e.Name) {
				hint = fmt.Sprintf("; the name in the file is %s: to use it as the word, pass --embedding %s=%s", outside.Quoted(e.Name), file, e.Name)
			}
			in.notes = append(in.notes, fmt.Sprintf("the embedding %s has no effect: its word, %s, is in no prompt%s", outside.Text(file), outside.Quoted(e.Word), hint))
			continue
		}
		if err := add(e); err != nil {
			return in, err
		}
	}
	if o.EmbeddingDir == "" {
		return in, nil
	}
	used := map[string]string{} // paths by words, in lower case
	for _, e := range in.all {
		used[strings.ToLower(e.Word)] = e.Path
	}
	found, err := sd.FindInversions(o.EmbeddingDir, func(path, word string) bool {
		if !o.mentions(word) {
			return false
		}
		if other, ok := used[strings.ToLower(word)]; ok {
			in.notes = append(in.notes, fmt.Sprintf("the embedding %s is not used: %s has the same word", outside.Text(path), outside.Text(other)))
			return false
		}
		used[strings.ToLower(word)] = path
		return true
	})
	if err != nil {
		return in, fmt.Errorf("--embedding-dir: %w", err)
	}
	for _, e := range found {
		if err := add(e); err != nil {
			return in, err
		}
	}
	return in, nil
}

// mentions reports whether a word is in a prompt or a negative prompt.
func (o Generate) mentions(word string) bool {
	return prompt.Mentions(o.Negative, word) || slices.ContainsFunc(o.Prompts, func(text string) bool { return prompt.Mentions(text, word) })
}

// bundled reads the embeddings in an adapter's file that prompts use. Those with the word of another embedding are skipped.
func (on *adapters) bundled(a *lora.Adapter) (all []sd.Inversion, err error) {
	for _, e := range a.Embeddings() {
		if !on.mentions(e.Name) {
			continue
		}
		if i := slices.IndexFunc(on.words, func(in sd.Inversion) bool { return strings.EqualFold(in.Word, e.Name) }); i >= 0 {
			on.remark(fmt.Sprintf("the embedding %s in the file of adapter %s is not used: %s has the same word", outside.Quoted(e.Name),
				outside.Text(nameOf(a)), outside.Text(on.words[i].Path)))
			continue
		}
		in, err := e.Inversion()
		if err != nil {
			return nil, err
		}
		in.Path = a.File().Path
		all = append(all, in)
	}
	return all, nil
}

// changed lists the embeddings of an image's metadata that are missing here or have another hash.
func (in inversions) changed(before []string) (notes []string) {
	for _, b := range before {
		if !slices.Contains(in.hashes, b) {
			notes = append(notes, fmt.Sprintf("the image was generated with an embedding (word and hash %s) that is not used, or has changed since", outside.Text(b)))
		}
	}
	return notes
}

// Embedding describes a textual inversion embedding.
type Embedding struct {
	Path    string `json:"path"`
	Form    string `json:"form"`
	Word    string `json:"word"`
	Name    string `json:"name,omitempty"` // name in the file
	Vectors int    `json:"vectors"`
	Widths  []int  `json:"widths"` // per text encoder
	Family  string `json:"family,omitempty"`
}

// DescribeEmbedding describes a textual inversion embedding; ok is false if the file is something else.
func DescribeEmbedding(path string) (e Embedding, ok bool, err error) {
	if kind, err := weights.SniffFile(path); err != nil || kind != weights.Inversion {
		return e, false, nil //nolint:nilerr // the callers try other kinds of files
	}
	in, err := sd.OpenInversion(path)
	if err != nil {
		return e, true, err
	}
	e = Embedding{Path: path, Form: in.Form, Word: in.Word, Name: in.Name, Vectors: in.Vectors, Family: in.Family()}
	for _, p := range in.Parts {
		e.Widths = append(e.Widths, p.Width)
	}
	return e, true, nil
}

// String returns a description in lines.
func (e Embedding) String() string {
	family := ""
	if e.Family != "" {
		family = fmt.Sprintf(" (%s)", e.Family)
	}
	text := fmt.Sprintf("%s: textual inversion embedding (%s)\n  word            %s\n  vectors         %d\n  encoder width   %s%s\n",
		outside.Text(e.Path), e.Form, outside.Text(e.Word), e.Vectors, strings.Trim(fmt.Sprint(e.Widths), "[]"), family)
	if e.Name != "" && e.Name != e.Word {
		text += fmt.Sprintf("  name in file    %s\n", outside.Text(e.Name))
	}
	return text
}
