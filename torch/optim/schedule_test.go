package optim

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		name     string
		schedule Schedule
		want     map[int]float64
	}{
		{"zero value", Schedule{}, map[int]float64{0: 1, 1: 1, 1e9: 1}},
		{"warm-up", Schedule{Warmup: 4}, map[int]float64{0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 100: 1}},
		{"linear", Schedule{Decay: Linear, Steps: 10}, map[int]float64{0: 1, 1: 0.9, 5: 0.5, 9: 0.1, 10: 0, 11: 0}},
		{"linear in the second half", Schedule{Decay: Linear, Start: 50, Steps: 100}, map[int]float64{0: 1, 50: 1, 75: 0.5, 99: 0.02, 100: 0}},
		{"linear after warm-up", Schedule{Decay: Linear, Warmup: 2, Steps: 12}, map[int]float64{0: 0.5, 1: 1, 2: 1, 7: 0.5, 12: 0}},
		{"cosine", Schedule{Decay: Cosine, Steps: 12}, map[int]float64{0: 1, 2: (1 + math.Sqrt(3)/2) / 2, 6: 0.5, 8: 0.25, 12: 0, 20: 0}},
		{"inverse square root", Schedule{Decay: InverseSqrt, Start: 100}, map[int]float64{0: 1, 100: 1, 400: 0.5, 10000: 0.1}},
		{"inverse square root from the start", Schedule{Decay: InverseSqrt}, map[int]float64{0: 1, 1: 1, 4: 0.5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.NoError(t, c.schedule.Validate())
			for k, want := range c.want {
				assert.InDelta(t, want, c.schedule.At(k), 1e-15, "step %d", k)
			}
		})
	}
}

func TestScheduleValidate(t *testing.T) {
	for want, c := range map[string]Schedule{
		"learning rate: the linear decay starts at step 0 of 0: want a start before the last step":           {Decay: Linear},
		"learning rate: the cosine decay starts at step 9 of 9: want a start before the last step":           {Decay: Cosine, Warmup: 9, Steps: 9},
		`learning rate: unknown decay "step": want "linear", "cosine", "rsqrt", or none for a constant rate`: {Decay: "step"},
		"learning rate: Warmup -1, Start 0 and Steps 0 have to be 0 or more":                                 {Warmup: -1},
	} {
		assert.EqualError(t, c.Validate(), want)
	}
}

func TestParseDecay(t *testing.T) {
	for name, want := range map[string]Decay{"constant": Constant, "linear": Linear, "cosine": Cosine, "rsqrt": InverseSqrt} {
		got, err := ParseDecay(name)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"", "Cosine", "polynomial"} {
		if _, err := ParseDecay(name); err == nil {
			t.Errorf("%q: want an error", name)
		}
	}
}
