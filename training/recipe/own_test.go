package recipe

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/dit"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/training"
)

// custom is a program's own method of any specification.
type custom struct{ spec Spec }

func (c custom) Spec() Spec { return c.spec }

func (c custom) Objective(*Parts, any) (training.Objective, error) { return nil, nil }

// valid is a specification that works.
func valid() custom {
	return custom{Spec{Name: "custom", Forms: []checkpoint.FormType{checkpoint.Flow}, Function: denoiser}}
}

// Options of a program's own method are set by name and from JSON, also where a method of the package has one of the name but another type.
func TestOwnMethodOptions(t *testing.T) {
	type regress struct {
		own
		Spread float64   `option:"spread" default:"1" range:"(0,]" help:"spread"`
		Warmup []float64 `option:"warmup" help:"not what it is elsewhere"`
	}
	m := &regress{}
	r := Run{Method: m, Data: "emoji", Out: "x"}
	require.NoError(t, r.Set("spread", 2.0))
	require.NoError(t, r.Set("warmup", []int{1, 2}))
	require.NoError(t, r.Set("method", "own"))
	require.Same(t, m, r.Method)
	require.Equal(t, &regress{Spread: 2, Warmup: []float64{1, 2}}, m)
	require.ErrorContains(t, r.Set("spread", -1.0), "above 0")
	require.ErrorContains(t, r.Set("spred", 1.0), "no such option")
	require.ErrorContains(t, r.Set("s0", 3), "own")

	text, err := json.Marshal(r)
	require.NoError(t, err)
	again := Run{Method: &regress{Spread: 5}}
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, m, again.Method)
	require.NoError(t, json.Unmarshal([]byte(`{"spread": 3}`), &again))
	require.Equal(t, 3.0, again.Method.(*regress).Spread)
	require.NoError(t, Values{"method": "own", "spread": 4.0}.Apply(&again))
	require.Equal(t, 4.0, again.Method.(*regress).Spread)
	for _, c := range [][]string{{`{"spread": 0}`, "above 0"}, {`{"method": "ict", "spread": 3}`, "spread"}, {`{"method": "other"}`, "other"}} {
		require.ErrorContains(t, json.Unmarshal([]byte(c[0]), &again), c[1])
	}
	require.NoError(t, json.Unmarshal([]byte(`{"method": "ict", "s0": 12}`), &again))
	require.Equal(t, &ICT{S0: 12}, again.Method)
}

// What is put together wrongly is an error that says what, and no panic.
func TestUnsound(t *testing.T) {
	with := func(change func(s *Spec)) *custom {
		c := valid()
		change(&c.spec)
		return &c
	}
	for want, r := range map[string]Run{
		"Name":               {Method: with(func(s *Spec) { s.Name = "" })},
		"no Forms":           {Method: with(func(s *Spec) { s.Forms = nil })},
		"no Function":        {Method: with(func(s *Spec) { s.Function = nil })},
		"method of this":     {Method: with(func(s *Spec) { s.Name = "ict" })},
		"got recipe.custom":  {Method: valid()},
		"got a nil *recipe":  {Method: (*custom)(nil)},
		"nil *recipe.ICT":    {Method: (*ICT)(nil)},
		"unet.Options":       {Size: unet.Options{}},
		"dit.Options":        {Size: dit.Options{}},
		"non-nil":            {Size: (*unet.Options)(nil)},
		"*struct {}":         {Size: &struct{}{}},
		"Objective returned": {Method: with(func(*Spec) {}), Resolution: 8, Size: &unet.Options{Channels: 8, Mult: []int{1}, Blocks: 1}},
		"Function returned":  {Method: with(func(s *Spec) { s.Function = func(Model) (any, error) { return nil, nil } }), Resolution: 8, Size: &unet.Options{Channels: 8, Mult: []int{1}, Blocks: 1}},
		"chan int": {Method: &struct {
			custom
			C chan int `option:"c"`
		}{custom: valid()}},
		"not exported": {Method: &struct {
			custom
			c int `option:"c"`
		}{custom: valid()}},
		`"batch": all runs`: {Method: &struct {
			custom
			B int `option:"batch"`
		}{custom: valid()}},
		"network ddpmpp": {Method: &struct {
			custom
			B int `option:"channels"`
		}{custom: valid()}},
		`"resume"`: {Method: &struct {
			custom
			B int `option:"resume"`
		}{custom: valid()}},
		`"Some_Name"`: {Method: &struct {
			custom
			B int `option:"Some_Name"`
		}{custom: valid()}},
		"twice": {Method: &struct {
			custom
			A, B int `option:"a"`
		}{custom: valid()}},
		"type string, got int": {Method: &struct {
			custom
			A int `option:"teacher"`
		}{custom: valid()}},
		`"a": default`: {Method: &struct {
			custom
			A int `option:"a" default:"x"`
		}{custom: valid()}},
		"interval": {Method: &struct {
			custom
			A int `option:"a" range:"1"`
		}{custom: valid()}},
	} {
		r.Data, r.Out, r.Steps, r.Batch = "emoji", t.TempDir()+"/run", 2, 2
		_, err := r.Train(t.Context())
		var of *OptionError
		require.ErrorAs(t, err, &of, want)
		require.ErrorContains(t, err, want)
		require.NoDirExists(t, r.Out)
		if r.Resolution > 0 {
			continue // what only the training can see
		}
		_, err = r.Plan()
		require.ErrorContains(t, err, want)
		_, err = json.Marshal(r)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, r.Set("steps", 3), want)
		require.ErrorContains(t, json.Unmarshal([]byte(`{"steps": 3}`), &r), want)
		require.ErrorContains(t, r.Unused("s0"), want)
	}
}

// An int stands for any number that it is.
func TestSetTakesInts(t *testing.T) {
	var r Run
	require.NoError(t, r.Set("lr", 1))
	require.NoError(t, r.Set("lr-decay", 0))
	require.NoError(t, r.Set("seed", 7))
	require.NoError(t, r.Set("half-lives", []int{50000, 500000}))
	require.Equal(t, []any{1.0, 0.0, uint64(7), []float64{50000, 500000}}, []any{r.LR, *r.LRDecay, r.Seed, r.HalfLives})
	require.ErrorContains(t, r.Set("lr", 11), "below 10")
	require.ErrorContains(t, r.Set("seed", -1), "seed")
	require.ErrorContains(t, r.Set("steps", 1.0), "an integer")
	require.ErrorContains(t, r.Set("flip", 1), "true or false")
	require.Equal(t, []any{1.0, uint64(7)}, []any{r.LR, r.Seed})
}
