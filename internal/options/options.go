// Package options declares options once. The fields of a struct with the tag option are options: a tool's flags, the keys of a JSON
// file and the lines of a help text all come from the tags.
//
//	type Size struct {
//		Channels int    `option:"channels" default:"32" help:"channels of the first level"`
//		Resample string `option:"resample" default:"conv" choices:"conv,residual" help:"change of the image size between levels"`
//	}
//
// Fields are integers, floating-point numbers, booleans, strings, types derived from these, types that implement
// encoding.TextUnmarshaler, slices of these and pointers to these. A pointer distinguishes zero from no value. The options of an embedded
// struct belong to the struct that embeds it. The tag range, such as [0,1) or (0,], limits a number, or each number of a list; the tag
// value is the placeholder of the value in a help text; the tag form describes the values of a type that implements
// encoding.TextUnmarshaler.
//
// A struct may change the options of those that it embeds, by blank fields with the tag overrides: it names an option, and the other tags
// replace those of the option, or with omit:"true" the struct does not have it. The field of an omitted option keeps its value.
//
//	_ struct{} `overrides:"channels" default:"64"`
package options

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

// None is the text of an empty list.
const None = "none"

// Option is one option of a struct, bound to its field.
type Option struct {
	Name    string   // such as "label-dropout"; in JSON with underscores instead of dashes
	Help    string   // description, without the default
	Default string   // in the syntax of Set; "": the zero value of its type
	Choices []string // allowed values; nil: any
	Called  string   // placeholder in help texts, such as FILE; "": by its type
	Form    string   // what its values look like, of a type that reads itself from text
	Range   Range
	// Unordered lists are equal if they have the same elements in any order.
	Unordered bool
	field     reflect.Value
}

// Range is an interval of allowed numbers.
type Range struct {
	Least, Most         float64 // -Inf and +Inf: unbounded
	OverLeast, LessMost bool    // whether the ends are excluded
}

// readRange reads an interval in mathematical notation. A missing end is infinite.
func readRange(text string) (Range, error) {
	r := Range{Least: math.Inf(-1), Most: math.Inf(1)}
	if text == "" {
		return r, nil
	}
	least, most, two := strings.Cut(strings.Trim(text, "[]()"), ",")
	if !two || !strings.ContainsAny(text[:1], "[(") || !strings.ContainsAny(text[len(text)-1:], ")]") {
		return r, fmt.Errorf("range %s: want an interval such as [0,1)", quote.Quoted(text))
	}
	for i, end := range []string{least, most} {
		if end == "" {
			continue
		}
		v, err := strconv.ParseFloat(end, 64)
		if err != nil {
			return r, fmt.Errorf("range %s: want numbers, got %s", quote.Quoted(text), quote.Quoted(end))
		}
		*[]*float64{&r.Least, &r.Most}[i] = v
	}
	r.OverLeast, r.LessMost = text[0] == '(', text[len(text)-1] == ')'
	return r, nil
}

// Has reports whether a number is in the range.
func (r Range) Has(v float64) bool {
	return v >= r.Least && v <= r.Most && !(r.OverLeast && v == r.Least) && !(r.LessMost && v == r.Most)
}

// String describes the range in words, with a leading space.
func (r Range) String() string {
	least, most := strconv.FormatFloat(r.Least, 'g', -1, 64), strconv.FormatFloat(r.Most, 'f', -1, 64)
	var words []string
	switch {
	case math.IsInf(r.Least, -1):
	case r.OverLeast:
		words = append(words, "above "+least)
	case !math.IsInf(r.Most, 1) && !r.LessMost:
		return " from " + least + " to " + most
	case math.IsInf(r.Most, 1):
		return " from " + least + " on"
	default:
		words = append(words, "from "+least)
	}
	switch {
	case math.IsInf(r.Most, 1):
	case r.LessMost:
		words = append(words, "below "+most)
	default:
		words = append(words, "up to "+most)
	}
	if words == nil {
		return ""
	}
	return " " + strings.Join(words, " and ")
}

// Of lists the options of the struct that p points to, in field order. It panics where [List] has an error.
func Of(p any) []Option {
	all, err := List(p)
	if err != nil {
		panic("options: " + err.Error())
	}
	return all
}

// List lists the options of the struct that p points to, in field order. It is an error if p does not point to a struct, or if a tagged
// field has an unsupported type or is not exported, or has a range that is none.
func List(p any) ([]Option, error) {
	v := reflect.ValueOf(p)
	switch {
	case v.Kind() != reflect.Pointer || v.Type().Elem().Kind() != reflect.Struct:
		return nil, fmt.Errorf("want a pointer to a struct, got %T", p)
	case v.IsNil():
		return nil, fmt.Errorf("want a pointer to a struct, got a nil %T", p)
	}
	return list(v.Elem())
}

func list(v reflect.Value) ([]Option, error) {
	var all []Option
	var changes []reflect.StructTag
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, ok := f.Tag.Lookup("option")
		if _, change := f.Tag.Lookup("overrides"); f.Name == "_" && change {
			changes = append(changes, f.Tag)
			continue
		}
		if !ok {
			if f.Anonymous && f.Type.Kind() == reflect.Struct {
				embedded, err := list(v.Field(i))
				if err != nil {
					return nil, err
				}
				all = append(all, embedded...)
			}
			continue
		}
		if !f.IsExported() {
			return nil, fmt.Errorf("%s: the field %s is not exported", quote.Text(name), quote.Text(f.Name))
		}
		if !known(f.Type) {
			return nil, fmt.Errorf("%s: unsupported type %v", quote.Text(name), f.Type)
		}
		within, err := readRange(f.Tag.Get("range"))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Text(name), err)
		}
		o := Option{Name: name, Help: f.Tag.Get("help"), Default: f.Tag.Get("default"), Called: f.Tag.Get("value"), Form: f.Tag.Get("form"), Range: within, field: v.Field(i)}
		o.Unordered = f.Tag.Get("order") == "any"
		if c := f.Tag.Get("choices"); c != "" {
			o.Choices = strings.Split(c, ",")
		}
		all = append(all, o)
	}
	for _, tag := range changes {
		var err error
		if all, err = override(all, tag); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// override changes one of the options, as the tag of a blank field says.
func override(all []Option, tag reflect.StructTag) ([]Option, error) {
	name := tag.Get("overrides")
	i := slices.IndexFunc(all, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%s: there is no such option to override", quote.Text(name))
	}
	if tag.Get("omit") == "true" {
		return slices.Delete(all, i, i+1), nil
	}
	o := &all[i]
	for _, t := range []struct {
		key string
		of  *string
	}{{"help", &o.Help}, {"default", &o.Default}, {"value", &o.Called}, {"form", &o.Form}} {
		if text, ok := tag.Lookup(t.key); ok {
			*t.of = text
		}
	}
	if text, ok := tag.Lookup("range"); ok {
		within, err := readRange(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", quote.Text(name), err)
		}
		o.Range = within
	}
	return all, nil
}

func known(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer:
		return t.Elem().Kind() != reflect.Pointer && known(t.Elem())
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64, reflect.Bool, reflect.String:
		return true
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && known(t.Elem())
	}
	return false
}

// Defaults sets the options of the struct that p points to to their defaults. It panics if a default is invalid.
func Defaults(p any) {
	for _, o := range Of(p) {
		o.field.SetZero()
		if o.Default == "" {
			continue
		}
		if err := o.Set(o.Default); err != nil {
			panic("options: default: " + err.Error())
		}
	}
}

// Named returns the option with that name of the struct that p points to.
func Named(p any, name string) (Option, bool) {
	all := Of(p)
	i := slices.IndexFunc(all, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return Option{}, false
	}
	return all[i], true
}

// Key is the option's name in JSON.
func (o Option) Key() string { return strings.ReplaceAll(o.Name, "-", "_") }

// Type is the type of the option's value, without a pointer.
func (o Option) Type() reflect.Type {
	t := o.field.Type()
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// Value returns the option's value; nil for a nil pointer.
func (o Option) Value() any {
	if o.field.Kind() != reflect.Pointer {
		return o.field.Interface()
	}
	if o.field.IsNil() {
		return nil
	}
	return o.field.Elem().Interface()
}

// Put sets the option to a value of its type, or with nil to no value.
func (o Option) Put(value any) {
	switch {
	case value == nil:
		o.field.SetZero()
	case o.field.Kind() == reflect.Pointer:
		p := reflect.New(o.Type())
		p.Elem().Set(reflect.ValueOf(value))
		o.field.Set(p)
	default:
		o.field.Set(reflect.ValueOf(value))
	}
}

// Pointer returns a pointer to the option's field, for encoding/json and the like.
func (o Option) Pointer() any { return o.field.Addr().Interface() }

// IsZero reports whether the value is the zero value of its type: for a list nil, not an empty list.
func (o Option) IsZero() bool { return o.field.IsZero() }

// Text is the value in the syntax of Set.
func (o Option) Text() string { return Text(o.Value()) }

// Text writes a value in the syntax of Set: list elements separated by commas, None for an empty list.
func Text(value any) string {
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(value)
	}
	if v.Len() == 0 {
		return None
	}
	var words []string
	for i := range v.Len() {
		words = append(words, fmt.Sprint(v.Index(i)))
	}
	return strings.Join(words, ",")
}

// Same reports whether v, a value of the option's type, equals the option's value.
func (o Option) Same(v any) bool {
	a, b := o.Text(), Text(v)
	if o.Unordered {
		as, bs := strings.Split(a, ","), strings.Split(b, ",")
		slices.Sort(as)
		slices.Sort(bs)
		return slices.Equal(as, bs)
	}
	return a == b
}

// IsDefault reports whether a value is the default; nil is.
func (o Option) IsDefault(value any) bool {
	switch {
	case value == nil:
		return true
	case o.Default == "":
		return o.field.Kind() != reflect.Pointer && reflect.ValueOf(value).IsZero()
	}
	def, err := o.Parse(o.Default)
	return err == nil && reflect.DeepEqual(value, def)
}

// Set parses text into the option's field.
func (o Option) Set(text string) error {
	v, err := o.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	o.Put(v)
	return nil
}

// Parse parses text as a value of the option's type; the error says what is expected.
func (o Option) Parse(text string) (any, error) {
	t := o.Type()
	v := reflect.New(t).Elem()
	if t.Kind() != reflect.Slice {
		if err := o.scan(v, text); err != nil {
			return nil, err
		}
		return v.Interface(), nil
	}
	v.Set(reflect.MakeSlice(t, 0, 0))
	if text == None || text == "" {
		return v.Interface(), nil
	}
	for word := range strings.SplitSeq(text, ",") {
		e := reflect.New(t.Elem()).Elem()
		if err := o.scan(e, strings.TrimSpace(word)); err != nil {
			return nil, err
		}
		v.Set(reflect.Append(v, e))
	}
	return v.Interface(), nil
}

// Decode decodes JSON as a value of the option's type; the error says what is expected. null gives nil.
func (o Option) Decode(data []byte) (any, error) {
	if string(data) == "null" {
		return nil, nil
	}
	v := reflect.New(o.Type())
	if err := json.Unmarshal(data, v.Interface()); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return nil, fmt.Errorf("want %s, got a JSON %s", o.Wants(), quote.Text(kind.Value))
		}
		return nil, quote.Error(err)
	}
	o.spell(v.Elem())
	return v.Elem().Interface(), o.Check(v.Elem().Interface())
}

// Check returns an error if a value of the option's type is not allowed.
func (o Option) Check(value any) error {
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Slice {
		return o.check(v)
	}
	for i := range v.Len() {
		if err := o.check(v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func (o Option) check(v reflect.Value) error {
	ok := true
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		ok = o.Range.Has(float64(v.Int()))
	case reflect.Uint64:
		ok = o.Range.Has(float64(v.Uint()))
	case reflect.Float64:
		ok = o.Range.Has(v.Float())
	}
	if o.Choices != nil {
		ok = slices.Contains(o.Choices, fmt.Sprint(v))
	}
	if !ok {
		return fmt.Errorf("want %s, got %s%s", o.Wants(), quote.Quoted(fmt.Sprint(v)), suggest.Hint(fmt.Sprint(v), o.Choices))
	}
	return nil
}

// Wants describes the values that the option accepts.
func (o Option) Wants() string {
	t, many := o.Type(), false
	if t.Kind() == reflect.Slice {
		t, many = t.Elem(), true
	}
	switch {
	case len(o.Choices) == 2:
		return quote.Text(o.Choices[0]) + " or " + quote.Text(o.Choices[1])
	case len(o.Choices) > 0:
		text := "one of " + quote.Text(o.Choices[0])
		for _, c := range o.Choices[1:] {
			text += ", " + quote.Text(c)
		}
		return text
	case o.Form != "":
		return quote.Text(o.Form)
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	}
	one, several := "a number", "numbers"
	if t.Kind() != reflect.Float64 {
		one, several = "an integer", "integers"
	}
	r := o.Range
	if t.Kind() == reflect.Uint64 && math.IsInf(r.Least, -1) {
		r.Least = 0
	}
	if many {
		return several + r.String() + ", separated by commas"
	}
	return one + r.String()
}

// scan parses one value into v.
func (o Option) scan(v reflect.Value, text string) (err error) {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		var n int64
		n, err = strconv.ParseInt(text, 10, 64)
		v.SetInt(n)
	case reflect.Uint64:
		var n uint64
		n, err = strconv.ParseUint(text, 10, 64)
		v.SetUint(n)
	case reflect.Float64:
		var x float64
		x, err = strconv.ParseFloat(text, 64)
		v.SetFloat(x)
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case reflect.String:
		v.SetString(text)
		o.spell(v)
	}
	if err != nil {
		return fmt.Errorf("want %s, got %s", o.Wants(), quote.Quoted(text))
	}
	return o.check(v)
}
