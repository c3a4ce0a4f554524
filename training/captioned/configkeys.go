package captioned

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/internal/suggest"
)

// level is where in a configuration a key may be.
type level int

const (
	inGeneral level = 1 << iota
	inDataset
	inSubset

	inSets     = inGeneral | inDataset            // what the subsets of a dataset share
	everywhere = inGeneral | inDataset | inSubset // what each subset may have its own value of
)

func (l level) String() string {
	return map[level]string{inGeneral: "[general]", inDataset: "[[datasets]]", inSubset: "[[datasets.subsets]]"}[l]
}

// configKey is a key of a configuration.
type configKey struct {
	level
	apply func(c *config, v any) error
}

// configKeys are the keys that kohya's scripts know, with what they do here. Those that are not supported are refused with the reason, unless
// their value asks for nothing.
var configKeys = map[string]configKey{
	"subsets": {inDataset, func(*config, any) error { return nil }}, // read on their own

	"batch_size":            {inSets, whole(1, func(c *config, n int) { c.batch = n })},
	"resolution":            {inSets, resolution},
	"enable_bucket":         {inSets, yes(func(c *config, on bool) { c.Enable = on })},
	"min_bucket_reso":       {inSets, whole(1, func(c *config, n int) { c.Min = n })},
	"max_bucket_reso":       {inSets, whole(1, func(c *config, n int) { c.Max = n })},
	"bucket_reso_steps":     {inSets, whole(1, func(c *config, n int) { c.Step = n })},
	"bucket_no_upscale":     {inSets, yes(func(c *config, on bool) { c.NoUpscale = on })},
	"skip_image_resolution": {inSets, skipResolution},

	"image_dir":     {inSubset, text(func(c *config, v string) { c.imageDir = v })},
	"metadata_file": {inSubset, text(func(c *config, v string) { c.metadataFile = v })},
	"is_reg":        {inSubset, yes(func(c *config, on bool) { c.Regularization = on })},

	"num_repeats":                    {everywhere, whole(1, func(c *config, n int) { c.Repeats = n })},
	"class_tokens":                   {everywhere, text(func(c *config, v string) { c.ClassTokens = v })},
	"caption_extension":              {everywhere, extension},
	"flip_aug":                       {everywhere, yes(func(c *config, on bool) { c.Flip = on })},
	"random_crop":                    {everywhere, yes(func(c *config, on bool) { c.RandomCrop = on })},
	"shuffle_caption":                {everywhere, yes(func(c *config, on bool) { c.Shuffle = on })},
	"keep_tokens":                    {everywhere, whole(0, func(c *config, n int) { c.KeepTokens = n })},
	"keep_tokens_separator":          {everywhere, text(func(c *config, v string) { c.KeepSeparator = v })},
	"secondary_separator":            {everywhere, text(func(c *config, v string) { c.SecondSeparator = v })},
	"caption_separator":              {everywhere, text(func(c *config, v string) { c.Separator = v })},
	"caption_prefix":                 {everywhere, text(func(c *config, v string) { c.Prefix = v })},
	"caption_suffix":                 {everywhere, text(func(c *config, v string) { c.Suffix = v })},
	"caption_dropout_rate":           {everywhere, number(func(c *config, x float64) { c.Dropout = x })},
	"caption_dropout_every_n_epochs": {everywhere, whole(0, func(c *config, n int) { c.DropoutEvery = n })},
	"caption_tag_dropout_rate":       {everywhere, number(func(c *config, x float64) { c.PartDropout = x })},
	"enable_wildcard":                {everywhere, yes(wildcardsOn)},

	// Files of sizes and captions that kohya's scripts keep; here all images are read once in any case.
	"cache_info": {everywhere, yes(func(*config, bool) {})},

	"resize_interpolation":  {everywhere, unsupported("images are resized with Pillow's bicubic filter, which is antialiased", "bicubic", "cubic")},
	"color_aug":             {everywhere, unsupported("changes of colour are not supported: they would be learned", false)},
	"face_crop_aug_range":   {everywhere, unsupported("crops around faces are not supported; random_crop is")},
	"token_warmup_min":      {everywhere, unsupported("captions that grow during training are not supported", 1)},
	"token_warmup_step":     {everywhere, unsupported("captions that grow during training are not supported", 0)},
	"custom_attributes":     {everywhere, unsupported("attributes of images are not supported")},
	"alpha_mask":            {everywhere, unsupported("masks of the loss are not supported; transparent images are composited on white", false)},
	"conditioning_data_dir": {inSubset, unsupported("ControlNets are not trained")},
	"network_multiplier":    {inSets, unsupported("adapters are trained at a scale of 1", 1)},
	"validation_split":      {everywhere, unsupported("no images are set aside for a validation loss", 0)},
	"validation_seed":       {everywhere, unsupported("no images are set aside for a validation loss")},
}

// onCommandLine are keys by the names that they have on the command line of kohya's scripts.
var onCommandLine = map[string]string{"train_batch_size": "batch_size", "dataset_repeats": "num_repeats", "train_data_dir": "image_dir", "in_json": "metadata_file"}

// unknownKey is the error of a key that is none.
func unknownKey(key, where string, known []string) error {
	if name, ok := onCommandLine[key]; ok {
		return fmt.Errorf("unknown key %s in %s%s", quote.Quoted(key), where, suggest.Question(name))
	}
	return fmt.Errorf("unknown key %s in %s%s", quote.Quoted(key), where, suggest.Hint(key, known))
}

// apply sets what a table says.
func (c *config) apply(table map[string]any, at level) error {
	for _, name := range slices.Sorted(maps.Keys(table)) {
		key, ok := configKeys[name]
		if !ok {
			return unknownKey(name, at.String(), slices.Sorted(maps.Keys(configKeys)))
		}
		if key.level&at == 0 {
			var may []string
			for _, l := range []level{inGeneral, inDataset, inSubset} {
				if key.level&l != 0 {
					may = append(may, l.String())
				}
			}
			return fmt.Errorf("%s: it belongs in %s", name, strings.Join(may, " or ")) //quote: one of configKeys
		}
		if err := key.apply(c, table[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err) //quote: one of configKeys
		}
	}
	return nil
}

// wildcardsOn is kohya's enable_wildcard, by which one of several lines is drawn, too.
func wildcardsOn(c *config, on bool) {
	c.Wildcards, c.Lines = on, FirstLine
	if on {
		c.Lines = RandomLine
	}
}

// want is the error of a value of another type.
func want(what string, v any) error {
	if text, ok := v.(string); ok {
		return fmt.Errorf("want %s, got %s", what, quote.Quoted(text))
	}
	return fmt.Errorf("want %s, got %s", what, quote.Text(fmt.Sprint(v)))
}

func yes(set func(c *config, on bool)) func(*config, any) error {
	return func(c *config, v any) error {
		on, ok := v.(bool)
		if !ok {
			return want("true or false", v)
		}
		set(c, on)
		return nil
	}
}

func text(set func(c *config, text string)) func(*config, any) error {
	return func(c *config, v any) error {
		s, ok := v.(string)
		if !ok {
			return want("a text in quotation marks", v)
		}
		set(c, s)
		return nil
	}
}

func number(set func(c *config, x float64)) func(*config, any) error {
	return func(c *config, v any) error {
		switch x := v.(type) {
		case float64:
			set(c, x)
		case int64:
			set(c, float64(x))
		default:
			return want("a number", v)
		}
		return nil
	}
}

// wholeNumber is an integer, which in JSON is a float64.
func wholeNumber(v any) (int, bool) {
	switch n := v.(type) {
	case int64:
		return int(n), n == int64(int(n))
	case float64:
		return int(n), n == math.Trunc(n) && math.Abs(n) < 1<<31
	}
	return 0, false
}

func whole(least int, set func(c *config, n int)) func(*config, any) error {
	return func(c *config, v any) error {
		n, ok := wholeNumber(v)
		if !ok || n < least || n > maxRepeats {
			return want(fmt.Sprintf("a whole number from %d to %d", least, maxRepeats), v)
		}
		set(c, n)
		return nil
	}
}

// sidesOf are a width and height: one number for both, or a list of two.
func sidesOf(v any) (w, h int, err error) {
	pair, ok := v.([]any)
	if !ok {
		pair = []any{v, v}
	}
	if len(pair) == 2 {
		w, okW := wholeNumber(pair[0])
		h, okH := wholeNumber(pair[1])
		if okW && okH && min(w, h) >= 1 && max(w, h) <= maxResolution {
			return w, h, nil
		}
	}
	return 0, 0, want(fmt.Sprintf("a number of pixels from 1 to %d, or [width, height]", maxResolution), v)
}

func resolution(c *config, v any) (err error) {
	c.width, c.height, err = sidesOf(v)
	return err
}

func skipResolution(c *config, v any) error {
	w, h, err := sidesOf(v)
	c.skip = w * h
	return err
}

func extension(c *config, v any) error {
	ext, ok := v.(string)
	if !ok || len(ext) < 2 || ext[0] != '.' || strings.ContainsAny(ext, `/\`) || strings.Contains(ext[1:], ".") {
		return want(`an extension with its dot, such as ".txt"`, v)
	}
	c.extension = ext
	return nil
}

// unsupported refuses a key, but for values that ask for nothing.
func unsupported(reason string, nothing ...any) func(*config, any) error {
	return func(_ *config, v any) error {
		if n, ok := wholeNumber(v); ok {
			v = n
		}
		if slices.Contains(nothing, v) {
			return nil
		}
		return errors.New(reason) //quote: of the table above
	}
}
