package network_test

import (
	"encoding/json"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
)

// Build a network from the JSON of a model file, with a guidance scale as an additional input.
func Example() {
	var c network.Config
	if err := json.Unmarshal([]byte(`{"unet": {"resolution": 16, "channels": 16, "mult": [1, 2], "classes": 10}}`), &c); err != nil {
		log.Fatal(err)
	}
	net, err := network.New(c.With(c.Inputs().And(models.Inputs{Guidance: true})), torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	made, _ := network.Of(net)
	fmt.Println(made.Name(), made.Shape(), made.Classes(), made.Guidance())
	// Output: unet [3 16 16] 10 true
}

// A preset with default options for greyscale images of 28×28 pixels and 10 classes, and its configuration in JSON.
func ExamplePreset() {
	preset, err := network.PresetNamed("dit")
	if err != nil {
		log.Fatal(err)
	}
	config, err := preset.Config(preset.Options(), 1, 28)
	if err != nil {
		log.Fatal(err)
	}
	config = config.With(models.Inputs{Classes: 10})
	net, err := network.New(config, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	text, err := json.Marshal(config)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.Summary(), config.Count())
	fmt.Println(string(text))
	// Output:
	// DiT, depth 6, width 192, patches of 1×1 pixels 4161793
	// {"dit":{"resolution":28,"in_channels":1,"out_channels":1,"patch":1,"width":192,"depth":6,"heads":3,"mlp_width":768,"freqs":256,"mlp_norm_eps":0.000001,"classes":10}}
}
