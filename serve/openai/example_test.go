package openai_test

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/openai"
)

// grey stands for an [engine.Engine] with models.
type grey struct{}

func (grey) Models() []engine.Info { return []engine.Info{{Name: "grey"}} }

func (grey) Images(_ context.Context, r engine.Request) iter.Seq2[engine.Event, error] {
	return func(yield func(engine.Event, error) bool) {
		if yield(engine.Event{Resolved: &engine.Resolved{Model: "grey", Sampler: "none", Steps: 1, Width: r.Width, Height: r.Height}}, nil) {
			yield(engine.Event{Image: &engine.Image{Image: image.NewGray(image.Rect(0, 0, r.Width, r.Height)), Seed: *r.Seed, Label: -1}}, nil)
		}
	}
}

// Serve OpenAI's images API, and ask it for an image.
func Example() {
	server := httptest.NewServer(openai.New(grey{}, openai.Options{}))
	defer server.Close()
	body := `{"prompt": "fog", "size": "16x8", "seed": 3, "quality": "high"}`
	res, err := http.Post(server.URL+"/v1/images/generations", "application/json", strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	var reply struct {
		Data []struct {
			B64JSON []byte `json:"b64_json"` // a PNG
			Seed    uint64
		}
		Model, Size string
		Notices     []string
	}
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Status, reply.Model, reply.Size, reply.Data[0].Seed, string(reply.Data[0].B64JSON[1:4]))
	fmt.Println(reply.Notices)
	// Output:
	// 200 OK grey 16x8 3 PNG
	// [not used: quality]
}
