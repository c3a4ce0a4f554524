package finetune

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/onestep-go/onestep/models/sd/weights"
)

// textsHold identifies the text encoders of a run that trains them. Frozen ones are part of the data's description.
func (s *session) textsHold(ctx context.Context, files *weights.Model) (string, error) {
	if !s.trainsText() {
		return "", nil
	}
	text := ""
	for _, c := range []*weights.Component{files.Text, files.Text2} {
		if c == nil {
			continue
		}
		sum, err := sumOf(ctx, c)
		if err != nil {
			return "", err
		}
		text += "; text encoder, " + sum
	}
	return text, nil
}

// noiseHolds identifies the model's noise schedule and prediction type.
func (s *session) noiseHolds() (string, error) {
	chain, predicts, err := s.model.Noise()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%v %v", chain.Betas(), s.model.ZeroNegative) //quote: a sum is made of it
	return fmt.Sprintf("; noise schedule, sha256 %.8x; predicts %s", sum.Sum(nil), predicts.Diffusers()), nil
}

// tokensHold identifies the tokenizers by the tokens of the data's captions.
func (s *session) tokensHold() string {
	sum := sha256.New()
	all := json.NewEncoder(sum)
	for _, t := range s.model.Texts {
		for i := range s.Data.Images() {
			for _, caption := range s.Data.Images()[i].Captions {
				chunks, _ := t.Tokenizer.Plain(caption)
				_ = all.Encode(chunks[0].IDs) // numbers
			}
		}
	}
	return fmt.Sprintf("tokens, sha256 %.8x", sum.Sum(nil))
}
