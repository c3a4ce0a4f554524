package captioned

import (
	"fmt"
	"image"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// configured writes a configuration beside images, in which DIR is their directory.
func configured(t testing.TB, name, text string) string {
	img := gradient(80, 80, 0)
	dir := tree(t, "dog/a.png", img, "dog/a.txt", "one\ntwo", "dog/b.png", gradient(160, 80, 1), "dog/b.caption", "b", "dog/deep/x.png", img,
		"reg/c.png", img, "reg/c.txt", "c", "tags/d.png", img, "tags/e.png", img,
		"meta.json", `{"d": {"caption": "a dog\nbig", "tags": "x, y", "train_resolution": [64, 64]}, "e.png": {"tags": "z"}}`)
	return write(t, dir, name, strings.ReplaceAll(text, "DIR", filepath.ToSlash(dir)))
}

const everyKey = `
[general]
shuffle_caption = true
keep_tokens = 1
caption_dropout_rate = 0.25
color_aug = false
token_warmup_step = 0

[[datasets]]
resolution = [64, 64]
batch_size = 2
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 128
bucket_reso_steps = 16
bucket_no_upscale = false
keep_tokens = 2
network_multiplier = 1.0
caption_extension = ".txt"
cache_info = true

  [[datasets.subsets]]
  image_dir = 'DIR/dog'
  class_tokens = "sks dog"
  num_repeats = 4
  flip_aug = true
  random_crop = true
  caption_prefix = "p"
  caption_suffix = "s"
  caption_separator = ";"
  keep_tokens_separator = "|||"
  secondary_separator = ";;;"
  caption_tag_dropout_rate = 0.5
  caption_dropout_every_n_epochs = 3

  [[datasets.subsets]]
  image_dir = 'DIR/reg'
  is_reg = true
  keep_tokens = 3
  caption_dropout_rate = 0

[[datasets]]
resolution = 32
batch_size = 2
enable_wildcard = true

  [[datasets.subsets]]
  image_dir = 'DIR/tags'
  metadata_file = 'DIR/meta.json'
`

// Every key does what it says, and what a table says comes before what is said above it.
func TestConfig(t *testing.T) {
	s := opened(t, configured(t, "data.toml", everyKey), Options{Resolution: 512, Settings: Settings{Repeats: 7}})
	assert.Equal(t, 2, s.Batch())
	assert.Equal(t, map[string][]string{"dog/a.png": {"one"}, "dog/b.png": {"sks dog"}, "reg/c.png": {"c"}, "d": {"a dog, x, y", "big, x, y"}, "e.png": {"z"}}, captionsOf(s))
	assert.Equal(t, Settings{
		Repeats: 4, ClassTokens: "sks dog", RandomCrop: true, Flip: true, Lines: FirstLine, Prefix: "p", Suffix: "s", Shuffle: true, KeepTokens: 2,
		KeepSeparator: "|||", Separator: ";", SecondSeparator: ";;;", Dropout: 0.25, DropoutEvery: 3, PartDropout: 0.5,
	}, s.Settings(0))
	assert.Equal(t, Settings{Repeats: 7, Regularization: true, Lines: FirstLine, Shuffle: true, KeepTokens: 3, Separator: ","}, s.Settings(1))
	assert.Equal(t, Settings{Repeats: 7, Lines: RandomLine, Wildcards: true, Shuffle: true, KeepTokens: 1, Separator: ",", Dropout: 0.25}, s.Settings(2))
	assert.Equal(t, []BucketCount{{32, 32, 2, 14}, {64, 64, 2, 12}, {80, 48, 1, 4}}, s.Summary().Buckets, "a 160×80 image is nearest to 80×48, and 8 of the 12 regularise")
	notices := strings.Join(s.Notices(), "\n")
	for _, part := range []string{"deep", "1 image with several lines", "1 image without a .txt file"} {
		assert.Contains(t, notices, part)
	}
	assert.Len(t, s.Notices(), 3)
}

func TestConfigJSON(t *testing.T) {
	s := opened(t, configured(t, "data.json", `{"datasets": [{"resolution": 64, "batch_size": 3, "subsets": [{"image_dir": "DIR/reg", "num_repeats": 2}]}]}`), Options{})
	assert.EqualValues(t, 2, s.Summary().Samples)
	assert.Equal(t, 3, s.Batch())
	assert.ErrorContains(t, refused(t, configured(t, "data.json", `{"datasets": [{"subsets": [{"image_dir": "DIR/reg", "num_repeats": 1.5}]}]}`), Options{}), "num_repeats")
	refused(t, configured(t, "data.json", `{`), Options{})
	refused(t, configured(t, "data.json", `[]`), Options{})
}

// Paths may be relative to the configuration, a subset that is there twice is used once, and keys of buckets that are off are named.
func TestConfigNotices(t *testing.T) {
	s := opened(t, configured(t, "data.toml", "[[datasets]]\nbucket_reso_steps = 32\n[[datasets.subsets]]\nimage_dir = 'reg'\n[[datasets.subsets]]\nimage_dir = 'reg'\n"), Options{Resolution: 32})
	assert.Equal(t, 1, s.Len())
	notices := strings.Join(s.Notices(), "\n")
	assert.Contains(t, notices, "bucket_reso_steps")
	assert.Contains(t, notices, "twice")

	s = opened(t, configured(t, "data.toml", "[[datasets]]\nskip_image_resolution = 100\n[[datasets.subsets]]\nimage_dir = 'dog'\ncaption_extension = '.caption'\nclass_tokens = 'x'\n"), Options{Resolution: 32})
	assert.Equal(t, map[string][]string{"dog/b.png": {"b"}}, captionsOf(s))
}

// A configuration's values take precedence over options, which a notice says of those that were given; those of both are used.
func TestConfigOverOptions(t *testing.T) {
	text := "[general]\nresolution = [40, 24]\nflip_aug = false\nkeep_tokens = 1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'\n"
	s := opened(t, configured(t, "data.toml", text), Options{Resolution: 32, Settings: Settings{Flip: true, KeepTokens: 2, Dropout: 0.5}})
	assert.Equal(t, image.Pt(40, 24), s.Resolution())
	assert.Equal(t, 0.5, s.Settings(0).Dropout)
	notices := strings.Join(s.Notices(), "\n")
	assert.Contains(t, notices, "flip_aug, keep_tokens")
	assert.NotContains(t, notices, "caption_dropout_rate")
	s = opened(t, configured(t, "data.toml", text), Options{Settings: Settings{KeepTokens: 1}})
	assert.NotContains(t, strings.Join(s.Notices(), "\n"), "precedence")
	assert.Equal(t, image.Pt(32, 32), opened(t, tree(t, "a.png", gradient(8, 8, 0), "a.txt", "x"), Options{Resolution: 32}).Resolution())
}

// What cannot be used is refused by its name.
func TestConfigRefused(t *testing.T) {
	for text, want := range map[string]string{
		"x": "line 1", "": "[[datasets]]", "[[datasets]]": "[[datasets.subsets]]", "[datasets]": "[[datasets]]", "[[general]]\n[[datasets]]": "[general]",
		"[other]": "other", "[general]\ntrain_batch_size = 1": "did you mean batch_size?", "[general]\nkeep_token = 1": "keep_tokens",
		"[general]\nimage_dir = 'x'": "[[datasets.subsets]]", "[[datasets]]\n[[datasets.subsets]]\nresolution = 512": "[general] or [[datasets]]",
		"[[datasets]]\n[[datasets.subsets]]": "image_dir", "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'nowhere'": "nowhere",
		"[[datasets]]\nbatch_size = 1\n[[datasets.subsets]]\nimage_dir = 'reg'\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = 'reg'": "batch_size",
		"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'\nmetadata_file = 'meta.json'\nis_reg = true":                                            "is_reg",
		"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'tags'\nmetadata_file = 'data.toml'":                                                          "data.toml",
		"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'\nis_reg = true":                                                                         "regularisation",
		"[[datasets]]\nenable_bucket = true\nmin_bucket_reso = 1024\nmax_bucket_reso = 512\n[[datasets.subsets]]\nimage_dir = 'reg'":                   "1024",
		"[[datasets]]\nenable_bucket = true\nresolution = 512\nmax_bucket_reso = 256\nmin_bucket_reso = 64\n[[datasets.subsets]]\nimage_dir = 'reg'":   "256",
		"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'\ncaption_dropout_rate = nan":                                                            "NaN",
		"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'\ncaption_tag_dropout_rate = 1.5":                                                        "1.5",
	} {
		assert.Contains(t, refused(t, configured(t, "data.toml", text), Options{Resolution: 32}).Error(), want, text)
	}
	for key, value := range map[string]string{
		"color_aug": "true", "face_crop_aug_range": "[1.0, 2.0]", "token_warmup_min": "2", "token_warmup_step": "0.5", "resize_interpolation": "'area'",
		"custom_attributes": "{}", "alpha_mask": "true", "network_multiplier": "0.5", "validation_split": "0.1", "validation_seed": "1",
		"resolution": "[1, 2, 3]", "batch_size": "0", "enable_bucket": "1", "num_repeats": "'x'", "class_tokens": "1", "caption_extension": "'txt'", "flip_aug": "'yes'",
		"keep_tokens": "-1", "caption_dropout_rate": "'x'", "min_bucket_reso": "1e99", "bucket_reso_steps": "9223372036854775807", "skip_image_resolution": "true",
	} {
		err := refused(t, configured(t, "data.toml", fmt.Sprintf("[general]\n%s = %s\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'reg'", key, value)), Options{Resolution: 32})
		assert.Contains(t, err.Error(), key+": ")
		assert.Contains(t, err.Error(), "[general]")
	}
	// Every key is read somewhere.
	for key, k := range configKeys {
		require.NotNil(t, k.apply, key)
		require.NotZero(t, k.level, key)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(everyKey), true)
	f.Add([]byte(`{"datasets": [{"subsets": [{"image_dir": "x"}]}]}`), false)
	f.Fuzz(func(t *testing.T, data []byte, toml bool) {
		root, err := parseConfig(map[bool]string{true: "x.toml", false: "x.json"}[toml], data)
		if err != nil {
			return
		}
		r := configReader{Set: &Set{}, dir: t.TempDir(), unused: map[string]bool{}, over: map[string]bool{}}
		r.o.defaults()
		r.read(root)
	})
}
