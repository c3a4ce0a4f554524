package texttoimage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// prompts returns the given prompts, or an empty one for each of PromptEmbeds.
func (p Pipeline) prompts(given []string) ([]string, error) {
	if p.PromptEmbeds == nil {
		return given, nil
	}
	if len(given) > 0 {
		return nil, errors.New("got prompts and PromptEmbeds: want only one of them")
	}
	return make([]string, len(p.PromptEmbeds)), nil
}

// check returns an error for a prompt that the model cannot encode.
func (p *Plan) check(text string, words []sd.Inversion) error {
	return p.o.Model.Check(p.text(text, words))
}

// text returns a prompt with its encoding options.
func (p *Plan) text(prompt string, words []sd.Inversion) sd.Text {
	return sd.Text{Prompt: prompt, Plain: p.o.Plain, Inversions: words}
}

// tags returns an error for invalid or unsupported tags in a prompt, which would otherwise be silently encoded as words. Tags of unknown
// kinds are encoded as words, with a notice.
func (p *Plan) tags(text string, words []sd.Inversion) error {
	p.misnamed(text, words)
	if p.o.Plain {
		if all := prompt.AllTags(text); len(all) > 0 && !p.plainTags {
			p.plainTags = true // one notice for a list of prompts
			p.note("prompt syntax is off: the tag %s has no effect and is read as words of the prompt, like all other tags", quote.Quoted(all[0].Text))
		}
		return nil
	}
	if all := prompt.OverTime(text); len(all) > 0 && !p.overTime {
		p.overTime = true // as above
		p.note("prompt scheduling and composition, such as %s, are not supported: text in square brackets has weight 1/1.1, and numbers, bars and AND are read as words",
			quote.Quoted(all[0]))
	}
	for _, t := range prompt.Tags(text) {
		switch t.Kind {
		case "lora", "lyco":
			return fmt.Errorf("%s is not a valid adapter tag: want <lora:name:weight>, or two weights, for the text encoders and the U-Net",
				quote.Quoted(t.Text))
		case "hypernet":
			return fmt.Errorf("%s is a hypernetwork, which is not supported: remove the tag", quote.Quoted(t.Text))
		default:
			if slices.ContainsFunc(words, func(in sd.Inversion) bool { return prompt.Mentions(t.Text, in.Word) }) {
				continue
			}
			p.note("the tag %s is of an unknown kind and is read as words of the prompt", quote.Quoted(t.Text))
		}
	}
	return nil
}
