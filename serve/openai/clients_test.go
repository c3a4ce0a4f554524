package openai

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// recorded is a request of a client.
type recorded struct {
	Name, Method, Path string
	Body               json.RawMessage
	Form               [][2]json.RawMessage
}

// TestClients replays the requests of clients, and parses the replies as they do: testdata/README.md says where.
func TestClients(t *testing.T) {
	embedded := regexp.MustCompile(`\{"base64": "[^"]*"\}`)
	png := picture(t, 16, 8, false)

	// base64s are the images of a client that decodes data[].b64_json.
	base64s := func(t *testing.T, n int, a answer) {
		require.Equal(t, 200, a.status, "%s", a.body)
		require.Len(t, a.Data, n)
		for _, d := range a.Data {
			require.Empty(t, d.URL, "a client that finds a URL fetches it, or takes both for two images")
			_, err := vision.Decode(d.B64JSON)
			require.NoError(t, err)
		}
	}
	// urls fetches the images of a client that reads data[].url.
	urls := func(t *testing.T, n int, a answer, h http.Handler) {
		require.Equal(t, 200, a.status, "%s", a.body)
		require.Len(t, a.Data, n)
		for _, d := range a.Data {
			require.Nil(t, d.B64JSON)
			file := do(t, h, httptest.NewRequest(http.MethodGet, d.URL, nil))
			require.Equal(t, "image/png", file.header.Get("Content-Type"))
			_, err := vision.Decode(file.body)
			require.NoError(t, err)
		}
	}
	type check func(t *testing.T, a answer, e *fake, h http.Handler)
	for client, checks := range map[string]map[string]check{
		"openwebui": {
			"generate": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 2, a)
				assert.Equal(t, 512, e.request().Width)
				assert.Equal(t, []string{"model: there is no dall-e-2; the default model is used"}, a.Notices)
			},
			"generate with parameters": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.Equal(t, []any{0, 2}, []any{e.request().Width, e.request().Steps})
				assert.Equal(t, []string{"not used: quality"}, a.Notices)
			},
			"generate without a format": func(t *testing.T, a answer, _ *fake, _ http.Handler) { base64s(t, 1, a) },
			"edit": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.Equal(t, 16, e.request().Init.Bounds().Dx())
				assert.Equal(t, []string{"not used: background"}, a.Notices)
			},
			"edit several": func(t *testing.T, a answer, _ *fake, _ http.Handler) { base64s(t, 1, a) },
		},
		"librechat": {
			"dalle": func(t *testing.T, a answer, _ *fake, h http.Handler) {
				urls(t, 1, a, h)
				assert.Equal(t, ".png", path.Ext(a.Data[0].URL), "the name of the file that it saves")
			},
			"generate": func(t *testing.T, a answer, _ *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.True(t, bytes.HasPrefix(a.Data[0].B64JSON, []byte("RIFF")), "what it asked for, since it shows it as image/webp")
			},
			"edit": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.Equal(t, []any{"with a hat", 16, 8}, []any{e.request().Prompt, e.request().Width, e.request().Height})
			},
		},
		"nextcloud": {
			"models": func(t *testing.T, a answer, _ *fake, _ http.Handler) {
				var list struct{ Data []map[string]any }
				require.NoError(t, json.Unmarshal(a.body, &list))
				require.Len(t, list.Data, 2)
				for _, m := range list.Data {
					require.IsType(t, "", m["id"])
				}
			},
			"generate":              func(t *testing.T, a answer, _ *fake, h http.Handler) { urls(t, 2, a, h) },
			"generate with a model": func(t *testing.T, a answer, _ *fake, _ http.Handler) { base64s(t, 3, a) },
			"too many": func(t *testing.T, a answer, _ *fake, _ http.Handler) {
				assert.Equal(t, 400, a.status)
				assert.Contains(t, a.Error.Message, "steps")
			},
		},
		"localai": {
			"generate": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.Equal(t, []any{15, uint64(5)}, []any{e.request().Steps, *e.request().Seed})
			},
			"from an image": func(t *testing.T, a answer, e *fake, _ http.Handler) {
				base64s(t, 1, a)
				assert.Equal(t, 16, e.request().Init.Bounds().Dx())
				assert.Equal(t, []string{"not used: ref_images"}, a.Notices)
			},
			"error": func(t *testing.T, a answer, _ *fake, _ http.Handler) {
				assert.Contains(t, a.Error.Message, "stablediffusion")
			},
		},
	} {
		t.Run(client, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + client + ".json")
			require.NoError(t, err)
			var requests []recorded
			require.NoError(t, json.Unmarshal(data, &requests))
			require.Len(t, requests, len(checks))
			e := &fake{}
			h := New(e, Options{})
			for _, r := range requests {
				t.Run(r.Name, func(t *testing.T) {
					var a answer
					switch {
					case r.Form != nil:
						var parts []part
						for _, pair := range r.Form {
							var p part
							var file struct{ File string }
							require.NoError(t, json.Unmarshal(pair[0], &p.name))
							if json.Unmarshal(pair[1], &file) == nil {
								p.file, p.data = file.File, png
							} else {
								var text string
								require.NoError(t, json.Unmarshal(pair[1], &text))
								p.data = []byte(text)
							}
							parts = append(parts, p)
						}
						a = form(t, h, r.Path, parts...)
					case r.Method == http.MethodGet:
						a = do(t, h, httptest.NewRequest(r.Method, r.Path, nil))
					default:
						a = post(t, h, r.Path, embedded.ReplaceAllString(string(r.Body), `"`+base64.StdEncoding.EncodeToString(png)+`"`))
					}
					require.True(t, strings.HasPrefix(a.header.Get("Content-Type"), "application/json"))
					require.NotNil(t, checks[r.Name])
					checks[r.Name](t, a, e, h)
				})
			}
		})
	}
}
