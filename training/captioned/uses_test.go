package captioned

import (
	"image"
	"testing"

	"github.com/stretchr/testify/require"
)

// Items and Captions list exactly what the order has of an image, as long as nothing is drawn that cannot be listed.
func TestUses(t *testing.T) {
	dir := tree(t, "a.png", gradient(40, 20, 1), "a.txt", "one, two\nthree", "b.png", gradient(20, 20, 2), "b.txt", "four")
	for _, x := range []Settings{
		{},
		{Flip: true, Dropout: 0.5, Prefix: "p", Suffix: "s"},
		{Lines: RandomLine, SecondSeparator: ";", DropoutEvery: 2},
		{Flip: true, KeepSeparator: "|||"},
	} {
		s := opened(t, dir, Options{Resolution: 16, Settings: x, PriorWeight: 0.5})
		type use struct {
			image  int
			flip   bool
			crop   image.Rectangle
			weight float64
		}
		uses, texts := map[use]bool{}, map[string]bool{}
		for i := range s.Len() {
			items, fixed := s.Items(i)
			require.True(t, fixed)
			for _, it := range items {
				uses[use{it.Image, it.Flip, it.Crop, it.Weight}] = false
				_, err := s.Read(it)
				require.NoError(t, err)
			}
			captions, fixed := s.Captions(i)
			require.True(t, fixed)
			for _, c := range captions {
				texts[c] = false
			}
		}
		n := 0
		for items := range s.Order(OrderOptions{Batch: 2}).From(0) {
			for _, it := range items {
				u := use{it.Image, it.Flip, it.Crop, it.Weight}
				require.Contains(t, uses, u)
				uses[u] = true
				if it.Caption != "" {
					require.Contains(t, texts, it.Caption)
					texts[it.Caption] = true
				}
			}
			if n++; n == 100 {
				break
			}
		}
		for u, seen := range uses {
			require.True(t, seen, "%+v", u)
		}
		for c, seen := range texts {
			require.True(t, seen, c)
		}
	}
	s := opened(t, dir, Options{Resolution: 16, Settings: Settings{RandomCrop: true, Shuffle: true}})
	_, fixed := s.Items(0)
	require.False(t, fixed)
	items, fixed := s.Items(1)
	require.True(t, fixed, "a square has one crop")
	require.Len(t, items, 1)
	for _, x := range []Settings{{Shuffle: true}, {PartDropout: 0.1}, {Wildcards: true}} {
		_, fixed := opened(t, dir, Options{Resolution: 16, Settings: x}).Captions(0)
		require.False(t, fixed)
	}
}
