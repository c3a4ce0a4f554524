package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/unet"
)

func TestClassNamed(t *testing.T) {
	model := func(n int, names ...string) Description {
		return Description{ClassNames: names, Network: network.Config{Net: unet.Config{Classes: n}}}
	}
	fashion := model(4, "T-shirt/top", "Ankle boot", "Bag", "maple_tree")
	digits := model(3, "1", "2", "3") // folders that are called so
	for _, c := range []struct {
		d     Description
		name  string
		label int
	}{
		{fashion, "Bag", 2}, {fashion, "bag", 2}, {fashion, "ankle-boot", 1}, {fashion, "Maple Tree", 3}, {fashion, "3", 3}, {fashion, " 0", 0},
		{digits, "2", 1}, {digits, "0", 0}, {model(3), "2", 2},
		{model(2, "a", "A"), "A", 1},
	} {
		label, err := c.d.ClassNamed(c.name)
		require.NoError(t, err, c.name)
		require.Equal(t, c.label, label, c.name)
	}
	for _, c := range []struct {
		d          Description
		name, want string
	}{
		{fashion, "Bog", `no class "Bog"`}, {fashion, "ankle bot", "Ankle boot"}, {fashion, "tree", "maple_tree"}, {fashion, "shirt", "T-shirt/top"},
		{fashion, "4", "0 to 3 (T-shirt/top"}, {fashion, "-1", "0 to 3"}, {fashion, "boat", "Ankle boot"}, {fashion, "\x1b[2J", `\x1b[2J`},
		{model(2, "Ab", "aB"), "ab", "Ab or aB"}, {model(3), "cat", "no class names"}, {model(0), "cat", "no classes"},
	} {
		_, err := c.d.ClassNamed(c.name)
		require.ErrorContains(t, err, c.want, c.name)
	}
}
