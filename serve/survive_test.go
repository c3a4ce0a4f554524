package serve

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch"
)

// emoji is an engine with the built-in model.
func emoji(t *testing.T, o engine.Options) *engine.Engine {
	t.Helper()
	o.Models = []engine.Model{{Name: "builtin", Open: func() (*generate.Model, error) {
		file, err := builtin.Open(torch.CPU)
		if err != nil {
			return nil, err
		}
		return generate.OwnFile(file.File)
	}}}
	e, err := engine.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// A hundred clients at once, of which every third goes away: each of the others has its image, or is told to come again, and nothing is left behind.
func TestCrowd(t *testing.T) {
	e := emoji(t, engine.Options{Queue: 40})
	s := start(t, e, Options{})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	defer client.CloseIdleConnections()
	var ok, full, gone atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			ctx := t.Context()
			if i%3 == 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*time.Millisecond)
				defer cancel()
			}
			for try := 0; ; try++ {
				r, err := http.NewRequestWithContext(ctx, "POST", s.url+generations, strings.NewReader(fmt.Sprintf(`{"prompt": "%d", "response_format": "b64_json"}`, i%9)))
				if !assert.NoError(t, err) {
					return
				}
				r.Header.Set("Content-Type", "application/json")
				res, err := client.Do(r)
				var text []byte
				if err == nil {
					text, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				switch {
				case err != nil:
					assert.Equal(t, 0, i%3, "%v", err)
					assert.Error(t, ctx.Err())
					gone.Add(1)
					return
				case res.StatusCode == http.StatusTooManyRequests:
					after, err := strconv.Atoi(res.Header.Get("Retry-After"))
					assert.NoError(t, err)
					assert.Positive(t, after)
					full.Add(1)
					time.Sleep(20 * time.Millisecond)
					continue
				}
				assert.Equal(t, 200, res.StatusCode, "%s", text)
				assert.Equal(t, 1, strings.Count(string(text), `"b64_json"`))
				ok.Add(1)
				return
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int32(100), ok.Load()+gone.Load())
	assert.GreaterOrEqual(t, ok.Load(), int32(66))
	assert.Positive(t, full.Load())
	require.Eventually(t, func() bool { st := e.Status(); return st.Waiting == 0 && st.Running == 0 }, 10*time.Second, time.Millisecond)
	assert.GreaterOrEqual(t, e.Status().Refused, int(full.Load())) // some went away before they saw it
}

// images are what clients send in place of images: each is refused, and no path or URL in it is opened.
func images(t *testing.T, trap string) map[string]string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8))))
	bomb := bytes.Clone(b.Bytes())
	binary.BigEndian.PutUint32(bomb[16:], 50_000)
	binary.BigEndian.PutUint32(bomb[20:], 50_000)
	binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
	text := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	return map[string]string{
		"url": trap + "/a.png", "file url": "file:///etc/passwd", "path": "/etc/passwd", "relative": "../../torch/vision/testdata/quadrants/rgb.png", "data url of a url": "data:text/plain;base64," + text(trap),
		"svg": text(`<svg xmlns="http://www.w3.org/2000/svg"><image href="` + trap + `/b.png"/></svg>`), "xml": text(`<!DOCTYPE a [<!ENTITY x SYSTEM "` + trap + `">]><a>&x;</a>`),
		"gif that ends as a png": text("GIF89a" + b.String()), "html that ends as a png": text("<html><img src=" + trap + ">" + b.String()), "zip": text("PK\x03\x04" + strings.Repeat("\x00", 100)),
		"bomb": base64.StdEncoding.EncodeToString(bomb), "half": base64.StdEncoding.EncodeToString(b.Bytes()[:40]), "empty": "", "playlist": text("#EXTM3U\n" + trap), "mvg": text("push graphic-context\nimage over 0,0 0,0 '" + trap + "'\n"),
	}
}

func TestHostileImages(t *testing.T) {
	var opened atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { opened.Add(1) }))
	defer trap.Close()
	f := &fake{}
	s := start(t, f, Options{})
	refused := func(name, what, path, kind string, body []byte) {
		res, text := s.do(t, "POST", path, string(body), "Content-Type: "+kind)
		assert.Contains(t, []int{400, 413, 422}, res.StatusCode, "%s as %s: %s", name, what, text)
		assert.NotContains(t, text, "root:")
	}
	for name, value := range images(t, trap.URL) {
		for what, fields := range map[string]any{
			"init image": map[string]any{"prompt": "cat", "init_images": []string{value}},
		} {
			body, err := json.Marshal(fields)
			require.NoError(t, err)
			refused(name, what, "/sdapi/v1/img2img", "application/json", body)
		}
		body, err := json.Marshal(map[string]any{"prompt": "cat", "image": value})
		require.NoError(t, err)
		refused(name, "image", "/v1/images/edits", "application/json", body)
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("image", "../../etc/cron.d/a.png")
		require.NoError(t, err)
		data, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			data = []byte(value)
		}
		_, err = part.Write(data)
		require.NoError(t, err)
		require.NoError(t, errors.Join(w.WriteField("prompt", "cat"), w.Close()))
		refused(name, "part of a form", "/v1/images/edits", w.FormDataContentType(), form.Bytes())
	}
	assert.Zero(t, opened.Load())
	assert.Empty(t, f.seen)
}
