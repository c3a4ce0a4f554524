package component

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/onestep-go/onestep/internal/configjson"
	"github.com/onestep-go/onestep/internal/quote"
)

// Pipeline is the content of a model_index.json, which names the components in the directories beside it.
type Pipeline struct {
	Class   string                     // the pipeline's class; "": none
	Classes map[string]string          // of the components, without null ones
	Keys    map[string]json.RawMessage // everything
}

// ParsePipeline parses a model_index.json.
func ParsePipeline(data []byte) (Pipeline, error) {
	p := Pipeline{Classes: map[string]string{}}
	if err := configjson.Unmarshal(data, &p.Keys); err != nil {
		return p, fmt.Errorf("want a JSON object: %w", err)
	}
	if raw, ok := p.Keys["_class_name"]; ok {
		if err := json.Unmarshal(raw, &p.Class); err != nil {
			return p, fmt.Errorf("_class_name: want a class name, got %s", quote.Text(raw))
		}
	}
	for key, raw := range p.Keys {
		var class []*string // library and class; null for an omitted component
		if !strings.HasPrefix(key, "_") && json.Unmarshal(raw, &class) == nil && len(class) == 2 && class[1] != nil {
			p.Classes[key] = *class[1]
		}
	}
	return p, nil
}
