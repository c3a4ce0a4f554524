package options

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type way string

type base struct {
	Rate float64 `option:"learning-rate" default:"0.5" help:"learning rate"`
}

type size struct {
	base
	Channels int       `option:"channels" default:"32" help:"channels of the first level"`
	Mult     []int     `option:"mult" default:"1,2,2"`
	Way      way       `option:"way" default:"conv" choices:"conv,residual"`
	Seed     uint64    `option:"seed"`
	On       bool      `option:"on"`
	Scales   []float64 `option:"scales" order:"any"`
	own      int
}

func TestOptions(t *testing.T) {
	o := size{own: 3, Seed: 9}
	Defaults(&o)
	require.Equal(t, size{base: base{0.5}, Channels: 32, Mult: []int{1, 2, 2}, Way: "conv", own: 3}, o)
	var names []string
	for _, option := range Of(&o) {
		names = append(names, option.Name)
	}
	require.Equal(t, []string{"learning-rate", "channels", "mult", "way", "seed", "on", "scales"}, names)
	for name, c := range map[string]struct {
		text string
		want any
	}{
		"learning-rate": {"0.25", 0.25}, "channels": {"-4", -4}, "mult": {"none", []int{}}, "way": {"residual", way("residual")},
		"seed": {"18446744073709551615", uint64(1<<64 - 1)}, "on": {"true", true}, "scales": {"0.5,2", []float64{0.5, 2}},
	} {
		option, ok := Named(&o, name)
		require.True(t, ok)
		require.NoError(t, option.Set(c.text), name)
		require.Equal(t, c.want, option.Value())
		require.Equal(t, c.text, option.Text())
		require.False(t, option.IsZero())
	}
	require.NoError(t, (func() Option { m, _ := Named(&o, "mult"); return m })().Set("1,2"))
	for name, c := range map[string][]any{"mult": {[]int{1, 2}, []int{2, 1}}, "scales": {[]float64{2, 0.5}, []float64{2}}, "channels": {-4, 4}} {
		option, _ := Named(&o, name)
		require.True(t, option.Same(c[0]), name)
		require.False(t, option.Same(c[1]), name)
	}
	rate, _ := Named(&o, "learning-rate")
	require.Equal(t, "learning_rate", rate.Key())
	require.NoError(t, json.Unmarshal([]byte("3"), rate.Pointer()))
	require.Equal(t, 3.0, o.Rate)
	require.Equal(t, "learning rate", rate.Help)
	_, ok := Named(&o, "own")
	require.False(t, ok)
}

func TestRefuses(t *testing.T) {
	o := size{Channels: 5}
	for _, c := range [][]string{
		{"channels", "3.5", "integer"}, {"channels", "99999999999999999999", "integer"}, {"learning-rate", "x", "number"}, {"mult", "1,,2", "integer"},
		{"way", "other", "conv or residual"}, {"seed", "-1", "0"}, {"on", "maybe", "true or false"},
	} {
		option, _ := Named(&o, c[0])
		err := option.Set(c[1])
		require.ErrorContains(t, err, c[2])
		require.True(t, strings.HasPrefix(err.Error(), c[0]+": "), err)
	}
	require.Equal(t, size{Channels: 5}, o, "what is refused changes nothing")
	require.Panics(t, func() { Of(o) })
	require.Panics(t, func() {
		Of(&struct {
			X map[string]int `option:"x"`
		}{})
	})
	require.Panics(t, func() {
		Defaults(&struct {
			X int `option:"x" default:"y"`
		}{})
	})
}

type limited struct {
	Part  *float64   `option:"part" default:"0.1" range:"[0,1)"`
	Steps int        `option:"steps" range:"[1,1000000]"`
	Rates []float64  `option:"rates" range:"(0,]" value:"X,X"`
	At    netip.Addr `option:"at" default:"::1"`
}

// A pointer tells 0 from no value, numbers have a range, and types may read themselves.
func TestRanges(t *testing.T) {
	var o limited
	Defaults(&o)
	require.Equal(t, 0.1, *o.Part)
	require.Equal(t, "::1", o.At.String())
	at := func(name string) Option {
		option, ok := Named(&o, name)
		require.True(t, ok)
		return option
	}
	require.NoError(t, at("part").Set("0"))
	require.Equal(t, 0.0, at("part").Value())
	require.Equal(t, "0", at("part").Text())
	require.False(t, at("part").IsDefault(0.0))
	require.True(t, at("part").IsDefault(0.1))
	require.True(t, at("steps").IsDefault(0))
	at("part").Put(nil)
	require.True(t, at("part").IsDefault(at("part").Value()))
	require.Nil(t, o.Part)
	require.Nil(t, at("part").Value())
	require.Equal(t, "X,X", at("rates").Called)
	for _, c := range [][]string{
		{"part", "1", "a number from 0 and below 1"}, {"part", "NaN", "below 1"}, {"steps", "0", "an integer from 1 to 1000000"},
		{"rates", "1,0", "numbers above 0"}, {"at", "here", "here"},
	} {
		require.ErrorContains(t, at(c[0]).Set(c[1]), c[2])
	}
	for _, c := range [][]string{{"steps", "1.5", "an integer from 1"}, {"steps", `"many"`, "a JSON string"}, {"steps", "0", "got \"0\""}, {"rates", "[1, -1]", "above 0"}} {
		_, err := at(c[0]).Decode([]byte(c[1]))
		require.ErrorContains(t, err, c[2])
	}
	v, err := at("rates").Decode([]byte("[1, 2.5]"))
	require.NoError(t, err)
	at("rates").Put(v)
	require.Equal(t, []float64{1, 2.5}, o.Rates)
	v, err = at("rates").Decode([]byte("null"))
	require.NoError(t, err)
	require.Nil(t, v)
}

// What no option can be made of is an error of List.
func TestList(t *testing.T) {
	all, err := List(&limited{})
	require.NoError(t, err)
	require.Len(t, all, 4)
	for want, p := range map[string]any{
		"options.limited": limited{}, "nil *options.limited": (*limited)(nil), "*int": new(int), "<nil>": nil,
		"chan int": &struct {
			C chan int `option:"c"`
		}{},
		"exported": &struct {
			x int `option:"x"`
		}{},
		"interval": &struct {
			X int `option:"x" range:"["`
		}{},
		"numbers": &struct {
			X int `option:"x" range:"[a,1]"`
		}{},
	} {
		_, err := List(p)
		require.ErrorContains(t, err, want)
	}
}

// What options are filled with, and how they are written to JSON and read again.
func TestFillAndRead(t *testing.T) {
	type some struct {
		Steps int      `option:"steps" default:"10" range:"[1,]"`
		Side  int      `option:"the-side" range:"[8,64]"`
		Part  *float64 `option:"part" default:"0.5" range:"[0,1]"`
		Rate  float64  `option:"rate"`
		Names []string `option:"names"`
	}
	a := some{Part: new(0.0)}
	require.NoError(t, Fill(&a))
	require.Equal(t, 10, a.Steps)
	require.InDelta(t, 0, *a.Part, 0)
	require.Equal(t, map[string]any{"steps": 10, "part": 0.0, "rate": 0.0}, Values(&a))
	var of *Error
	require.ErrorAs(t, Fill(&some{Steps: -1}), &of)
	require.Equal(t, "steps", of.Option)

	got, err := Read(&a, []byte(`{"the_side": 16, "names": ["x"], "mine": 1}`), "mine")
	require.NoError(t, err)
	require.Equal(t, map[string]any{"the-side": 16, "names": []string{"x"}}, got)
	for text, option := range map[string]string{`{"the_side": 7}`: "the-side", `{"yours": 1}`: "yours", `{"the-side": 8, "the_side": 8}`: "the-side"} {
		_, err := Read(&a, []byte(text))
		require.ErrorAs(t, err, &of)
		require.Equal(t, option, of.Option)
	}
	for _, text := range []string{"", "1", "{} {}"} {
		_, err := Read(&a, []byte(text))
		require.Error(t, err)
	}
}

// A struct changes or omits the options of one that it embeds.
func TestOverrides(t *testing.T) {
	type base struct {
		Model string `option:"model" help:"a model"`
		Batch int    `option:"batch" default:"4" range:"[1,]" help:"batch size"`
	}
	p := &struct {
		base
		_ struct{} `overrides:"model" omit:"true"`
		_ struct{} `overrides:"batch" default:"32" range:"[1,64]"`
	}{}
	all, err := List(p)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "batch size", all[0].Help)
	require.NoError(t, Fill(p))
	require.Equal(t, 32, p.Batch)
	require.Error(t, all[0].Check(65))
	for _, bad := range []any{
		&struct {
			_ struct{} `overrides:"steps" default:"1"`
		}{},
		&struct {
			base
			_ struct{} `overrides:"batch" range:"[a,1]"`
		}{},
	} {
		_, err := List(bad)
		require.Error(t, err)
	}
}

// Data types may have PyTorch's and diffusers' names, in flags, JSON and Go.
func TestDTypes(t *testing.T) {
	for name, want := range map[string]string{"torch.bfloat16": "bf16", "FP16": "f16", "half": "f16", "float32": "f32", "f16": "f16", "f8": "f8"} {
		var o struct {
			DType string `option:"dtype" default:"f32" choices:"f32,bf16,f16"`
			Other string `option:"other" choices:"half,float32"`
		}
		d, _ := Named(&o, "dtype")
		parsed, err := d.Parse(name)
		read, refused := Read(&o, []byte(`{"dtype": "`+name+`", "other": "half"}`))
		o.DType = name
		filled := Fill(&o)
		if want == "f8" {
			require.Error(t, err)
			require.Error(t, refused)
			require.Error(t, filled)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, refused)
		require.NoError(t, filled)
		require.Equal(t, []any{want, want, "half", want}, []any{parsed, read["dtype"], read["other"], o.DType})
	}
}
