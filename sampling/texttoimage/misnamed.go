package texttoimage

import (
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/prompt"
)

// mostMisnames limits the number of such notices for a list of prompts.
const mostMisnames = 10

// misnamed adds notices for embedding:name, ComfyUI's syntax, that has no effect in a prompt.
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
			p.note("the weight in %s has no effect and is read as words of the prompt: prompt weighting is off", quote.Quoted(m.Text))
		case m.Weight:
			p.note("the weight in %s has no effect and is read as words of the prompt: a weight needs parentheses, such as (embedding:%s:1.2)", quote.Quoted(m.Text), quote.Text(m.Name))
		default:
			p.note("%s is read as words of the prompt: no embedding of that name is loaded", quote.Quoted(m.Text))
		}
	}
}
