package texttoimage

import (
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// mostMisnames is the number of notices after which a list of prompts has no more of their kind.
const mostMisnames = 10

// misnamed notices what a prompt names in ComfyUI's way, embedding:name, without effect.
func (p *Plan) misnamed(text string, known []sd.Inversion) {
	var words []string
	for _, in := range known {
		words = append(words, in.Word)
	}
	for _, m := range prompt.Misnames(text, p.o.Plain, words...) {
		if p.misnames[m] || len(p.misnames) == mostMisnames {
			continue
		}
		if p.misnames == nil {
			p.misnames = map[prompt.Misnamed]bool{}
		}
		p.misnames[m] = true
		switch {
		case m.Weight && p.o.Plain:
			p.note("the weight in %s has no effect and is read as words: the prompts are plain", quote.Quoted(m.Text))
		case m.Weight:
			p.note("the weight in %s has no effect and is read as words: a weight needs parentheses, such as (embedding:%s:1.2)", quote.Quoted(m.Text), quote.Text(m.Name))
		default:
			p.note("%s is read as words of the prompt: no embedding of that name is loaded", quote.Quoted(m.Text))
		}
	}
}
