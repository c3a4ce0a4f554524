// Command fullsize writes a Stable Diffusion model with the published shapes and deterministic made-up weights, to measure memory and time
// without the real weights. It generates noise.
//
//	fullsize -kind sd15|lcm15|sdxl|ssd1b [-dtype f32|bf16|f16] -out DIR
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	"github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
)

func main() {
	kind := flag.String("kind", "sd15", "model: sd15, lcm15, sdxl or ssd1b")
	dtype := flag.String("dtype", "bf16", "data type of the weights: f32, bf16 or f16")
	out := flag.String("out", "", "directory to write (required)")
	flag.Parse()
	if err := run(*kind, *dtype, *out); err != nil {
		fmt.Fprintln(os.Stderr, "fullsize:", err)
		os.Exit(1)
	}
}

func run(kind, dtype, out string) error {
	nets := map[string]unet.Config{"sd15": unet.SD15(), "lcm15": unet.LCM15(), "sdxl": unet.SDXL(), "ssd1b": unet.SSD1B()}
	net, ok := nets[kind]
	d, known := map[string]torch.DType{"f32": torch.Float32, "bf16": torch.BFloat16, "f16": torch.Float16}[dtype]
	if !ok || !known || out == "" {
		return fmt.Errorf("want -kind sd15, lcm15, sdxl or ssd1b, -dtype f32, bf16 or f16, and -out DIR, got %q, %q, %q", kind, dtype, out)
	}
	m := &weights.Model{Scheduler: []byte(`{"_class_name": "LCMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
		"num_train_timesteps": 1000, "original_inference_steps": 50, "prediction_type": "epsilon"}`)}
	auto := vae.SD15()
	if net.AdditionEmbedType != "" {
		auto = vae.SDXL()
		m.ZeroNegative = true
		m.Text2 = part(clip.BigG(), clip.Shapes(clip.BigG()))
	}
	m.Text, m.VAE, m.UNet = part(clip.L(), clip.Shapes(clip.L())), part(auto, vae.Shapes(auto)), part(net, unet.Shapes(net))
	return weights.WriteFolder(out, m, weights.WriteOptions{DType: &d, Tokenizer: func(dir string, second bool) error {
		t := prompt.Default()
		if second {
			t = t.WithPad(0)
		}
		return t.Save(dir)
	}})
}

func part(config any, shapes sdtest.Filled) *weights.Component {
	data, err := json.Marshal(config)
	if err != nil {
		panic(err) // our configurations can always be marshalled
	}
	return &weights.Component{Config: data, Source: shapes}
}
