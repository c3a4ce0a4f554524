package webui

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// The model that a client chooses is that of its next requests, and of nobody else's.
func TestOptions(t *testing.T) {
	f, h := newFake()
	require.Equal(t, "tiny-sd", get(t, h, "a", "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"])
	set := func(client, body string) (int, string, []string) {
		status, reply, header := call(t, h, client, "POST", "/sdapi/v1/options", body)
		return status, string(reply), header.Values("Onestep-Notice")
	}
	status, reply, notices := set("a", `{"sd_model_checkpoint": "emoji"}`)
	require.Equal(t, []any{200, "null\n"}, []any{status, reply})
	require.Empty(t, notices)
	require.Equal(t, "emoji", get(t, h, "a", "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"])
	require.Equal(t, "tiny-sd", get(t, h, "b", "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"])
	post(t, h, "a", "/sdapi/v1/txt2img", `{}`)
	require.Equal(t, "emoji", f.last().Model)
	post(t, h, "b", "/sdapi/v1/txt2img", `{}`)
	require.Empty(t, f.last().Model)

	// Titles as A1111 writes them.
	for _, title := range []string{"tiny-sd [0123456789]", "tiny-sd.safetensors", "TINY-SD.safetensors [01234567]", "tiny-sd"} {
		status, _, _ = set("a", fmt.Sprintf(`{"sd_model_checkpoint": %q}`, title))
		require.Equal(t, 200, status, title)
		require.Equal(t, "tiny-sd", get(t, h, "a", "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"])
	}
	status, reply, _ = set("a", `{"sd_model_checkpoint": "tiny-s"}`)
	require.Equal(t, 404, status)
	require.Contains(t, reply, "tiny-sd")
	status, reply, _ = set("a", `{"sd_model_checkpoint": 5}`)
	require.Equal(t, 422, status, reply)

	// Clients send all options back to change one.
	all := get(t, h, "a", "/sdapi/v1/options").(map[string]any)
	all["sd_model_checkpoint"] = "emoji"
	body, err := json.Marshal(all)
	require.NoError(t, err)
	status, _, notices = set("a", string(body))
	require.Equal(t, 200, status)
	require.Empty(t, notices)
	status, _, notices = set("a", `{"samples_format": "jpg", "CLIP_stop_at_last_layers": 2, "new\noption": 1, "sd_vae": null}`)
	require.Equal(t, 200, status)
	require.Len(t, notices, 1)
	require.Contains(t, notices[0], "CLIP_stop_at_last_layers")
	require.NotContains(t, notices[0], "sd_vae")
	require.Equal(t, "jpg", get(t, h, "a", "/sdapi/v1/options").(map[string]any)["samples_format"])
	require.Equal(t, "/9j/", post(t, h, "a", "/sdapi/v1/txt2img", `{}`).Images[0][:4])
}

// Clients without a key are told apart by their addresses, and only so many are remembered.
func TestClientsAreBounded(t *testing.T) {
	f, _ := newFake()
	h := New(f, Options{Clients: 2})
	for _, client := range []string{"a", "b"} {
		call(t, h, client, "POST", "/sdapi/v1/options", `{"sd_model_checkpoint": "emoji"}`)
	}
	get(t, h, "a", "/sdapi/v1/options") // which was seen later than b
	call(t, h, "c", "POST", "/sdapi/v1/options", `{"sd_model_checkpoint": "emoji"}`)
	for client, want := range map[string]string{"a": "emoji", "b": "tiny-sd", "c": "emoji"} {
		require.Equal(t, want, get(t, h, client, "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"], client)
	}
	r := httptest.NewRequest("GET", "/sdapi/v1/options", nil)
	r.RemoteAddr = "192.0.2.7:1234"
	require.Equal(t, "192.0.2.7", who(r))
	r.RemoteAddr = "@"
	require.Equal(t, "@", who(r))
}

// A refused request changes nothing.
func TestRefusedChoosesNothing(t *testing.T) {
	_, h := newFake()
	for _, more := range []string{`"steps": "bad"`, `"script_name": "x"`} {
		status, _, _ := call(t, h, "a", "POST", "/sdapi/v1/txt2img", `{"override_settings": {"sd_model_checkpoint": "emoji"}, "override_settings_restore_afterwards": false, `+more+`}`)
		require.Equal(t, 422, status)
		require.Equal(t, "tiny-sd", get(t, h, "a", "/sdapi/v1/options").(map[string]any)["sd_model_checkpoint"])
	}
}
