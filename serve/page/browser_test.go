package page_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/onestep-go/onestep/models/sd/prompt"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/stretchr/testify/require"
)

// colour is that of the shown image.
func (p *tab) colour() color.NRGBA {
	p.t.Helper()
	c := eval[[]byte](p, `(() => {
		const img = document.querySelector('#frame img');
		const c = new OffscreenCanvas(1, 1).getContext('2d');
		if (img?.naturalWidth) c.drawImage(img, 0, 0, 1, 1);
		return btoa(String.fromCharCode(...c.getImageData(0, 0, 1, 1).data));
	})()`)
	return color.NRGBA{c[0], c[1], c[2], c[3]}
}

// shows waits until the image has the colour of a prompt.
func (p *tab) shows(prompt string, seed uint64) {
	p.t.Helper()
	want := of(prompt, seed)
	for end := time.Now().Add(patience); p.colour() != want; time.Sleep(10 * time.Millisecond) {
		require.True(p.t, time.Now().Before(end), "the image is not that of %q: %s", prompt, eval[string](p, "document.querySelector('#frame img')?.alt ?? 'none'"))
	}
}

func (p *tab) seed() uint64 {
	p.t.Helper()
	return eval[uint64](p, "document.getElementById('seed').valueAsNumber")
}

func (p *tab) text(id string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.getElementById(%q).textContent.trim()", id))
}

// first waits for the image that is there before anybody does anything.
func (p *tab) first() {
	p.t.Helper()
	p.until("document.querySelector('#frame img')?.naturalWidth && document.getElementById('meta').textContent.includes('seed')")
}

// save clicks the link to save the image, and returns the file of that name.
func (p *tab) save(name string) []byte {
	p.t.Helper()
	dir := p.t.TempDir()
	p.c.call(p.t, "", "Browser.setDownloadBehavior", obj{"behavior": "allow", "downloadPath": dir, "browserContextId": p.context}, nil)
	p.click("#save")
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && bytes.HasSuffix(data, []byte("IEND\xaeB`\x82")) {
			return data
		}
		require.True(p.t, time.Now().Before(end), "no file %s: %v", name, err)
	}
}

// parameters are the settings in a PNG.
func parameters(t *testing.T, data []byte) string {
	t.Helper()
	texts, err := vision.ReadTexts(bytes.NewReader(data))
	require.NoError(t, err)
	for _, text := range texts {
		if text.Keyword == vision.Parameters {
			return text.Value
		}
	}
	return ""
}

const settled = "document.querySelectorAll('.past').length === %d"

func TestPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	c := browser(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *chrome)
	}{
		{"typing", typing}, {"newest", newest}, {"follows", follows}, {"edits", edits}, {"controls", controls}, {"classes", classes}, {"inputs", inputs}, {"no inputs", noInputs}, {"mask keys", maskKeys}, {"history", history},
		{"settings of files", settingsOfFiles}, {"key", key}, {"lost", lost}, {"errors", failures}, {"keyboard", keyboard}, {"accessible", accessible}, {"units", units}, {"built-in model", builtinModel},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.test(t, c)
		})
	}
}

// The image follows while somebody types, and says what it cost.
func typing(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}, notices: []string{"guidance: not used"}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	require.Equal(t, "a cat", f.last(t, func(engine.Request) bool { return true }).Prompt) // which a new user finds
	p.do("document.getElementById('prompt').select()")
	text := ""
	for _, part := range []string{"a", " red", " house"} {
		p.insert(part)
		text += part
		p.shows(text, p.seed())
	}
	require.Regexp(t, `^\d+\.\d\d s(, \d+\.\d\d s of it in the queue)? · 4 steps · 64 × 64 · seed \d+$`, p.text("meta"))
	require.Equal(t, "Guidance: not used", p.text("notices"))
	require.Equal(t, fmt.Sprintf("Generated image: a red house, seed %d", p.seed()), eval[string](p, "document.querySelector('#frame img').alt"))
	p.until(`document.getElementById('status').textContent.startsWith('1 image: ')`) // for those who do not see it

	// Enter makes another one.
	before := p.seed()
	p.press("Enter")
	p.until(fmt.Sprintf("document.getElementById('seed').valueAsNumber !== %d", before))
	p.shows(text, p.seed())
	name := fmt.Sprintf("a-red-house-%d.png", p.seed())
	p.until(fmt.Sprintf("document.getElementById('save').download === %q", name))
	saved := p.save(name)
	require.Contains(t, parameters(t, saved), fmt.Sprintf("a red house\nSteps: 4, CFG scale: 2.5, Seed: %d,", p.seed()))
	p.quiet()
}

// A newer request ends an older one, and an image never takes the place of a newer one's.
func newest(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 800, 600)
	p.first()
	p.do(`window.alts = []; new MutationObserver(() => alts.push(document.querySelector('#frame img').alt)).observe(document.getElementById('frame'), { subtree: true, attributes: true, attributeFilter: ['alt'] })`)
	p.do("document.getElementById('prompt').select()")
	p.insert("slow one")
	f.last(t, func(r engine.Request) bool { return r.Prompt == "slow one" })
	p.do("document.getElementById('prompt').select()")
	p.insert("quick one")
	p.shows("quick one", p.seed())
	for _, alt := range eval[[]string](p, "alts") {
		require.NotContains(t, alt, "slow")
	}
	require.Eventually(t, func() bool { return slices.Equal(f.ended(), []string{"slow one"}) }, patience, 10*time.Millisecond)

	// Escape ends it, too, and leaves the image.
	p.do("document.getElementById('prompt').select()")
	p.insert("slow two")
	f.last(t, func(r engine.Request) bool { return r.Prompt == "slow two" })
	p.press("Escape")
	p.until("document.getElementById('meta').textContent === 'Stopped.' && document.getElementById('progress').hidden")
	require.Equal(t, of("quick one", p.seed()), p.colour())

	// Without updates while typing, Enter makes the image.
	p.click("#settings-button")
	p.choose("live", "off")
	n := f.count()
	p.do("document.getElementById('prompt').focus(); document.getElementById('prompt').select()")
	p.insert("third")
	time.Sleep(200 * time.Millisecond)
	require.Equal(t, n, f.count())
	p.press("Enter")
	p.shows("third", p.seed())
	p.quiet()
}

// Every control is in the request.
func controls(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion, emoji}}
	p := c.open(t, serve(t, f).URL, 1280, 900)
	p.first()
	p.click("#settings-button")
	slide := func(id string, keys ...string) {
		p.do(fmt.Sprintf("document.getElementById(%q).focus()", id))
		p.press(keys...)
	}
	slide("steps", "ArrowLeft", "ArrowLeft")
	require.Equal(t, "7.5 (default)", p.text("guidance-value"))
	slide("guidance", "ArrowRight", "ArrowRight", "ArrowRight")
	p.do("document.getElementById('seed').focus(); document.getElementById('seed').select()")
	p.insert("-5")
	require.True(t, eval[bool](p, "!document.getElementById('seed-error').hidden && document.getElementById('seed').getAttribute('aria-invalid') === 'true'"))
	p.do("document.getElementById('seed').select()")
	p.insert("4711")
	require.True(t, eval[bool](p, "document.getElementById('seed-error').hidden"))
	require.Equal(t, "Euler a", eval[string](p, "document.querySelector('#sampler option[value=euler_a]').textContent")) // as A1111 calls it
	p.choose("sampler", "lcm")
	p.choose("size", "640x448")
	p.click("#negative")
	p.insert("blurry")
	p.choose("adapter", "ink")
	slide("adapter-ink", "ArrowLeft", "ArrowLeft")
	p.click("#variations")
	r := f.last(t, func(r engine.Request) bool { return r.N == 9 })
	require.Equal(t, []any{"a cat", 2, 9.0, uint64(4711), "lcm", 640, 448, "blurry", "tiny-sd"}, []any{r.Prompt, r.Steps, r.Guidance, *r.Seed, r.Sampler, r.Width, r.Height, r.Negative, r.Model})
	require.Equal(t, []prompt.LoRA{{Name: "ink", Weight: 0.9, Text: 0.9}}, r.LoRAs)
	p.until("document.querySelectorAll('#frame button img').length === 9 && [...document.querySelectorAll('#frame img')].every((i) => i.naturalWidth === 640)")
	p.until("document.getElementById('save').download === 'a-cat-4711-9.png'")
	sheet := p.save("a-cat-4711-9.png")
	require.Contains(t, parameters(t, sheet), "Seed: 4711,")
	img, err := vision.Decode(sheet)
	require.NoError(t, err)
	require.Equal(t, image.Pt(3*640, 3*448), img.Bounds().Size())
	r8, g8, b8, _ := img.At(1000, 500).RGBA()
	require.Equal(t, of("a cat", 4715), color.NRGBA{byte(r8 >> 8), byte(g8 >> 8), byte(b8 >> 8), 255}) // the fifth

	// A variation that is chosen becomes the image, without a request.
	n := f.count()
	p.click("#frame button:nth-child(3)")
	p.until("document.querySelectorAll('#frame button').length === 0")
	require.Equal(t, of("a cat", 4713), p.colour())
	require.Equal(t, uint64(4713), p.seed())
	require.Equal(t, n, f.count())

	p.click("#adapters button")
	p.click("#reset")
	r = f.last(t, func(r engine.Request) bool {
		return r.Steps == 0 && r.N == 1 && len(r.LoRAs) == 0 && r.Sampler == "" && r.Width == 0
	})
	require.Equal(t, "a cat", r.Prompt)

	// What is for prompts is kept while a model with classes is used, and the other way round.
	p.do("document.getElementById('negative').focus(); document.getElementById('negative').select()")
	p.insert("grey")
	p.choose("adapter", "ink")
	f.last(t, func(r engine.Request) bool { return r.Negative == "grey" && len(r.LoRAs) == 1 })
	p.choose("model", "emoji")
	r = f.last(t, func(r engine.Request) bool { return r.Model == "emoji" })
	require.Empty(t, r.Prompt)
	p.click("#classes label:nth-of-type(3)")
	f.last(t, func(r engine.Request) bool { return r.Prompt == "Animals" })
	n = f.count()
	p.choose("model", "tiny-sd")
	r = f.last(t, func(r engine.Request) bool { return f.count() > n && r.Model == "tiny-sd" })
	require.Equal(t, []any{"a cat", "grey", 1}, []any{r.Prompt, r.Negative, len(r.LoRAs)})
	p.call("Page.reload", obj{}) // which they survive
	p.first()
	p.choose("model", "emoji")
	f.last(t, func(r engine.Request) bool { return f.count() > n+1 && r.Model == "emoji" && r.Prompt == "Animals" })

	// Nothing is generated of no prompt; examples are offered.
	p.choose("model", "tiny-sd")
	p.until("document.getElementById('prompt').value === 'a cat'")
	p.do("(() => { const e = document.getElementById('prompt'); e.value = ''; e.dispatchEvent(new Event('input')); })()")
	p.until("!document.getElementById('examples').hidden && document.getElementById('generate').disabled")
	time.Sleep(200 * time.Millisecond)
	f.mu.Lock()
	for _, r := range f.requests {
		require.False(t, r.Model == "tiny-sd" && r.Prompt == "")
	}
	f.mu.Unlock()
	p.click("#examples button:nth-of-type(2)")
	p.until("document.getElementById('examples').hidden")
	text := eval[string](p, "document.getElementById('prompt').value")
	f.last(t, func(r engine.Request) bool { return text != "" && r.Prompt == text })

	// An adapter that cannot be used does not stay selected.
	f.next(&engine.RequestError{Field: "LoRAs", Msg: `adapter "ink": ink.safetensors: no`})
	n = f.count()
	p.click("#dice")
	f.last(t, func(r engine.Request) bool { return f.count() > n+1 && len(r.LoRAs) == 0 })
	p.until("document.querySelectorAll('#adapters li').length === 0 && document.querySelector('#notices .error')")
	p.quiet("400")
}

// Images that take longer than somebody needs for a letter come while they type; the button stops what takes a while.
func follows(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}, takes: 600 * time.Millisecond}
	p := c.open(t, serve(t, f).URL, 800, 600)
	p.first()
	p.do(`window.alts = new Set(); new MutationObserver(() => alts.add(document.querySelector('#frame img').alt)).observe(document.getElementById('frame'), { subtree: true, attributes: true, attributeFilter: ['alt'] });
		document.getElementById('prompt').select()`)
	for range 20 {
		p.insert("x")
		time.Sleep(120 * time.Millisecond)
	}
	require.GreaterOrEqual(t, eval[int](p, "alts.size"), 1)
	p.until("document.getElementById('generate').textContent === 'Stop'")
	p.click("#generate")
	p.until("document.getElementById('generate').textContent === 'Generate' && document.getElementById('meta').textContent === 'Stopped.'")
	p.quiet()
}

// With a mask the slider has the number of steps that are taken, and an image that was made can be the input.
func edits(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{emoji}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.click("#frame button:first-child")
	p.until("!document.getElementById('use').hidden")
	p.click("#use")
	f.last(t, func(r engine.Request) bool { return r.Init != nil })
	p.click("#chip-open") // which shows that there is one
	p.until("document.activeElement.id === 'mask-open'")
	require.LessOrEqual(t, eval[float64](p, "document.getElementById('mask-open').getBoundingClientRect().bottom"), 800.0)
	require.Equal(t, "2 steps (default)", p.text("steps-value"))
	p.press("Enter")
	p.until("document.activeElement.id === 'mask-canvas'")
	p.press(" ")
	p.until("document.getElementById('steps-value').textContent === '40 steps (default)' && document.getElementById('steps').max === '50'")
	r := f.last(t, func(r engine.Request) bool { return r.Mask != nil })
	require.Zero(t, r.Strength, "which has no effect with a mask")
	require.True(t, eval[bool](p, "document.getElementById('strength-field').hidden"))
	p.press("Escape")
	p.click("#chip-remove")
	p.until("document.getElementById('chip').hidden && document.getElementById('steps-value').textContent === '1 step (default)' && !document.getElementById('strength-field').hidden")
	p.quiet()
}

// A model with classes has them in place of a prompt, and with few pixels nine images.
func classes(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{emoji}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	require.Equal(t, 9, f.last(t, func(engine.Request) bool { return true }).N)
	p.until("document.querySelectorAll('#frame img').length === 9 && document.querySelector('#frame.pixels')")
	require.True(t, eval[bool](p, "document.getElementById('prompt-field').hidden && !document.getElementById('classes').hidden"))
	p.click("#classes label:nth-of-type(3)")
	p.shows("Animals", p.seed())
	p.press("ArrowRight") // radio buttons
	p.shows("Food", p.seed())

	// Squares are of one size: a whole multiple.
	side := eval[float64](p, "document.querySelector('#frame img').width")
	require.Zero(t, int(side)%32, "a side of %g", side)
	p.quiet()

	many := emoji
	many.Classes = nil
	for i := range 100 {
		many.Classes = append(many.Classes, fmt.Sprintf("class %d", i))
	}
	many.Classes[42] = "goldfish"
	f = &fake{models: []engine.Info{many}}
	p = c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.click("#class")
	p.insert("gold")
	p.shows("goldfish", p.seed())
	p.quiet()
}

// file is a PNG.
func file(t *testing.T, w, h int, texts ...vision.Text) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i := range img.Pix {
		img.Pix[i] = byte(i | 128)
	}
	var b bytes.Buffer
	require.NoError(t, vision.EncodePNG(&b, img, texts))
	return b.Bytes()
}

// A dropped image is the input, and what is painted is its mask.
func inputs(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.drop("photo.png", "image/png", file(t, 300, 200))
	r := f.last(t, func(r engine.Request) bool { return r.Init != nil })
	require.Equal(t, image.Pt(300, 200), r.Init.Bounds().Size())
	require.Equal(t, []any{0.6, "a cat", 640, 448}, []any{r.Strength, r.Prompt, r.Width, r.Height}) // its shape, with the model's number of pixels
	require.Nil(t, r.Mask)

	p.click("#settings-button")
	p.do("document.getElementById('strength').focus()")
	p.press("ArrowRight", "ArrowRight")
	f.last(t, func(r engine.Request) bool { return r.Init != nil && r.Strength == 0.7 })

	p.click("#mask-open")
	p.until("document.getElementById('mask-dialog').open")
	box := eval[[]float64](p, "(({ x, y, width, height }) => [x, y, width, height])(document.getElementById('mask-canvas').getBoundingClientRect())")
	at := func(x, y float64) (float64, float64) { return box[0] + box[2]*x, box[1] + box[3]*y }
	stroke := func() {
		x, y := at(0.25, 0.5)
		p.mouse("mousePressed", x, y)
		x, y = at(0.4, 0.5)
		p.mouse("mouseMoved", x, y)
		p.mouse("mouseReleased", x, y)
	}
	stroke()
	masked := func(r engine.Request) bool { return r.Mask != nil }
	r = f.last(t, masked)
	white := func(r engine.Request, x, y float64) bool {
		b := r.Mask.Bounds()
		v, _, _, _ := r.Mask.At(b.Min.X+int(x*float64(b.Dx())), b.Min.Y+int(y*float64(b.Dy()))).RGBA()
		return v > 0x8000
	}
	require.True(t, white(r, 0.3, 0.5))
	require.False(t, white(r, 0.8, 0.5))
	require.False(t, white(r, 0.3, 0.02))

	n := f.count()
	p.click("#mask-invert")
	f.last(t, func(r engine.Request) bool {
		return f.count() > n && masked(r) && !white(r, 0.3, 0.5) && white(r, 0.8, 0.5)
	})
	p.click("#mask-undo")
	p.click("#mask-erase")
	stroke()
	f.last(t, func(r engine.Request) bool { return r.Init != nil && r.Mask == nil && r.Strength == 0.7 }) // nothing is left of it
	p.click("#mask-done")
	p.until("!document.getElementById('mask-dialog').open")

	p.click("#input-remove")
	p.until("document.getElementById('input-some').hidden && !document.getElementById('input-none').hidden")

	// Pasting is as good as dropping; a file that is no image is said to be none.
	p.do(`(() => {
		const clipboardData = new DataTransfer();
		clipboardData.items.add(new File(['no image'], 'a.png', { type: 'image/png' }));
		document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
	})()`)
	p.until("document.querySelector('#notices .error')?.textContent.includes('cannot be read')")
	p.quiet()
}

// A model without an encoder has no use for an input image, and says so.
func noInputs(t *testing.T, c *chrome) {
	deaf := diffusion
	deaf.Name, deaf.Images, deaf.Guided = "decoder-only", false, false
	f := &fake{models: []engine.Info{diffusion, deaf}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.click("#settings-button")
	p.drop("photo.png", "image/png", file(t, 64, 64))
	f.last(t, func(r engine.Request) bool { return r.Init != nil })
	p.choose("model", "decoder-only")
	r := f.last(t, func(r engine.Request) bool { return r.Model == "decoder-only" })
	require.Nil(t, r.Init)
	require.True(t, eval[bool](p, "document.getElementById('input-field').hidden && document.getElementById('guidance-field').hidden"))
	p.drop("photo.png", "image/png", file(t, 64, 64))
	p.until("document.querySelector('#notices .error')?.textContent === 'decoder-only takes no input images.'")
	p.quiet()
}

// A mask is painted by keys alone.
func maskKeys(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.drop("photo.png", "image/png", file(t, 64, 64))
	f.last(t, func(r engine.Request) bool { return r.Init != nil })
	p.click("#settings-button")
	p.do("document.getElementById('mask-open').focus()")
	p.press("Enter")
	p.until("document.activeElement.id === 'mask-canvas'")
	p.press("[", "[", "[", "[", "[")
	p.down(" ", false)
	for range 6 {
		p.press("ArrowLeft")
	}
	p.up(" ")
	r := f.last(t, func(r engine.Request) bool { return r.Mask != nil })
	painted := func(x, y int) bool { v, _, _, _ := r.Mask.At(x, y).RGBA(); return v > 0x8000 }
	require.True(t, painted(32, 32) && painted(22, 32))
	require.False(t, painted(50, 32) || painted(32, 50))
	p.press("Escape")
	p.until("!document.getElementById('mask-dialog').open && document.activeElement.id === 'mask-open'")
	p.quiet()
}

// What was made is there after a reload, and comes back with its settings.
func history(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	seed := p.seed()
	p.until(fmt.Sprintf(settled, 1))
	p.do("document.getElementById('prompt').select()")
	p.insert("second")
	p.shows("second", seed)
	p.until(fmt.Sprintf(settled, 2))

	n := f.count()
	p.call("Page.reload", obj{})
	p.until(fmt.Sprintf(settled, 2) + " && document.querySelector('#frame img')?.naturalWidth")
	p.shows("second", seed) // from the history: nobody has to wait
	require.Equal(t, n, f.count())

	p.do("document.querySelector('.past .restore').focus()")
	p.press("ArrowRight")
	p.press("Enter")
	p.shows("a cat", seed)
	require.Equal(t, "a cat", eval[string](p, "document.getElementById('prompt').value"))
	require.Equal(t, n, f.count())
	require.Equal(t, "true", eval[string](p, "document.querySelector('.past:last-child .restore').getAttribute('aria-current')"))

	p.press("Delete")
	p.until(fmt.Sprintf(settled, 1))
	require.True(t, eval[bool](p, "document.activeElement.className === 'restore'"))
	p.click("#notices button.link") // undo
	p.until(fmt.Sprintf(settled, 2))
	p.click("#history-clear")
	p.until(fmt.Sprintf(settled, 0))
	p.click("#notices button.link")
	p.until(fmt.Sprintf(settled, 2))
	p.click("#history-clear")
	p.until(fmt.Sprintf(settled, 0))
	p.call("Page.reload", obj{})
	p.first()
	require.True(t, eval[bool](p, fmt.Sprintf(settled, 0)))
	p.quiet()

	// Without a database the history is there as long as the page is, which is said.
	p = c.open(t, serve(t, f).URL, 800, 600, "Object.defineProperty(window, 'indexedDB', { value: undefined })")
	p.first()
	require.Contains(t, p.text("notices"), "history")
	p.until(fmt.Sprintf(settled, 1))
	p.quiet()
}

// An image that was saved gives its settings back.
func settingsOfFiles(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{emoji, diffusion}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.drop("a.png", "image/png", file(t, 64, 64, vision.Text{Keyword: vision.Parameters, Value: "a ☕ (cup:1.2)\nof tea\nNegative prompt: ugly\nSteps: 3, Sampler: Euler a, CFG scale: 2.5, Seed: 99, Size: 512x512, Model: other"}))
	p.until("document.getElementById('opened-dialog').open")
	p.click("#opened-dialog .primary")
	r := f.last(t, func(r engine.Request) bool { return r.Model == "tiny-sd" })
	require.Equal(t, []any{"a ☕ (cup:1.2)\nof tea", "ugly", 3, 2.5, uint64(99), "euler_a", 0}, []any{r.Prompt, r.Negative, r.Steps, r.Guidance, *r.Seed, r.Sampler, r.Width})
	require.Nil(t, r.Init)

	// Names of models with the hash of their files, as older images have them, and with that of other files.
	for name, notices := range map[string]int{"tiny-sd": 0, "tiny-file-0a1b2c3d": 0, "tiny-sd-0a1b2c3d": 0, "tiny-sd-ffffffff": 1, "other-0a1b2c3d": 1} {
		got := eval[map[string]any](p, fmt.Sprintf(`import('/static/infotext.js').then(({ fromTexts }) => { const { settings, notices } =
			fromTexts({ parameters: 'a cup\nSteps: 3, Model: %s' }, [{ name: 'first', prompts: true, samplers: [] }, { name: 'tiny-sd', file: 'tiny-file-0a1b2c3d', prompts: true, samplers: [] }]); return { model: settings.model, n: notices.length }; })`, name))
		require.EqualValues(t, notices, got["n"], name)
		require.Equal(t, name != "other-0a1b2c3d", got["model"] == "tiny-sd", name)
	}

	p.drop("b.png", "image/png", file(t, 32, 32, vision.Text{Keyword: "onestep", Value: `{"model":"emoji","sampler":"multistep","steps":2,"label":1,"n":1,"seed":5}`}))
	p.until("document.getElementById('opened-dialog').open")
	p.press("Enter")
	r = f.last(t, func(r engine.Request) bool { return r.Model == "emoji" && r.Prompt == "Animals" })
	require.Equal(t, []any{2, uint64(5)}, []any{r.Steps, *r.Seed})

	// The server reads the settings of other formats.
	img := image.NewNRGBA(image.Rect(0, 0, 16, 16))
	var jpeg bytes.Buffer
	require.NoError(t, vision.EncodeJPEG(&jpeg, img, []vision.Text{{Keyword: vision.Parameters, Value: "a saucer\nSteps: 7, Seed: 3"}}))
	p.drop("c.jpg", "image/jpeg", jpeg.Bytes())
	p.until("document.getElementById('opened-dialog').open")
	p.click("#opened-dialog .primary")
	r = f.last(t, func(r engine.Request) bool { return r.Prompt == "a saucer" })
	require.Equal(t, []any{7, uint64(3), "tiny-sd"}, []any{r.Steps, *r.Seed, r.Model})

	p.drop("a.png", "image/png", file(t, 64, 64, vision.Text{Keyword: vision.Parameters, Value: "a cup\nSteps: 3"}))
	p.until("document.getElementById('opened-dialog').open")
	p.click("#opened-dialog button[value=input]")
	r = f.last(t, func(r engine.Request) bool { return r.Init != nil })
	require.Equal(t, "a saucer", r.Prompt)
	p.quiet()
}

// A server with keys is asked with one, which the page asks for once.
func key(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	s := serve(t, f)
	s.set("secret", false)
	p := c.open(t, s.URL, 800, 600)
	p.until("document.getElementById('key-dialog').open")
	p.press("Escape") // nobody is held here
	p.until("!document.getElementById('key-dialog').open && document.querySelector('#notices .error')?.textContent.includes('API key')")
	p.press("Enter")
	p.until("document.getElementById('key-dialog').open")
	p.insert("wrong")
	p.press("Enter")
	p.until("document.getElementById('key-dialog').open && document.getElementById('key-text').textContent.includes('refused')")
	require.Zero(t, f.count())
	p.insert("secret")
	p.press("Enter")
	p.first()
	p.call("Page.reload", obj{})
	p.until(`document.getElementById('model-name')?.textContent`)
	require.False(t, eval[bool](p, "document.getElementById('key-dialog').open"))
	require.False(t, eval[bool](p, "JSON.stringify(localStorage).includes('secret')"))
	p.quiet("401")
}

// A server that is gone is looked for until it is back; then the image is made.
func lost(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	s := serve(t, f)
	p := c.open(t, s.URL, 800, 600)
	p.first()
	s.set("", true)
	p.do("document.getElementById('prompt').select()")
	p.insert("after the crash")
	p.until("!document.getElementById('lost').hidden")
	s.set("", false)
	p.shows("after the crash", p.seed())
	p.until("document.getElementById('lost').hidden")

	f.next(engine.ErrClosed) // it is about to end
	p.insert(" again")
	p.until("document.getElementById('lost').textContent.includes('stopping')")
	p.shows("after the crash again", p.seed())
	p.until("document.getElementById('lost').hidden")
	p.quiet("ERR_", "503")
}

// Errors are said in the server's words, a full queue is asked again, and a page without images says why.
func failures(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 800, 600)
	p.first()
	f.next(&engine.RequestError{Field: "Prompt", Msg: "want no dogs"})
	p.insert("a dog")
	p.until("document.querySelector('#notices .error')?.textContent === 'Prompt: want no dogs'")
	f.next(errTest)
	p.insert("s")
	p.until("document.querySelector('#notices .error')?.textContent.includes('log')")
	f.next(engine.ErrFull)
	p.insert("!")
	p.until("document.getElementById('notices').textContent.includes('busy')")
	p.shows("a dogs!", p.seed())
	require.Empty(t, p.text("notices"))
	p.quiet("400", "429", "500")
}

// All of it works without a mouse.
func keyboard(t *testing.T, c *chrome) {
	f := &fake{models: []engine.Info{diffusion}}
	p := c.open(t, serve(t, f).URL, 1280, 800)
	p.first()
	p.until(fmt.Sprintf(settled, 1))
	require.Equal(t, "prompt", eval[string](p, "document.activeElement.id"))
	seed := p.seed()
	var seen []string
	for range 7 {
		p.press("Tab")
		seen = append(seen, eval[string](p, "document.activeElement.id || document.activeElement.className"))
	}
	require.Equal(t, []string{"dice", "variations", "use", "save", "generate", "restore", "history-clear"}, seen)
	p.press("Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab", "Shift+Tab", " ") // the dice
	p.until(fmt.Sprintf("document.getElementById('seed').valueAsNumber !== %d", seed))
	p.press("Shift+Tab", "Shift+Tab", " ") // the settings, before the prompt
	require.Equal(t, "settings", eval[string](p, "document.activeElement.id"))
	p.press("Tab", "Tab", "Tab", "ArrowRight")
	f.last(t, func(r engine.Request) bool { return r.Steps == 5 })
	p.until("document.getElementById('meta').textContent.includes('5 steps')") // while it is made, Escape ends it
	p.press("Escape")
	require.Equal(t, "settings-button", eval[string](p, "document.activeElement.id"))
	p.quiet()
}

// axe-core finds nothing serious, in light and dark, and nothing is wider than a narrow window.
func accessible(t *testing.T, c *chrome) {
	script := axe(t)
	check := func(p *tab, what string) {
		t.Helper()
		require.LessOrEqual(t, eval[int](p, "document.documentElement.scrollWidth - document.documentElement.clientWidth"), 0, what)
		p.do(script + "; undefined")
		var found []struct {
			ID, Impact, Help string
			Nodes            []struct {
				HTML           string `json:"html"`
				FailureSummary string
			}
		}
		data := eval[string](p, `axe.run().then((r) => JSON.stringify(r.violations))`)
		require.NoError(t, json.Unmarshal([]byte(data), &found))
		for _, v := range found {
			t.Logf("%s: %s: %s %+v", what, v.Impact, v.Help, v.Nodes)
			require.NotContains(t, []string{"serious", "critical"}, v.Impact, "%s: %s", what, v.ID)
		}
	}
	f := &fake{models: []engine.Info{diffusion, emoji}, notices: []string{"a notice"}}
	s := serve(t, f)
	for _, scheme := range []string{"light", "dark"} {
		p := c.open(t, s.URL, 1280, 900)
		p.scheme(scheme)
		p.first()
		p.until(fmt.Sprintf(settled, 1))
		check(p, scheme)
		p.drop("photo.png", "image/png", file(t, 64, 64))
		f.last(t, func(r engine.Request) bool { return r.Init != nil })
		p.click("#settings-button")
		p.choose("adapter", "ink")
		check(p, scheme+", settings")
		p.click("#mask-open")
		p.until("document.getElementById('mask-dialog').open")
		p.press("i")
		check(p, scheme+", mask")
		p.press("Escape")
		p.resize(320, 640)
		check(p, scheme+", narrow, settings")
		p.click("#settings-close")
		p.choose("model", "emoji")
		f.last(t, func(r engine.Request) bool { return r.Model == "emoji" })
		check(p, scheme+", narrow, classes")
		p.quiet()
	}
}
