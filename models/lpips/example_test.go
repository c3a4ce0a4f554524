package lpips_test

import (
	"fmt"
	"log"

	"github.com/onestep-go/onestep/models/lpips"
	"github.com/onestep-go/onestep/torch"
)

// Compare images in pairs. The distance of an image to itself is 0. The weights are random here; Open reads those of LPIPS.
func Example() {
	d, err := lpips.New(lpips.Config{Net: lpips.Alex}, torch.CPU, torch.Float32, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	err = torch.Run(torch.CPU, func(s *torch.Scope) error {
		g := torch.NewGenerator(s, 1)
		a := torch.Rand(s, g, torch.Float32, 2, 3, 64, 64).MulScalar(s, 2).AddScalar(s, -1) // [-1, 1]
		same, other := d.Distance(s, a, a), d.Distance(s, a, a.Neg(s))
		fmt.Println(same)
		fmt.Println(other.Min(s).Item() > 0)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// tensor([0., 0.], float32[2])
	// true
}
