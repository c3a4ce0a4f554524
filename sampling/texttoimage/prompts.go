package texttoimage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// prompts returns the prompts that are generated from: those given, or an empty one in place of each of PromptEmbeds.
func (p Pipeline) prompts(given []string) ([]string, error) {
	if p.PromptEmbeds == nil {
		return given, nil
	}
	if len(given) > 0 {
		return nil, errors.New("got prompts and PromptEmbeds: want one of them")
	}
	return make([]string, len(p.PromptEmbeds)), nil
}

// check reports a prompt that the model cannot encode.
func (p *Plan) check(text string, words []sd.Inversion) error {
	return p.o.Model.Check(p.text(text, words))
}

// text is how prompts are read.
func (p *Plan) text(prompt string, words []sd.Inversion) sd.Text {
	return sd.Text{Prompt: prompt, Plain: p.o.Plain, Inversions: words}
}

// tags reports tags in a prompt that cannot have the effect that whoever wrote them wants: it would be silently encoded as words.
// Tags of unknown kinds are words, with a notice.
func (p *Plan) tags(text string, words []sd.Inversion) error {
	p.misnamed(text, words)
	if p.o.Plain {
		if all := prompt.AllTags(text); len(all) > 0 && !p.plainTags {
			p.plainTags = true // once is enough for a list of prompts
			p.note("prompts are plain: the tag %s has no effect and is read as words, as are all others", quote.Quoted(all[0].Text))
		}
		return nil
	}
	if all := prompt.OverTime(text); len(all) > 0 && !p.overTime {
		p.overTime = true // as above
		p.note("prompts that change during sampling or are combined, such as %s, are not supported: text in square brackets has weight 1/1.1, and numbers, bars and AND are read as words",
			quote.Quoted(all[0]))
	}
	for _, t := range prompt.Tags(text) {
		switch t.Kind {
		case "lora", "lyco":
			return fmt.Errorf("%s is not a valid tag of an adapter: want <lora:name:weight>, or two weights, of the text encoders and the network",
				quote.Quoted(t.Text))
		case "hypernet":
			return fmt.Errorf("%s asks for a hypernetwork, and these are not supported: remove the tag", quote.Quoted(t.Text))
		default:
			if slices.ContainsFunc(words, func(in sd.Inversion) bool { return prompt.Mentions(t.Text, in.Word) }) {
				continue
			}
			p.note("the tag %s is of an unknown kind and is read as words of the prompt", quote.Quoted(t.Text))
		}
	}
	return nil
}
