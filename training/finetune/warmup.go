package finetune

import (
	"errors"
	"math"
	"strconv"

	"github.com/onestep-go/onestep/internal/quote"
)

// Warmup is the length of the learning rate's warm-up: a number of optimizer steps, or below 1 a fraction of the run. Its zero value is none.
type Warmup float64

// Steps is the number of warm-up steps in a run of that many.
func (w Warmup) Steps(run int) int {
	if w < 1 {
		return int(math.Round(float64(w) * float64(run)))
	}
	return int(w)
}

// UnmarshalText reads a number of steps, or a fraction of the run, such as 500, 0.05 or 5%.
func (w *Warmup) UnmarshalText(text []byte) error {
	number, scale := string(text), 1.0
	if n := len(number); n > 0 && number[n-1] == '%' {
		number, scale = number[:n-1], 0.01
	}
	v, err := strconv.ParseFloat(number, 64)
	v *= scale
	if err != nil || !(v >= 0) || v > 1e9 || v >= 1 && (v != math.Trunc(v) || scale != 1) {
		return errors.New("want " + warmupForm + ", got " + quote.Quoted(string(text)))
	}
	*w = Warmup(v)
	return nil
}

const warmupForm = "a number of steps, or a fraction of the run such as 0.05 or 5%"

// UnmarshalJSON reads a number, or a text as [Warmup.UnmarshalText] does.
func (w *Warmup) UnmarshalJSON(data []byte) error {
	if text, err := strconv.Unquote(string(data)); err == nil {
		return w.UnmarshalText([]byte(text))
	}
	return w.UnmarshalText(data)
}

// MarshalJSON writes a number.
func (w Warmup) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(w), 'g', -1, 64), nil
}
