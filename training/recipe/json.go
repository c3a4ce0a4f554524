package recipe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/quote"
)

// MarshalJSON writes the run's options, its network's and its method's as one object, by their names with underscores for dashes. Options
// without a value, and those that the run does not use, are omitted.
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
		case o.IsZero() && o.Default != "" && !o.IsDefault(v): // not given: options for which zero is a value are pointers
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

// UnmarshalJSON sets the options in data, as MarshalJSON writes them, and leaves others of r unchanged. An option of another method or
// network is an error unless it has its default value. For a program's own method, r.Method must be set before.
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

// Values maps names of options to values, each of its option's type. "method" is the method's name.
type Values map[string]any

// told are entries of options.json that record the run's history, the identity of its files, and the program's version. They are not
// options.
var told = []string{"onestep", "data-holds", "teacher-holds", "init-holds", "lpips-holds", "history"}

// ReadOptions reads a JSON object of options, such as a run's options.json. more declares further options, of a program. Other keys are
// errors.
func ReadOptions(data []byte, more ...options.Option) (Values, error) {
	return new(Run).readOptions(data, more...)
}

// readOptions also knows the options of the run's method, unless data names another method.
func (r Run) readOptions(data []byte, more ...options.Option) (Values, error) {
	keys, err := options.ReadObject(data)
	if err != nil {
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

// Apply sets options of a run, the method first.
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
		r.Method = r.byDefault()
	}
	for _, option := range slices.Sorted(maps.Keys(v)) {
		o, ok := r.declares(option)
		if !ok {
			continue // one of the program's own
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
