package clip_test

import (
	"fmt"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/torch"
)

// Encode two prompts for Stable Diffusion XL: the hidden states of the penultimate layer, without the final norm, and the pooled vector.
// The weights are random here; From loads those of a file.
func Example() {
	config, err := clip.ParseConfig([]byte(`{"architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu",
		"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "projection_dim": 16}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	encoder, err := clip.New(config, torch.CPU, torch.Float32, 1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer encoder.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		ids := torch.FromSlice(s, []int64{49406, 320, 2368, 49407, 49406, 320, 1929, 49407}, 2, 4)
		out := encoder.Forward(s, ids, clip.Options{Skip: 1, Raw: true})
		fmt.Println(out.Hidden.Shape(), out.Pooled.Shape())
		return nil
	})
	fmt.Println(err)
	// Output:
	// [2 4 32] [2 16]
	// <nil>
}
