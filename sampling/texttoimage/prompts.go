package texttoimage

import (
	"fmt"
	"slices"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// check reports a prompt that the model cannot encode.
func (d *decision) check(text string) error {
	if d.Model == nil {
		return nil
	}
	return d.Model.Check(d.text(text))
}

// text is how prompts are read.
func (d *decision) text(prompt string) sd.Text {
	return sd.Text{Prompt: prompt, Plain: d.Plain, Inversions: d.Inversions}
}

// tags reports tags in a prompt that cannot have the effect that whoever wrote them wants: it would be silently encoded as words.
// Tags of unknown kinds are words, with a notice.
func (d *decision) tags(text string) error {
	if d.Plain {
		if all := prompt.AllTags(text); len(all) > 0 && !d.plainTags {
			d.plainTags = true // once is enough for a list of prompts
			d.note("prompts are plain: the tag %s has no effect and is read as words, as are all others", quote.Quoted(all[0].Text))
		}
		return nil
	}
	if all := prompt.OverTime(text); len(all) > 0 && !d.overTime {
		d.overTime = true // as above
		d.note("prompts that change during sampling or are combined, such as %s, are not supported: what brackets hold weighs 1/1.1, and numbers, bars and AND are read as words",
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
			if slices.ContainsFunc(d.Inversions, func(in sd.Inversion) bool { return prompt.Mentions(t.Text, in.Word) }) {
				continue
			}
			d.note("the tag %s is of an unknown kind and is read as words of the prompt", quote.Quoted(t.Text))
		}
	}
	return nil
}
