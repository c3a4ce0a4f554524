package network_test

import (
	"encoding/json"
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/torch"
)

// A network is built from JSON, as a model file has it, and told a guidance scale besides.
func Example() {
	var c network.Config
	if err := json.Unmarshal([]byte(`{"unet": {"resolution": 16, "channels": 16, "mult": [1, 2], "classes": 10}}`), &c); err != nil {
		log.Fatal(err)
	}
	net, err := network.New(c.Told(false, true, false), torch.CPU, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer net.Close()
	made, _ := network.Of(net)
	fmt.Println(made.Name(), made.Shape(), made.Classes(), made.Guidance())
	// Output: unet [3 16 16] 10 true
}
