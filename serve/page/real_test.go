package page_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/openai"
	"github.com/onestep-go/onestep/serve/page"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { torchtest.Main(m) }

func openBuiltin() (*generate.Model, error) {
	file, err := builtin.Open(torch.CPU)
	if err != nil {
		return nil, err
	}
	return generate.OwnFile(file.File)
}

// The page and the built-in model, from the first image to one that gives its settings back.
func builtinModel(t *testing.T, c *chrome) {
	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "builtin", Open: openBuiltin}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	mux := http.NewServeMux()
	mux.Handle("/", page.New(e, page.Options{}))
	mux.Handle("/v1/", openai.New(e, openai.Options{}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)

	p := c.open(t, s.URL, 1280, 800)
	nine := "document.querySelectorAll('#frame img').length === 9 && [...document.querySelectorAll('#frame img')].every((i) => i.naturalWidth === 32)"
	p.until(nine + " && document.getElementById('progress').hidden")
	require.Regexp(t, `^Variation 1: [A-Z].*, seed \d+$`, eval[string](p, "document.querySelector('#frame img').alt")) // the name of its class
	p.click("#classes label:nth-of-type(4)")                                                                           // animals
	p.until("document.querySelector('#frame img').alt.includes('Animals') && document.getElementById('save').download.startsWith('animals-nature-')")
	p.click("#frame button:nth-child(2)")
	seed := p.seed()
	name := fmt.Sprintf("animals-nature-%d.png", seed)
	p.until(fmt.Sprintf("document.getElementById('save').download === %q", name))
	saved := p.save(name)
	img, err := vision.Decode(saved)
	require.NoError(t, err)
	require.Equal(t, 32, img.Bounds().Dx())

	p.click("#dice")
	p.until(fmt.Sprintf("document.getElementById('seed').valueAsNumber !== %d && document.getElementById('save').download !== %q", seed, name))
	p.drop(name, "image/png", saved)
	p.until("document.getElementById('opened-dialog').open")
	p.press("Enter")
	p.until(fmt.Sprintf("document.getElementById('save').download === %q", name))
	again, err := vision.Decode(p.save(name))
	require.NoError(t, err)
	for y := range 32 { // alone it is computed in other sums than among nine: a value may round otherwise
		for x := range 32 {
			r1, g1, b1, _ := img.At(x, y).RGBA()
			r2, g2, b2, _ := again.At(x, y).RGBA()
			for i, v := range []uint32{r1, g1, b1} {
				require.InDelta(t, v>>8, []uint32{r2, g2, b2}[i]>>8, 1)
			}
		}
	}
	p.quiet("400") // the prompt of a new user, before the model was opened
}
