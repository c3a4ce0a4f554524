package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
)

// MarshalJSON writes the run's options as one object: those of all runs, of the network and of the method, by their names with
// underscores for dashes. Options without a value, and those that the run does not use, are omitted.
func (r Run) MarshalJSON() ([]byte, error) {
	if err := r.sound(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	first := true
	write := func(key string, v any) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		fmt.Fprintf(&b, "%q:%s", key, text) //quote: JSON, and names of options
		return nil
	}
	b.WriteByte('{')
	if r.Method != nil {
		if err := write("method", r.Method.Spec().Name); err != nil {
			return nil, err
		}
	}
	for _, o := range r.options() {
		v := o.Value()
		switch {
		case v == nil, v == "", reflect.ValueOf(v).Kind() == reflect.Slice && o.IsZero(): // not given
			continue
		case o.IsZero() && o.Default != "" && !o.IsDefault(v): // likewise: a zero that is a value is behind a pointer
			continue
		case o.IsDefault(v) && r.Unused(o.Name) != nil:
			continue
		}
		if err := write(o.Key(), v); err != nil {
			return nil, err
		}
	}
	for _, option := range slices.Sorted(maps.Keys(r.sized)) {
		if err := write(key(option), r.sized[option]); err != nil {
			return nil, err
		}
	}
	if len(r.history) > 0 {
		if err := write("history", r.history); err != nil {
			return nil, err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.Extra)) {
		if err := write(k, r.Extra[k]); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads the options that MarshalJSON writes over r. Those of another method or network than the run's are refused where
// they have another value than their default. A method of a program's own is read into where r has it already.
func (r *Run) UnmarshalJSON(data []byte) error {
	if err := r.sound(); err != nil {
		return err
	}
	values, err := r.readOptions(data)
	if err != nil {
		return err
	}
	return values.Apply(r)
}

// Values are values of options by their names, each of its option's type. "method" is the method's name.
type Values map[string]any

// told are entries of options.json that say what a run has read, and by what. They are no options.
var told = []string{"onestep", "data-holds", "teacher-holds", "init-holds", "lpips-holds", "history"}

// ReadOptions reads a JSON object of options, such as a run's options.json, and with them those that a program has besides, more. Other
// keys are errors.
func ReadOptions(data []byte, more ...options.Option) (Values, error) {
	return new(Run).readOptions(data, more...)
}

// readOptions reads those of the run's method, too, unless they are of another one.
func (r Run) readOptions(data []byte, more ...options.Option) (Values, error) {
	var keys map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&keys)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("the file is empty: want a JSON object")
	case errors.As(err, &kind), err == nil && keys == nil:
		err = errors.New("want a JSON object")
	case err == nil:
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("want one JSON object, and more follows")
		}
	}
	if err != nil {
		return nil, quote.Error(err)
	}
	if err := keysOnce(data); err != nil {
		return nil, err
	}
	values := Values{}
	if text, ok := keys["method"]; ok {
		var m string
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, usage("method", "%s: want its name, got %s", name("method"), quote.Text(text))
		}
		if values["method"] = m; r.Method != nil && r.Method.Spec().Name != m {
			r.Method = nil
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		option := dashed(k)
		o, ok := r.declares(option)
		if i := slices.IndexFunc(more, func(m options.Option) bool { return m.Name == option }); i >= 0 {
			o, ok = Option{Option: more[i]}, true
		}
		switch {
		case option == "method" || slices.Contains(told, option):
		case !ok:
			return nil, usage(option, "unknown field %s", quote.Quoted(k))
		default:
			v, err := o.Decode(keys[k])
			if err != nil && (v == nil || !unsaid(o.Option, v)) {
				return nil, usage(option, "%s: %w", quote.Text(k), err)
			}
			values[option] = v
		}
	}
	return values, nil
}

// keysOnce refuses an object, which is valid JSON, with a key twice, or with both spellings of one.
func keysOnce(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return quote.Error(err)
	}
	seen := map[string]bool{}
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return quote.Error(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return quote.Error(err)
		}
		option := dashed(k.(string))
		if seen[option] {
			return usage(option, "%s: it is given twice, want it once", quote.Text(k.(string)))
		}
		seen[option] = true
	}
	return nil
}

// unsaid tells whether a value stands for none in files that hold the options of all methods: it is the default, or where a run chooses
// the value zero, or the -1 of earlier versions.
func unsaid(o options.Option, v any) bool {
	if v == nil || o.IsDefault(v) {
		return true
	}
	x := reflect.ValueOf(v)
	optional := reflect.TypeOf(o.Pointer()).Elem().Kind() == reflect.Pointer
	minus := optional && (x.CanInt() && x.Int() == -1 || x.CanFloat() && x.Float() == -1)
	return o.Default == "" && (x.IsZero() || minus || x.Kind() == reflect.Slice && x.Len() == 0)
}

// Apply sets the options of a run, its method first.
func (v Values) Apply(r *Run) error {
	if err := r.sound(); err != nil {
		return err
	}
	if m, ok := v["method"].(string); ok && (r.Method == nil || r.Method.Spec().Name != m) {
		var err error
		if r.Method, err = Named(m); err != nil {
			return err
		}
	}
	if r.Method == nil {
		r.Method = Methods()[0]
	}
	for _, option := range slices.Sorted(maps.Keys(v)) {
		o, ok := r.declares(option)
		if !ok {
			continue // of the caller
		}
		value := v[option]
		if _, has := r.option(option); !has && o.Of != nil && o.Of[0].Kind == "method" && unsaid(o.Option, value) {
			continue
		}
		ofNetwork := o.Of != nil && o.Of[0].Kind == "network"
		if value != nil && unsaid(o.Option, value) && (o.Check(value) != nil || ofNetwork && reflect.ValueOf(value).IsZero()) {
			value = nil
		}
		if err := r.Set(option, value); err != nil {
			return err
		}
	}
	return nil
}
