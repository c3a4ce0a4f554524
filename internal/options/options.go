// Package options declares options once. The fields of a struct with the tag option are options: a tool's flags, the keys of a JSON
// file and the lines of a help text all come from the tags.
//
//	type Size struct {
//		Channels int    `option:"channels" default:"32" help:"channels of the first level"`
//		Resample string `option:"resample" default:"conv" choices:"conv,residual" help:"change of the image size between levels"`
//	}
//
// Fields are integers, floating-point numbers, booleans, strings, types made of these, and slices of them. Structs that are embedded
// give their options to the struct that embeds them.
package options

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
)

// None is the text of a list without elements.
const None = "none"

// Option is one option of a struct, with its place there.
type Option struct {
	Name    string   // such as "label-dropout"; in JSON with underscores for dashes
	Help    string   // what it is, without its default
	Default string   // as Set takes it; "": the zero value of its type
	Choices []string // the values that it may have; nil: any
	field   reflect.Value
}

// Of lists the options of the struct that p points to, in the order of its fields. It panics where p points to no struct, or a tag is on
// a field of a type that options do not have: mistakes of a program.
func Of(p any) []Option {
	v := reflect.ValueOf(p)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("options: want a pointer to a struct, got %T", p))
	}
	return of(v.Elem())
}

func of(v reflect.Value) []Option {
	var all []Option
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, ok := f.Tag.Lookup("option")
		if !ok {
			if f.Anonymous && f.Type.Kind() == reflect.Struct {
				all = append(all, of(v.Field(i))...)
			}
			continue
		}
		o := Option{Name: name, Help: f.Tag.Get("help"), Default: f.Tag.Get("default"), field: v.Field(i)}
		if c := f.Tag.Get("choices"); c != "" {
			o.Choices = strings.Split(c, ",")
		}
		if !known(f.Type) {
			panic(fmt.Sprintf("options: %s: no option is a %v", name, f.Type))
		}
		all = append(all, o)
	}
	return all
}

func known(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64, reflect.Bool, reflect.String:
		return true
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && known(t.Elem())
	}
	return false
}

// Defaults sets the options of the struct that p points to to their defaults. It panics where a default is no value of its option.
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

// Named returns the option of that name of the struct that p points to.
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

// Type is the type of its values.
func (o Option) Type() reflect.Type { return o.field.Type() }

// Value returns the option's value in its struct.
func (o Option) Value() any { return o.field.Interface() }

// Pointer returns a pointer to the option's field, for encoding/json and the like.
func (o Option) Pointer() any { return o.field.Addr().Interface() }

// IsZero tells whether the value is the zero value of its type: for lists nil, not a list without elements.
func (o Option) IsZero() bool { return o.field.IsZero() }

// Text is the value as Set takes it.
func (o Option) Text() string { return Text(o.Value()) }

// Text writes a value as Set takes it: elements of lists between commas, None for a list without any.
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

// Set parses text into the option's field.
func (o Option) Set(text string) error {
	v, err := o.parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	o.field.Set(v)
	return nil
}

func (o Option) parse(text string) (reflect.Value, error) {
	if o.Choices != nil && !slices.Contains(o.Choices, text) {
		return reflect.Value{}, fmt.Errorf("want one of %s, got %s", strings.Join(o.Choices, ", "), quote.Quoted(text))
	}
	t := o.Type()
	v := reflect.New(t).Elem()
	if t.Kind() != reflect.Slice {
		return v, scan(v, text)
	}
	v.Set(reflect.MakeSlice(t, 0, 0))
	if text == None || text == "" {
		return v, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		e := reflect.New(t.Elem()).Elem()
		if err := scan(e, strings.TrimSpace(word)); err != nil {
			return v, err
		}
		v.Set(reflect.Append(v, e))
	}
	return v, nil
}

// scan parses one value into v.
func scan(v reflect.Value, text string) error {
	wanted := ""
	switch v.Kind() {
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if v.SetInt(n); err != nil {
			wanted = "an integer"
		}
	case reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if v.SetUint(n); err != nil {
			wanted = "an integer from 0 on"
		}
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if v.SetFloat(x); err != nil {
			wanted = "a number"
		}
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if v.SetBool(b); err != nil {
			wanted = "true or false"
		}
	case reflect.String:
		v.SetString(text)
	}
	if wanted != "" {
		return fmt.Errorf("want %s, got %s", wanted, quote.Quoted(text))
	}
	return nil
}
