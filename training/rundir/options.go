package rundir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
)

// sameOptions returns an error if the options in options.json, old, differ from the given ones, by their JSON.
func sameOptions(old []byte, options map[string]any, may []string) error {
	had, wants, err := decoded(old, options)
	if err != nil {
		return err
	}
	if _, own := wants[historyKey]; !own { // see Update
		delete(had, historyKey)
	}
	var differ []string
	for _, k := range different(had, wants) {
		if !slices.Contains(may, k) {
			a, _ := json.Marshal(had[k])
			b, _ := json.Marshal(wants[k])
			differ = append(differ, fmt.Sprintf("%s was %s, now %s", quote.Text(k), quote.Text(a), quote.Text(b)))
		}
	}
	if differ == nil {
		return nil
	}
	if n := len(differ); n > 8 {
		differ = append(differ[:8], fmt.Sprintf("and %d more", n-8))
	}
	return fmt.Errorf("the run was started with other options or files, which change its results: %s; resume it with the same ones, or start a new run from its snapshot", strings.Join(differ, "; "))
}

// decoded decodes options.json, old, and options by way of JSON, so that they can be compared.
func decoded(old []byte, options map[string]any) (had, wants map[string]any, err error) {
	if err := numbers(old, &had); err != nil {
		return nil, nil, err
	}
	text, err := json.Marshal(options)
	if err != nil {
		return nil, nil, err
	}
	return had, wants, numbers(text, &wants)
}

// decoded decodes the directory's options.json and options.
func (d *Dir) decoded(options map[string]any) (had, now map[string]any, err error) {
	text, err := plainfile.Read(d.File("options.json"), maxOptions)
	if err != nil {
		return nil, nil, fmt.Errorf("run directory: %w", err)
	}
	if had, now, err = decoded(text, options); err != nil {
		return nil, nil, fmt.Errorf("run directory %s: %w", quote.Path(d.path), err)
	}
	return had, now, nil
}

// different lists the entries, sorted, that are not the same in both.
func different(had, wants map[string]any) (keys []string) {
	all := maps.Clone(had)
	maps.Copy(all, wants)
	for k := range all {
		a, _ := json.Marshal(had[k])
		b, _ := json.Marshal(wants[k])
		if !bytes.Equal(a, b) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// numbers decodes JSON without rounding numbers: a seed may need all 64 bits.
func numbers(text []byte, into *map[string]any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return notOptions(dec.Decode(into), *into)
}

// notOptions returns the error for an options.json that was decoded with err, or is not an object.
func notOptions(err error, decoded map[string]any) error {
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		err = fmt.Errorf("got a JSON %s", quote.Text(kind.Value))
	case errors.Is(err, io.EOF):
		err = errors.New("the file is empty")
	case err == nil && decoded == nil:
		err = errors.New("got null")
	case err == nil:
		return nil
	}
	return fmt.Errorf("options.json is damaged: want a JSON object with the run's options: %w", quote.Error(err))
}

// ReadOptions returns the options of the run in a directory.
func ReadOptions(path string) (map[string]any, error) {
	text, err := plainfile.Read(filepath.Join(path, "options.json"), maxOptions)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	var o map[string]any
	if err := notOptions(json.Unmarshal(text, &o), o); err != nil {
		return nil, fmt.Errorf("run directory %s: %w", quote.Path(path), err)
	}
	return o, nil
}

// The entry history of options.json.
const (
	historyKey = "history"
	untilKey   = "until"
	mostPast   = 1000 // entries
)

// Update writes the options as they are now to options.json, if some differ from those that it has, so that the run resumes with them. What
// they were goes into the list history: {"until": 500, "keep": 2} says that keep was 2 up to step 500, the last checkpoint's. null is an
// option that was not there. Open allows a history that the options do not have.
func (d *Dir) Update(options map[string]any) error {
	had, now, err := d.decoded(options)
	if err != nil {
		return err
	}
	past, _ := had[historyKey].([]any)
	delete(had, historyKey)
	was := map[string]any{}
	for _, k := range different(had, now) {
		was[k] = had[k]
	}
	if len(was) == 0 {
		return nil
	}
	steps, err := d.Steps("state")
	if err != nil {
		return err
	}
	was[untilKey] = 0
	if n := len(steps); n > 0 {
		was[untilKey] = steps[n-1]
	}
	past = append(past, was)
	now[historyKey] = past[max(0, len(past)-mostPast):]
	return WriteJSON(d.File("options.json"), now)
}

// Rewrite writes the options to options.json if they differ from those that it has.
func (d *Dir) Rewrite(options map[string]any) error {
	had, now, err := d.decoded(options)
	if err != nil {
		return err
	}
	if different(had, now) == nil {
		return nil
	}
	return WriteJSON(d.File("options.json"), now)
}
