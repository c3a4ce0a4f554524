package noise_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/noise"
)

// Read the noise schedule of a published model from its scheduler_config.json, and compute noise levels for sampling.
func ExampleConfig_Chain() {
	config, err := noise.ParseConfig([]byte(`{"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
		"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon"}`))
	if err != nil {
		log.Fatal(err)
	}
	chain, err := config.Chain()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d steps, σ from %.3f to %.2f\n", chain.Steps(), chain.Sigma(0), chain.Sigma(chain.Steps()-1))
	fmt.Printf("%.3f\n", noise.Karras(4, chain.Sigma(999), chain.Sigma(0), 7))
	// Output:
	// 1000 steps, σ from 0.029 to 14.61
	// [14.615 3.169 0.447 0.029]
}
