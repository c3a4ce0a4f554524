package serve

import (
	_ "embed" // openapi.yaml
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/serve/openai"
	"github.com/onestep-go/onestep/serve/page"
	"github.com/onestep-go/onestep/serve/webui"
)

//go:embed openapi.yaml
var common []byte

// document is the OpenAPI document of all interfaces.
type document struct {
	json  []byte
	paths [][]string // their parts
}

// newDocument merges the documents of the interfaces into that of this package.
func newDocument(version string) (*document, error) {
	var all map[string]any
	for _, part := range [][]byte{common, openai.OpenAPI(), webui.OpenAPI(), page.OpenAPI()} {
		var v any
		if err := yaml.Unmarshal(part, &v); err != nil {
			return nil, fmt.Errorf("OpenAPI document: %w", err)
		}
		doc, ok := plain(v).(map[string]any)
		if !ok {
			return nil, fmt.Errorf("OpenAPI document: want a mapping, got %T", v)
		}
		if all == nil {
			all = doc
			continue
		}
		if err := merge(all, doc, "paths", "components"); err != nil {
			return nil, err
		}
	}
	info, _ := all["info"].(map[string]any)
	if version != "" {
		info["version"] = version
	}
	d := &document{}
	paths, _ := all["paths"].(map[string]any)
	for path, item := range paths {
		d.paths = append(d.paths, strings.Split(path, "/"))
		refusals(path, item)
	}
	var err error
	d.json, err = json.Marshal(all)
	return d, err
}

// refusals adds to the operations of a path the answers of [Server] itself.
func refusals(path string, item any) {
	operations, _ := item.(map[string]any)
	for method, op := range operations {
		op, _ := op.(map[string]any)
		responses, ok := op["responses"].(map[string]any)
		if !ok {
			continue
		}
		statuses := []string{"403"}
		if !isPublic(path) && !strings.HasPrefix(path, "/v1/files/") {
			statuses = append(statuses, "401")
		}
		if !isProbe(path) {
			statuses = append(statuses, "503")
		}
		if method == "post" || method == "put" || method == "patch" {
			statuses = append(statuses, "408", "413")
		}
		for _, status := range statuses {
			if responses[status] == nil {
				responses[status] = map[string]any{"$ref": "#/components/responses/Refused"}
			}
		}
	}
}

// plain makes a value of YAML one of JSON: keys such as 200 are strings.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = plain(e)
		}
	case map[any]any:
		out := map[string]any{}
		for k, e := range v {
			out[fmt.Sprint(k)] = plain(e)
		}
		return out
	case []any:
		for i, e := range v {
			v[i] = plain(e)
		}
	}
	return v
}

// merge adds what is below some keys of from to what is below them in into, and so on below those of components.
func merge(into, from map[string]any, keys ...string) error {
	for _, key := range keys {
		part, ok := from[key].(map[string]any)
		if !ok {
			continue
		}
		to, ok := into[key].(map[string]any)
		if !ok {
			to = map[string]any{}
			into[key] = to
		}
		for name, v := range part {
			below, ok := v.(map[string]any)
			if there, exists := to[name].(map[string]any); exists && ok && key == "components" {
				for name, v := range below {
					if there[name] != nil {
						return fmt.Errorf("OpenAPI document: two components %s", quote.Text(name))
					}
					there[name] = v
				}
				continue
			}
			if to[name] != nil {
				return fmt.Errorf("OpenAPI document: %s twice", quote.Text(name))
			}
			to[name] = v
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (d *document) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(d.json) // the client has gone
}

// pattern returns the path of the document that a request's path matches, for metrics, which must not have as many as clients think of.
func (d *document) pattern(path string) string {
	if path == "/" {
		return path
	}
	parts := strings.Split(path, "/")
	best := "other"
	for _, p := range d.paths {
		if len(p) == len(parts) && matches(p, parts) && (best == "other" || !strings.Contains(strings.Join(p, "/"), "{")) {
			best = strings.Join(p, "/")
		}
	}
	return best
}

func matches(pattern, parts []string) bool {
	for i, p := range pattern {
		if p != parts[i] && !strings.HasPrefix(p, "{") {
			return false
		}
	}
	return true
}
