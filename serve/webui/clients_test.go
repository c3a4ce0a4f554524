package webui

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// recorded is a request of a client.
type recorded struct {
	Name, Method, Path string
	Body               json.RawMessage
	Options            map[string]any // changes of the options that were read before
}

// TestClients replays the requests of clients, and parses the replies as they do: testdata/README.md says where.
func TestClients(t *testing.T) {
	object := func(t *testing.T, data []byte) (v map[string]any) {
		require.NoError(t, json.Unmarshal(data, &v))
		return v
	}
	list := func(t *testing.T, data []byte) (v []map[string]any) {
		require.NoError(t, json.Unmarshal(data, &v))
		return v
	}
	text := func(t *testing.T, v any) string {
		require.IsType(t, "", v)
		require.NotEmpty(t, v)
		return v.(string)
	}
	for client, checks := range map[string]map[string]func(t *testing.T, f *fake, data []byte){
		"openwebui": {
			"models": func(t *testing.T, _ *fake, data []byte) {
				for _, m := range list(t, data) {
					text(t, m["title"])
					text(t, m["model_name"])
				}
			},
			"model": func(t *testing.T, _ *fake, data []byte) {
				require.Equal(t, "tiny-sd", object(t, data)["sd_model_checkpoint"])
			},
			"check model": func(t *testing.T, _ *fake, data []byte) {
				require.Equal(t, "emoji", object(t, data)["sd_model_checkpoint"])
			},
			"generate": func(t *testing.T, f *fake, data []byte) {
				images := object(t, data)["images"].([]any)
				require.Len(t, images, 2)
				for _, img := range images {
					require.NotContains(t, img, ",", "what stands before a comma is taken for a media type")
					_, err := base64.StdEncoding.DecodeString(img.(string))
					require.NoError(t, err)
				}
				text(t, object(t, data)["info"])
				require.Equal(t, "emoji", f.last().Model)
			},
			"generate with parameters": func(t *testing.T, _ *fake, data []byte) {
				requireNotices(t, parse(t, data), "euler_a")
			},
		},
		"librechat": {
			"generate": func(t *testing.T, f *fake, data []byte) {
				reply := object(t, data)
				png, err := base64.StdEncoding.DecodeString(strings.Split(text(t, reply["images"].([]any)[0]), ",")[0])
				require.NoError(t, err)
				require.Equal(t, "\x89PNG", string(png[:4]))
				info := object(t, []byte(text(t, reply["info"])))
				require.Equal(t, []any{1024.0, 1024.0, float64(*f.last().Seed)}, []any{info["height"], info["width"], info["seed"]})
				lines := strings.Split(text(t, info["infotexts"].([]any)[0]), "\n")
				require.Regexp(t, `^Steps: \d+, Sampler: .*Seed: \d+, Size: 1024x1024`, lines[len(lines)-1])
			},
		},
		"sillytavern": {
			"samplers":   func(t *testing.T, _ *fake, data []byte) { text(t, list(t, data)[0]["name"]) },
			"schedulers": func(t *testing.T, _ *fake, data []byte) { text(t, list(t, data)[0]["name"]) },
			"models":     func(t *testing.T, _ *fake, data []byte) { text(t, list(t, data)[0]["title"]) },
			"get model":  func(t *testing.T, _ *fake, data []byte) { text(t, object(t, data)["sd_model_checkpoint"]) },
			"upscalers": func(t *testing.T, _ *fake, data []byte) {
				require.Equal(t, "None", list(t, data)[0]["name"], "the latent ones are put after the first")
			},
			"latent upscalers": func(t *testing.T, _ *fake, data []byte) { require.NotNil(t, list(t, data)) },
			"vaes":             func(t *testing.T, _ *fake, data []byte) { require.NotNil(t, list(t, data)) },
			"wait for model": func(t *testing.T, _ *fake, data []byte) {
				p := object(t, data)
				require.Equal(t, []any{0.0, 0.0}, []any{p["progress"], p["state"].(map[string]any)["job_count"]}, "the client waits for these")
			},
			"options": func(t *testing.T, _ *fake, data []byte) { require.NotContains(t, object(t, data), "forge_preset") },
			"generate": func(t *testing.T, f *fake, data []byte) {
				text(t, object(t, data)["images"].([]any)[0])
				require.NotContains(t, string(data), "secret")
				require.Equal(t, "ddim", f.last().Sampler)
				requireNotices(t, parse(t, data), "save_images", "auth, clip_skip, hr_additional_modules, url")
			},
			"generate with ADetailer": func(t *testing.T, _ *fake, data []byte) {
				requireNotices(t, parse(t, data), "CLIP_stop_at_last_layers, sd_vae", "ADetailer", "enable_hr")
			},
		},
	} {
		t.Run(client, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + client + ".json")
			require.NoError(t, err)
			var requests []recorded
			require.NoError(t, json.Unmarshal(data, &requests))
			f, h := newFake()
			var before []byte
			for _, r := range requests {
				body := r.Body
				if r.Options != nil {
					all := object(t, before)
					for k, v := range r.Options {
						all[k] = v
					}
					body, err = json.Marshal(all)
					require.NoError(t, err)
				}
				status, reply, header := call(t, h, "a", r.Method, r.Path, string(body))
				require.Equal(t, 200, status, "%s: %s", r.Name, reply)
				require.Empty(t, header.Values("Onestep-Notice"), r.Name)
				if check := checks[r.Name]; check != nil {
					check(t, f, reply)
					delete(checks, r.Name)
				}
				before = reply
			}
			require.Empty(t, checks, "requests that were not sent")
		})
	}
}
