package serve_test

import (
	"fmt"
	"net/http/httptest"

	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/sampling/generate"
	"github.com/onestep-go/onestep/serve"
	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/torch"
)

func Example() {
	open := func() (*generate.Model, error) {
		file, err := builtin.Open(torch.CPU)
		if err != nil {
			return nil, err
		}
		return generate.OwnFile(file.File)
	}
	e, err := engine.New(engine.Options{Models: []engine.Model{{Name: "emoji", Open: open}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	s, err := serve.New(e, serve.Options{Hosts: []string{"example.com"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, httptest.NewRequest("GET", "http://example.com/readyz", nil))
	fmt.Println(answer.Code)
	// Output: 200
}
