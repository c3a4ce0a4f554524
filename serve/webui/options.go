package webui

import (
	"cmp"
	"container/list"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/serve/engine"
)

// choice is what a client has chosen by A1111's options, and what is remembered of it.
type choice struct {
	model  string    // "": the default
	format string    // of images; "": png
	looks  time.Time // when it last asked for progress with its image
}

// choices are those of the clients that were seen last.
type choices struct {
	most int

	mu    sync.Mutex
	by    map[string]*list.Element
	order list.List // of *named, the last used one first
}

type named struct {
	client string
	choice
}

// of returns a client's choice.
func (c *choices) of(client string) choice {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.by[client]
	if e == nil {
		return choice{}
	}
	c.order.MoveToFront(e)
	return e.Value.(*named).choice
}

// set remembers a client's choice, and forgets that of the client that was not seen for longest if there are too many.
func (c *choices) set(client string, to choice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.by[client]; e != nil {
		e.Value.(*named).choice = to
		c.order.MoveToFront(e)
		return
	}
	if c.by == nil {
		c.by = map[string]*list.Element{}
	}
	c.by[client] = c.order.PushFront(&named{client, to})
	for len(c.by) > c.most {
		last := c.order.Back()
		delete(c.by, c.order.Remove(last).(*named).client)
	}
}

// look notes that a client looks at images in work.
func (c *choices) look(client string) {
	mine := c.of(client)
	mine.looks = time.Now()
	c.set(client, mine)
}

// options are A1111's options as a client sees them. Only the first two can be set to something else.
func (s *server) options(of choice) map[string]any {
	model, _ := s.model(of.model)
	return map[string]any{
		"sd_model_checkpoint": model.Name,
		"samples_format":      cmp.Or(of.format, "png"),

		"sd_checkpoint_hash":       "",
		"sd_vae":                   "Automatic",
		"CLIP_stop_at_last_layers": 1,
		"samples_save":             false,
		"grid_save":                false,
		"return_grid":              false,
		"live_previews_enable":     true,
	}
}

func (s *server) getOptions(r *http.Request) (any, error) {
	return s.options(s.choices.of(who(r))), nil
}

// setOptions answers null, as A1111 does; what is not used stands in a header.
func (s *server) setOptions(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	mine := s.choices.of(who(r))
	notices, err := s.apply(&mine, f)
	if err == nil {
		err = f.err()
	}
	if err != nil {
		return err
	}
	s.choices.set(who(r), mine)
	s.note(w, r, notices)
	writeJSON(w, http.StatusOK, nil)
	return nil
}

// apply sets a client's choice by options, and says which it does not use. Options with the value that they have are no matter: clients
// send back all of them to change one.
func (s *server) apply(mine *choice, f form) (notices []string, err error) {
	has := s.options(*mine)
	var unused []string
	for _, name := range sortedKeys(f.fields) {
		switch {
		case !f.has(name):
		case name == "sd_model_checkpoint":
			title := f.text(name)
			if title == "" {
				continue
			}
			model, err := s.find(title)
			if err != nil {
				return nil, err
			}
			mine.model = model
		case name == "samples_format":
			switch format := strings.ToLower(f.text(name)); format {
			case "png", "jpg", "jpeg", "webp":
				mine.format = format
			case "":
			default:
				f.wrong(name, "want png, jpg or webp", "value_error")
			}
		case name == "sd_vae" && slices.Contains([]any{"", "None", "none", "automatic"}, f.value(name)):
		default:
			value, _ := json.Marshal(f.value(name))
			if known, ok := has[name]; ok {
				if same, _ := json.Marshal(known); string(same) == string(value) {
					continue
				}
			}
			unused = append(unused, quote.Text(name))
		}
	}
	if len(unused) > 0 {
		notices = append(notices, "options that are not used: "+strings.Join(firstFew(unused), ", "))
	}
	return notices, nil
}

// model returns a model by its name; "" is the default one.
func (s *server) model(name string) (engine.Info, bool) {
	for _, m := range s.engine.Models() {
		if name == "" || m.Name == name {
			return m, true
		}
	}
	return engine.Info{Name: name}, false
}

// find returns the name of the model that a client means by a title: A1111's have a hash in brackets and a file's extension, which clients
// keep.
func (s *server) find(title string) (string, error) {
	plain := func(s string) string {
		if i := strings.LastIndex(s, " ["); i > 0 && strings.HasSuffix(s, "]") {
			s = s[:i]
		}
		for _, extension := range []string{".safetensors", ".ckpt"} {
			s = strings.TrimSuffix(strings.ToLower(s), extension)
		}
		return s
	}
	var names []string
	for _, m := range s.engine.Models() {
		if m.Name == title {
			return m.Name, nil
		}
		names = append(names, m.Name)
	}
	for _, name := range names {
		if plain(name) == plain(title) {
			return name, nil
		}
	}
	return "", refuse(http.StatusNotFound, "sd_model_checkpoint: %s", suggest.OneOf(title, names))
}
