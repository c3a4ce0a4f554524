package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
)

// Train are the options of a training run. Start from [DefaultTrain]. The JSON names are those of --config files, of a
// run's options.json and, with dashes, of the flags.
type Train struct {
	Method string `json:"method"`             // see Methods
	Data   string `json:"data"`               // a name or a path
	Dir    string `json:"data_dir,omitempty"` // where named data sets are

	Steps     int       `json:"steps"`
	Batch     int       `json:"batch"`
	LR        float64   `json:"lr"`
	LRDecay   float64   `json:"lr_decay"` // fraction of the run, at its end, in which the rate falls to 0
	Seed      uint64    `json:"seed"`
	Device    string    `json:"device"`
	Threads   int       `json:"threads,omitempty"` // 0: all processors
	Force     bool      `json:"-"`                 // try even if the memory seems too small
	Clip      float64   `json:"clip"`
	EMA       float64   `json:"ema"`                  // Unset: by Steps
	Widths    []float64 `json:"widths,omitempty"`     // of power-function averages, beside the one by EMA
	HalfLives []float64 `json:"half_lives,omitempty"` // in images, of averages beside that one
	Distance  string    `json:"distance"`
	LPIPS     string    `json:"lpips,omitempty"`        // the weights of the distance lpips
	Resize    string    `json:"lpips_resize,omitempty"` // which images it resizes: "", small or all
	S0        int       `json:"s0"`                     // 0: by Method
	S1        int       `json:"s1"`                     // 0: by Method and Steps
	Mu0       float64   `json:"mu0"`
	Schedule  string    `json:"schedule"` // ict: doubling or linear

	Teacher  string    `json:"teacher,omitempty"`  // a denoiser to distil: a file or a run directory
	Init     string    `json:"init,omitempty"`     // a model whose network and weights the run starts from; "": none, for cd the teacher
	Solver   string    `json:"solver"`             // of the teacher's trajectory
	Guidance []float64 `json:"guidance,omitempty"` // cd: the teacher's scale, or the ends of a range that the student learns
	Levels   int       `json:"levels,omitempty"`   // cd: noise levels; 0: 18
	Mu       float64   `json:"mu"`                 // cd: decay of the target network
	Stages   int       `json:"stages,omitempty"`   // ect; 0: by Steps
	Q        float64   `json:"q,omitempty"`        // ect; 0: by Stages
	Warmup   int       `json:"warmup"`             // sct, scd: steps in which the tangent comes in; Unset: a tenth of the run
	Weight   string    `json:"weight"`             // sct, scd: of noise levels, learned or prior
	Step     float64   `json:"step,omitempty"`     // sct, scd: of differences in place of derivatives; 0: derivatives
	Ratio    float64   `json:"ratio"`              // meanflow: part of the samples with two times
	Power    float64   `json:"power"`              // meanflow: of the loss's weight
	First    int       `json:"first,omitempty"`    // pd: steps of the first student; 0: by Steps
	Last     int       `json:"last"`               // pd: steps of the last one
	High     float64   `json:"high"`               // edm: part of the draws at high noise levels
	Betas    string    `json:"betas"`              // ddpm: linear or cosine
	Chain    int       `json:"chain"`              // ddpm: steps of the chain

	Skips     int `json:"skips"`     // steps in a row that may be left out, as their loss is not finite
	Rollbacks int `json:"rollbacks"` // how often the run may go back then

	Resolution int     `json:"resolution"`              // 0: the images' own
	Colors     int     `json:"colors"`                  // channels of the images, 1 or 3; 0: the images' own
	Classes    bool    `json:"classes"`                 // condition on the labels
	Network    string  `json:"network"`                 // see Networks; "": that of Init, or else ddpmpp
	Drop       float64 `json:"label_dropout,omitempty"` // part of the images that lose their class
	Channels   int     `json:"channels"`                // of a U-Net's first level, of a token or a hidden layer; 0: by Network
	Mult       []int   `json:"mult"`                    // nil: by Resolution
	Blocks     int     `json:"blocks"`                  // of a U-Net's level, of a DiT; hidden layers of an MLP; 0: by Network
	Patch      int     `json:"patch,omitempty"`         // dit; 0: by Resolution
	Attention  []int   `json:"attention"`               // nil: by Resolution and Mult; empty: none
	Dropout    float64 `json:"dropout"`

	Flip        bool   `json:"flip"`
	Corrupt     string `json:"corrupt"` // error or skip
	Workers     int    `json:"workers"`
	SaveEvery   int    `json:"save_every"`
	SampleEvery int    `json:"sample_every"` // 0: never; Unset: as SaveEvery
	LogEvery    int    `json:"log_every"`    // 0: by Steps

	Keep int `json:"keep,omitempty"` // of how many steps snapshots stay; 0: of all

	Onestep string `json:"onestep,omitempty"` // the version that resolved the options
	// What Data, Teacher, Init and LPIPS held when the run was started, so that it does not go on with others.
	DataHolds    string `json:"data_holds,omitempty"`
	TeacherHolds string `json:"teacher_holds,omitempty"`
	InitHolds    string `json:"init_holds,omitempty"`
	LPIPSHolds   string `json:"lpips_holds,omitempty"`

	History []Settings `json:"history,omitempty"` // what the run had before it was extended

	Given []string `json:"-"` // options that were asked for by the names of their flags, though it be for their default

	Out      string        `json:"-"` // the run directory
	Extend   bool          `json:"-"` // with Resume: Steps, LR and LRDecay may be others than the run's
	Resume   bool          `json:"-"`
	Duration time.Duration `json:"-"` // stop after this time, as complete as it is
}

// Unset is the EMA that stands for one chosen by the run's length.
const Unset = -1

// DefaultTrain returns the options that hold where nothing else is said.
func DefaultTrain() Train {
	return Train{
		Method: "ct", Steps: 10_000, Batch: 64, LR: 1e-3, LRDecay: 0.3, Device: "cpu", Clip: 1, EMA: Unset, Distance: "huber", Mu0: 0.9, Schedule: "doubling",
		Solver: "heun", Mu: 0.95, High: 0.1, Warmup: Unset, Weight: "learned", Ratio: 0.75, Power: 0.75, Last: 1, Betas: "linear", Chain: 1000, Skips: 10, Rollbacks: 3,
		Corrupt: "error", Workers: 1, SaveEvery: 1000, SampleEvery: Unset,
	}
}

// changeable are the options that may differ when a run goes on: they do not change what it computes, or on the CPU with
// one thread do not, but for how it is guarded.
var changeable = []string{"device", "threads", "workers", "save_every", "sample_every", "log_every", "keep", "data_dir", "onestep", "corrupt", "skips", "rollbacks"}

// told are the fields that say what a run has read, and by what. They are no options.
var told = []string{"onestep", "data_holds", "teacher_holds", "init_holds", "lpips_holds", "history"}

// ReadConfig reads a JSON file of options over o. Unknown keys are errors.
func (o *Train) ReadConfig(path string) error {
	if err := There(Path{"--config", path, "a JSON file of options, as --dry-run prints", File}); err != nil {
		return err
	}
	text, err := plainfile.Read(path, 1<<20)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	err = dec.Decode(o)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("the file is empty: want a JSON object")
	case errors.As(err, &kind):
		err = fmt.Errorf("%s: want %s, got a JSON %s", quote.Text(kind.Field), kind.Type, quote.Text(kind.Value))
	case err == nil && !strings.HasPrefix(strings.TrimSpace(string(text)), "{"):
		err = errors.New("want a JSON object")
	case err == nil:
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("want one JSON object, and more follows")
		}
	}
	if err != nil {
		return usage("--config %s: %s", path, quote.Text(strings.TrimPrefix(err.Error(), "json: ")))
	}
	o.Onestep, o.DataHolds, o.TeacherHolds, o.InitHolds, o.LPIPSHolds = "", "", "", "", ""
	o.History = nil // of the run that wrote it
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return usage("--config %s: %s", path, quote.Text(err.Error()))
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		o.Given = append(o.Given, dashes(key))
	}
	return nil
}

// Command returns the command line that asks for these options, but for the run's folder and what depends on the machine.
// Take it before they are resolved.
func (o Train) Command() string {
	words := []string{"onestep", "train"}
	v, def := reflect.ValueOf(o), reflect.ValueOf(DefaultTrain())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		x := v.Field(i)
		switch {
		case name == "-" || slices.Contains(told, name) || name == "data_dir":
		case name != "method" && reflect.DeepEqual(x.Interface(), def.Field(i).Interface()):
		case x.Kind() == reflect.Bool:
			words = append(words, "--"+dashes(name))
		case x.Kind() == reflect.Slice && x.Len() == 0:
			words = append(words, "--"+dashes(name), "none")
		default:
			value := strings.ReplaceAll(strings.Trim(fmt.Sprint(x.Interface()), "[]"), " ", ",")
			if s, ok := x.Interface().(string); ok {
				value = shellWord(s)
			}
			words = append(words, "--"+dashes(name), value)
		}
	}
	return strings.Join(words, " ")
}

func dashes(name string) string { return strings.ReplaceAll(name, "_", "-") }

// shellWord makes a shell read s as one word.
func shellWord(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:,=+@%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// UsageError is an option that cannot work, whatever the machine and its files.
type UsageError struct{ Msg string }

// Error returns what is wrong with the option.
func (e *UsageError) Error() string { return e.Msg }

func usage(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// Resolve checks what can be checked without the data, and fills in what follows from other options.
func (o *Train) Resolve() error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.LogEvery == 0 {
		o.LogEvery = max(1, o.Steps/2000)
	}
	if o.SampleEvery == Unset {
		o.SampleEvery = o.SaveEvery
	}
	if o.EMA == Unset {
		o.EMA = math.Min(0.9999, math.Max(0.9, 1-20/float64(o.Steps)))
	}
	m, err := methodNamed(o.Method)
	if err != nil {
		return err
	}
	m.resolve(o)
	if m.check != nil {
		if err := m.check(*o); err != nil {
			return err
		}
	}
	if o.S1 < o.S0 {
		return usage("--s0, --s1: want noise levels that do not become fewer, got %d and then %d", o.S0, o.S1)
	}
	if o.Resolution == 0 || o.starts() || o.Teacher != "" {
		return nil
	}
	try, colors := *o, o.Colors
	if colors == 0 {
		colors = 3
	}
	_, err = try.shape(colors, o.Resolution)
	return err
}

// validate checks each option for itself; what is zero and chosen later is fine.
func (o *Train) validate() error {
	if !slices.Contains(Distances(), o.Distance) {
		return usage("--distance: %s", suggest.OneOf(o.Distance, Distances()))
	}
	if _, err := torch.ParseDevice(o.Device); err != nil {
		return usage("--device: %v", err)
	}
	m, err := methodNamed(o.Method)
	if err != nil {
		return err
	}
	if _, err := networkNamed(o.Network); o.Network != "" && err != nil {
		return err
	}
	if err := o.used(); err != nil {
		return err
	}
	for _, w := range o.Widths {
		if _, err := models.PowerExponent(w); err != nil {
			return usage("--widths: %v", err)
		}
	}
	for _, n := range o.HalfLives {
		if !(n >= 1 && n <= 1e15) {
			return usage("--half-lives: want numbers of images from 1 on, got %g", n)
		}
	}
	for option, list := range map[string][]float64{"widths": o.Widths, "half-lives": o.HalfLives} {
		sorted := slices.Sorted(slices.Values(list))
		if distinct := slices.Compact(slices.Clone(sorted)); len(distinct) < len(sorted) {
			return usage("--%s: want each once, got %s", option, options.Text(list))
		}
	}
	switch {
	case solvers[o.Solver] == nil:
		return usage("--solver: %s", suggest.OneOf(o.Solver, Solvers()))
	case o.Distance == lpipsName && o.LPIPS == "":
		return usage("--distance lpips needs weights: make them with scripts/lpips_weights.py and pass --lpips")
	case !slices.Contains([]string{"", "small", "all"}, o.Resize):
		return usage("--lpips-resize: want small or all, got %s", quote.Quoted(o.Resize))
	case o.Levels != 0 && (o.Levels < 2 || o.Levels > maxLevels):
		return usage("--levels: want 2 to %d noise levels, got %d", maxLevels, o.Levels)
	case !(o.Mu >= 0 && o.Mu < 1):
		return usage("--mu: want a decay in [0, 1), got %g", o.Mu)
	case o.Stages < 0 || o.Stages > 64:
		return usage("--stages: want 1 to 64, got %d", o.Stages)
	case o.Q != 0 && !(o.Q > 1 && o.Q <= 1e6):
		return usage("--q: want a number above 1, got %g", o.Q)
	case !(o.High >= 0 && o.High <= 1):
		return usage("--high: want a part of the draws, from 0 to 1, got %g", o.High)
	case !slices.Contains(BetaSchedules(), o.Betas):
		return usage("--betas: %s", suggest.OneOf(o.Betas, BetaSchedules()))
	case o.Chain < 2 || o.Chain > 1e6:
		return usage("--chain: want 2 to 1000000 steps, got %d", o.Chain)
	case !slices.Contains(Schedules(), o.Schedule):
		return usage("--schedule: want %s, got %s", strings.Join(Schedules(), " or "), quote.Quoted(o.Schedule))
	case o.Warmup < Unset:
		return usage("--warmup: want a number of steps from 0 on, got %d", o.Warmup)
	case !slices.Contains(Weights(), o.Weight):
		return usage("--weight: want %s, got %s", strings.Join(Weights(), " or "), quote.Quoted(o.Weight))
	case !(o.Step >= 0 && o.Step < math.Pi/2):
		return usage("--step: want an angle above 0 and below π/2, such as 0.005, got %g", o.Step)
	case !(o.Ratio > 0 && o.Ratio <= 1):
		return usage("--ratio: want a part of the samples, above 0 and up to 1, got %g", o.Ratio)
	case !(o.Power > 0 && o.Power <= 1):
		return usage("--power: want a number above 0 and up to 1, got %g", o.Power)
	case o.First != 0 && !powerOfTwo(o.First) || !powerOfTwo(o.Last) || o.First != 0 && o.First < o.Last:
		return usage("--first, --last: want powers of two up to 1024, from many to few, got %d and %d", o.First, o.Last)
	case o.Skips < 0 || o.Rollbacks < 0:
		return usage("--skips, --rollbacks: want numbers from 0 on, got %d and %d", o.Skips, o.Rollbacks)
	case m.distils && o.Teacher == "":
		return usage("--method %s needs a denoiser: train one with --method edm and pass --teacher, or --teacher %s for the exact one of the data",
			o.Method, empirical)
	case o.Data == "":
		return usage("--data is missing: emoji, fashion-mnist, cifar10 or a path")
	case o.Out == "":
		return usage("--out is missing: the folder for the run")
	case o.Steps < 1 || o.Steps > 1e9:
		return usage("--steps: want 1 to 1000000000, got %d", o.Steps)
	case o.Batch < 1 || o.Batch > 1<<20:
		return usage("--batch: want 1 to %d images, got %d", 1<<20, o.Batch)
	case !(o.LR > 0 && o.LR < 10):
		return usage("--lr: want a learning rate above 0 and below 10, got %g", o.LR)
	case !(o.LRDecay >= 0 && o.LRDecay <= 1):
		return usage("--lr-decay: want a part of the run, from 0 to 1, got %g", o.LRDecay)
	case o.Threads < 0 || o.Threads > 4096:
		return usage("--threads: want 1 to 4096, got %d", o.Threads)
	case o.EMA != Unset && !(o.EMA >= 0 && o.EMA < 1):
		return usage("--ema: want a decay in [0, 1), got %g", o.EMA)
	case len(o.Widths)+len(o.HalfLives) > 16:
		return usage("--widths, --half-lives: want at most 16 averages, got %d", len(o.Widths)+len(o.HalfLives))
	case o.S0 != 0 && (o.S0 < 2 || o.S0 > maxLevels):
		return usage("--s0: want 2 to %d noise levels, got %d", maxLevels, o.S0)
	case o.S1 != 0 && (o.S1 < 2 || o.S1 > maxLevels):
		return usage("--s1: want 2 to %d noise levels, got %d", maxLevels, o.S1)
	case !(o.Mu0 > 0 && o.Mu0 < 1):
		return usage("--mu0: want a decay in (0, 1), got %g", o.Mu0)
	case !(o.Clip > 0 && o.Clip <= 1e9):
		return usage("--clip: want a norm above 0, got %g", o.Clip)
	case !(o.Dropout >= 0 && o.Dropout < 1):
		return usage("--dropout: want a probability in [0, 1), got %g", o.Dropout)
	case o.Corrupt != "error" && o.Corrupt != "skip":
		return usage("--corrupt: want error or skip, got %s", quote.Quoted(o.Corrupt))
	case o.Resolution != 0 && (o.Resolution < 4 || o.Resolution > 1024):
		return usage("--resolution: want 4 to 1024 pixels, got %d", o.Resolution)
	case o.Colors != 0 && o.Colors != 1 && o.Colors != 3:
		return usage("--colors: want 1 (grey) or 3 (colour), got %d", o.Colors)
	case !(o.Drop >= 0 && o.Drop < 1):
		return usage("--label-dropout: want a part of the images, from 0 and below 1, got %g", o.Drop)
	case o.Drop > 0 && !o.Classes:
		return usage("--label-dropout: there are no labels to drop: pass --classes")
	case o.Guidance != nil && !scales(o.Guidance):
		return usage("--guidance: want one scale above 0 or the two ends of a range, up to 1000, got %v", o.Guidance)
	case o.Guidance != nil && !o.Classes:
		return usage("--guidance: there are no classes to guide to: pass --classes")
	case o.Channels != 0 && (o.Channels < 2 || o.Channels > 4096 || o.Channels%2 != 0):
		return usage("--channels: want an even number from 2 to 4096, got %d", o.Channels)
	case o.Mult != nil && (len(o.Mult) < 1 || len(o.Mult) > 10):
		return usage("--mult: want 1 to 10 levels, got %d", len(o.Mult))
	case o.Blocks < 0 || o.Blocks > 64:
		return usage("--blocks: want 1 to 64, got %d", o.Blocks)
	case o.Workers < 1 || o.Workers > 1024:
		return usage("--workers: want 1 to 1024, got %d", o.Workers)
	case o.Keep < 0:
		return usage("--keep: want a number of steps from 1 on, or 0 for all, got %d", o.Keep)
	case o.SaveEvery < 1:
		return usage("--save-every: want at least 1 step, got %d", o.SaveEvery)
	case o.SampleEvery < Unset:
		return usage("--sample-every: want at least 0 steps, got %d", o.SampleEvery)
	case o.LogEvery < 0:
		return usage("--log-every: want at least 1 step, got %d", o.LogEvery)
	case o.Duration < 0:
		return usage("--duration: want a positive time, got %v", o.Duration)
	}
	return nil
}

// scales tells whether these are a guidance scale, or the ends of a range.
func scales(v []float64) bool {
	for i, w := range v {
		if !(w >= 0 && w <= 1e3) || i > 0 && !(w > v[0]) || len(v) == 1 && w == 0 {
			return false
		}
	}
	return len(v) == 1 || len(v) == 2
}

func powerOfTwo(n int) bool { return n > 0 && n <= 1024 && n&(n-1) == 0 }

// maxLevels limits the discretisation; the papers use at most 1280.
const maxLevels = 1 << 20
