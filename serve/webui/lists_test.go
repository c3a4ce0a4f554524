package webui

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/onestep-go/onestep/sampling/texttoimage/infotext"
	"github.com/onestep-go/onestep/torch/vision"
)

func names(v any, key string) (all []any) {
	for _, e := range v.([]any) {
		all = append(all, e.(map[string]any)[key])
	}
	return all
}

func TestLists(t *testing.T) {
	f, h := newFake()
	require.Equal(t, []any{"tiny-sd", "emoji"}, names(get(t, h, "a", "/sdapi/v1/sd-models"), "title"))
	require.Equal(t, []any{"tiny-sd", "emoji"}, names(get(t, h, "a", "/sdapi/v1/sd-models"), "model_name"))
	require.Equal(t, []any{"ink", "style"}, names(get(t, h, "a", "/sdapi/v1/loras"), "name"))

	// Each sampler and schedule type that is listed is accepted.
	samplers := names(get(t, h, "a", "/sdapi/v1/samplers"), "name")
	require.Contains(t, samplers, "Euler a")
	require.Contains(t, samplers, "LCM")
	seen := map[any]bool{}
	for _, s := range samplers {
		require.False(t, seen[s], s)
		seen[s] = true
		got := post(t, h, "a", "/sdapi/v1/txt2img", fmt.Sprintf(`{"sampler_name": %q}`, s))
		require.Empty(t, got.info.Notices, s)
		require.NotEmpty(t, f.last().Sampler)
	}
	for _, key := range []string{"name", "label"} {
		for _, s := range names(get(t, h, "a", "/sdapi/v1/schedulers"), key) {
			got := post(t, h, "a", "/sdapi/v1/txt2img", fmt.Sprintf(`{"sampler_name": "Euler", "scheduler": %q}`, s))
			require.Empty(t, got.info.Notices, s)
		}
	}
	call(t, h, "a", "POST", "/sdapi/v1/options", `{"sd_model_checkpoint": "emoji"}`)
	require.Contains(t, names(get(t, h, "a", "/sdapi/v1/samplers"), "name"), "Euler a", "before it was open")
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Equal(t, []any{"multistep"}, names(get(t, h, "a", "/sdapi/v1/samplers"), "name"))
	got := post(t, h, "a", "/sdapi/v1/txt2img", `{"sampler_name": "multistep"}`)
	require.Empty(t, got.info.Notices)
}

func TestProbes(t *testing.T) {
	_, h := newFake()
	for _, path := range []string{"latent-upscale-modes", "sd-vae", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info", "extensions"} {
		require.Equal(t, []any{}, get(t, h, "a", "/sdapi/v1/"+path), path)
	}
	require.Equal(t, map[string]any{}, get(t, h, "a", "/internal/ping"))
	require.Equal(t, map[string]any{}, get(t, h, "a", "/sdapi/v1/cmd-flags"))
	require.Equal(t, map[string]any{"txt2img": []any{}, "img2img": []any{}}, get(t, h, "a", "/sdapi/v1/scripts"))
	require.Equal(t, map[string]any{"loaded": map[string]any{}, "skipped": map[string]any{}}, get(t, h, "a", "/sdapi/v1/embeddings"))
	require.Equal(t, []any{"None"}, names(get(t, h, "a", "/sdapi/v1/upscalers"), "name"))
	for path, want := range map[string]string{"refresh-checkpoints": "null", "refresh-vae": "null", "refresh-loras": "null", "unload-checkpoint": "{}", "reload-checkpoint": "{}"} {
		status, body, _ := call(t, h, "a", "POST", "/sdapi/v1/"+path, "")
		require.Equal(t, 200, status)
		require.Equal(t, want, strings.TrimSpace(string(body)), path)
	}
	ram := get(t, h, "a", "/sdapi/v1/memory").(map[string]any)["ram"].(map[string]any)
	require.Greater(t, ram["total"], ram["free"])
	require.InDelta(t, ram["total"], ram["free"].(float64)+ram["used"].(float64), 1)
}

// The texts of a file may be packed, and those that are read at once take memory within the limit for images.
func TestPNGInfoOfMany(t *testing.T) {
	_, h := newFake()
	var b bytes.Buffer
	require.NoError(t, vision.EncodePNG(&b, image.NewGray(image.Rect(0, 0, 8, 8)), []vision.Text{{Keyword: vision.Parameters, Value: strings.Repeat("a", 1<<20)}}))
	body := fmt.Sprintf(`{"image": %q}`, base64.StdEncoding.EncodeToString(b.Bytes()))
	others := h.(*server).decoder.For(t.Context(), "others")
	for pixels := 1 << 30; pixels > 0; { // all but little
		if others.Hold(pixels) != nil {
			pixels /= 2
		}
	}
	status, reply, header := call(t, h, "a", "POST", "/sdapi/v1/png-info", body)
	require.Equal(t, 429, status, "%.100s", reply)
	require.NotEmpty(t, header.Get("Retry-After"))
	others.Close()
	status, reply, _ = call(t, h, "a", "POST", "/sdapi/v1/png-info", body)
	require.Equal(t, 200, status, "%.100s", reply)
}

func TestPNGInfo(t *testing.T) {
	_, h := newFake()
	post1 := func(body string) (int, []byte) {
		status, reply, _ := call(t, h, "a", "POST", "/sdapi/v1/png-info", body)
		return status, reply
	}
	info := infotext.Text{Prompt: "a cat", Negative: "blurry", Fields: []infotext.Field{
		{Name: "Steps", Value: "4"}, {Name: "Sampler", Value: "LCM"}, {Name: "Seed", Value: "42"}, {Name: "Size", Value: "64x32"}, {Name: "Model", Value: "x"},
	}}
	for format, write := range map[string]func(*bytes.Buffer, []vision.Text) error{
		"png": func(b *bytes.Buffer, texts []vision.Text) error {
			return vision.EncodePNG(b, image.NewGray(image.Rect(0, 0, 8, 8)), texts)
		},
		"jpeg": func(b *bytes.Buffer, texts []vision.Text) error {
			return vision.EncodeJPEG(b, image.NewGray(image.Rect(0, 0, 8, 8)), texts)
		},
		"webp": func(b *bytes.Buffer, texts []vision.Text) error {
			return vision.EncodeWebP(b, image.NewGray(image.Rect(0, 0, 8, 8)), texts)
		},
	} {
		var b bytes.Buffer
		require.NoError(t, write(&b, []vision.Text{{Keyword: vision.Parameters, Value: info.String()}, {Keyword: "Software", Value: "onestep"}}))
		status, reply := post1(fmt.Sprintf(`{"image": %q}`, "data:image/"+format+";base64,"+base64.StdEncoding.EncodeToString(b.Bytes())))
		require.Equal(t, 200, status, string(reply))
		require.JSONEq(t, fmt.Sprintf(`{"info": %q, "items": {"Software": "onestep"}, "parameters": {"Prompt": "a cat", "Negative prompt": "blurry", "Steps": "4",
			"Sampler": "LCM", "Seed": "42", "Size-1": "64", "Size-2": "32", "Model": "x"}}`, info.String()), string(reply), format)
	}
	status, reply := post1(fmt.Sprintf(`{"image": %q}`, grey(t, 4, 4, 0)))
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"info": "", "items": {}, "parameters": {}}`, string(reply))
	for _, body := range []string{`{}`, `{"image": null}`, `{"image": 5}`, `{"image": "AAAA"}`, `{"image": "/etc/passwd"}`, `{"image": "https://example.com/x.png"}`} {
		status, reply := post1(body)
		require.Equal(t, 422, status, "%s: %s", body, reply)
	}
}

// The OpenAPI document has exactly the handler's paths and methods, and names each field that the handler reads.
func TestOpenAPI(t *testing.T) {
	var doc struct {
		Paths      map[string]map[string]any
		Components struct{ Schemas, Responses map[string]any }
	}
	require.NoError(t, yaml.Unmarshal(OpenAPI(), &doc))
	routes := (&server{}).table()
	require.Len(t, doc.Paths, len(routes))
	for path, methods := range routes {
		require.Len(t, doc.Paths[path], len(methods), path)
		for method := range methods {
			require.Contains(t, doc.Paths[path], strings.ToLower(method), path)
		}
	}
	for _, name := range strings.Split(string(OpenAPI()), `$ref: "#/components/`)[1:] {
		name, _, _ = strings.Cut(name, `"`)
		kind, name, _ := strings.Cut(name, "/")
		require.Contains(t, map[string]map[string]any{"schemas": doc.Components.Schemas, "responses": doc.Components.Responses}[kind], name)
		require.True(t, strings.HasPrefix(name, "WebUI"), name)
	}
}
