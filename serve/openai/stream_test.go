package openai

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/torch/vision"
)

// event is a server-sent event.
type event struct {
	name     string
	comments []string // before it
	Type     string
	B64JSON  []byte `json:"b64_json"`
	Partial  *int   `json:"partial_image_index"`
	Index    int
	Seed     uint64
	Created  int64  `json:"created_at"`
	Format   string `json:"output_format"`
	Size     string
	Quality  string
	Back     string `json:"background"`
	Usage    map[string]any
	Notices  []string
	Error    *struct{ Code, Message string }
}

func eventsOf(t *testing.T, a answer) (all []event) {
	t.Helper()
	require.Equal(t, 200, a.status, "%s", a.body)
	require.Equal(t, "text/event-stream; charset=utf-8", a.header.Get("Content-Type"))
	require.Equal(t, "no-cache", a.header.Get("Cache-Control"))
	var e event
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, ": "):
			e.comments = append(e.comments, line[2:])
		case strings.HasPrefix(line, "event: "):
			e.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			require.NoError(t, json.Unmarshal([]byte(line[6:]), &e))
		default:
			require.Empty(t, line)
			if e.name != "" {
				all = append(all, e)
				e = event{}
			}
		}
	}
	require.NoError(t, lines.Err())
	return all
}

func TestStream(t *testing.T) {
	e := &fake{previews: 4, notices: []string{"a notice"}}
	h := New(e, Options{})
	all := eventsOf(t, post(t, h, generations, `{"prompt": "a", "n": 2, "seed": 3, "stream": true, "partial_images": 2, "output_format": "jpeg", "response_format": "url"}`))
	assert.Equal(t, 2, e.request().Previews)
	require.Len(t, all, 6)
	assert.Equal(t, []string{"queued 2", "started"}, all[0].comments)
	assert.Equal(t, []string{"step 3/4", "step 4/4"}, all[2].comments)
	for i, is := range all {
		assert.Equal(t, is.name, is.Type)
		_, err := vision.Decode(is.B64JSON)
		assert.NoError(t, err)
		assert.Equal(t, []any{i / 3, "jpeg", "32x32", "auto", "opaque"}, []any{is.Index, is.Format, is.Size, is.Quality, is.Back})
		assert.NotZero(t, is.Created)
		if i%3 < 2 {
			assert.Equal(t, "image_generation.partial_image", is.name)
			assert.Equal(t, i%3, *is.Partial)
			continue
		}
		assert.Equal(t, "image_generation.completed", is.name)
		assert.Nil(t, is.Partial)
		assert.EqualValues(t, 3+i/3, is.Seed)
		assert.Contains(t, is.Usage, "input_tokens_details")
		assert.Equal(t, []string{"response_format: a stream has b64_json", "a notice"}, is.Notices)
	}
	all = eventsOf(t, form(t, h, edits, value("prompt", "a"), value("stream", "true"), value("partial_images", "1"), part{"image", "a.png", picture(t, 8, 8, false)}))
	require.Len(t, all, 2)
	assert.Equal(t, []any{"image_edit.partial_image", "image_edit.completed", "8x8"}, []any{all[0].name, all[1].name, all[1].Size})
}

// An error after the first event is an event.
func TestStreamFails(t *testing.T) {
	h := New(&fake{late: errors.New("out of memory")}, Options{})
	all := eventsOf(t, post(t, h, generations, `{"prompt": "a", "n": 2, "stream": true}`))
	require.Len(t, all, 2)
	assert.Equal(t, "error", all[1].name)
	assert.Equal(t, "internal_error", all[1].Error.Code)
	a := post(t, h, generations, `{"prompt": "a", "n": 2}`) // of a reply that has not begun it is the reply
	assert.Equal(t, 500, a.status)
}
