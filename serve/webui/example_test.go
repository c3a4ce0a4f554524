package webui_test

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/webui"
)

// black is an engine whose images are black; programs use engine.New.
type black struct{}

func (black) Models() []engine.Info       { return []engine.Info{{Name: "black"}} }
func (black) Adapters() ([]string, error) { return nil, nil }
func (black) Images(_ context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		_ = yield(engine.Event{Resolved: &engine.Resolved{Model: "black", Seed: *r.Seed, Steps: 1, Width: 8, Height: 8}}, nil) &&
			yield(engine.Event{Image: &engine.Image{Image: image.NewGray(image.Rect(0, 0, 8, 8)), Seed: *r.Seed, Label: -1}}, nil)
	}
}

// Ask for an image as A1111's clients do, and read the reply's info.
func Example() {
	server := httptest.NewServer(webui.New(black{}, webui.Options{}))
	defer server.Close()
	r, err := http.Post(server.URL+"/sdapi/v1/txt2img", "application/json", strings.NewReader(`{"prompt": "night", "seed": 7, "tiling": true}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	var reply struct {
		Images []string
		Info   string
	}
	var info struct {
		Seed    int
		Notices []string
	}
	if err := json.NewDecoder(r.Body).Decode(&reply); err != nil {
		fmt.Println(err)
		return
	}
	if err := json.Unmarshal([]byte(reply.Info), &info); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(reply.Images), info.Seed, info.Notices)
	// Output: 1 7 [tiling is not used: tiling is not supported]
}
