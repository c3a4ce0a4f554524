package page_test

import (
	"fmt"
	"net/http/httptest"

	"github.com/onestep-go/onestep/serve/engine"
	"github.com/onestep-go/onestep/serve/page"
)

// models is an engine that only says which models it has.
type models []engine.Info

func (m models) Models() []engine.Info       { return m }
func (m models) Adapters() ([]string, error) { return []string{"ink"}, nil }

func Example() {
	handler := page.New(models{{Name: "emoji", Kind: "consistency model", Classes: []string{"faces", "flags"}, Width: 32, Height: 32, Steps: 1}}, page.Options{})
	for _, path := range []string{"/", "/api/adapters"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(w.Code, w.Header().Get("Content-Type"))
	}
	// Output:
	// 200 text/html; charset=utf-8
	// 200 application/json
}
