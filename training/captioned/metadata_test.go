package captioned

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/dataset"
)

// captionsOf are a set's captions by key.
func captionsOf(s *Set) map[string][]string {
	all := map[string][]string{}
	for _, x := range s.Images() {
		all[x.Key] = x.Captions
	}
	return all
}

func TestMetadata(t *testing.T) {
	img := gradient(8, 8, 0)
	o := Options{Resolution: 8}
	s := opened(t, tree(t, "a.png", img, "b.png", img, "sub/c.png", img, "b.txt", "beside", "metadata.jsonl",
		"\ufeff"+`{"file_name": "a.png", "text": ["one", "two"], "width": 3}`+"\n\n"+`{"file_name": "./sub/c.png", "text": " three "}`+"\n"+`{"file_name": "a.png", "text": "again"}`), o)
	assert.Equal(t, map[string][]string{"a.png": {"one", "two", "again"}, "b.png": {"beside"}, "sub/c.png": {"three"}}, captionsOf(s))
	assert.Contains(t, strings.Join(s.Notices(), "\n"), "width")

	s = opened(t, tree(t, "a.png", img, "a.txt", "beside", "b,.png", img, "metadata.csv", "file_name,caption\na.png,\"first,\nsecond\"\n\"b,.png\",\"say \"\"x\"\"\"\n"), o)
	assert.Equal(t, map[string][]string{"a.png": {"first,\nsecond"}, "b,.png": {`say "x"`}}, captionsOf(s))
	assert.Len(t, s.Notices(), 1, "a caption in the metadata and one beside it")

	// A column of another name, and metadata below the directory, whose paths are relative to it.
	dir := tree(t, "train/a.png", img, "train/metadata.jsonl", `{"file_name": "a.png", "description": "x", "text": "y"}`)
	assert.Equal(t, map[string][]string{"train/a.png": {"y"}}, captionsOf(opened(t, dir, o)))
	o.Column = "description"
	assert.Equal(t, map[string][]string{"train/a.png": {"x"}}, captionsOf(opened(t, dir, o)))
	o.Column = ""

	// An image without a caption is one.
	dir = tree(t, "a.png", img, "b.png", img, "metadata.jsonl", `{"file_name": "a.png", "text": null}`+"\n"+`{"file_name": "b.png", "text": "y"}`)
	require.ErrorIs(t, refused(t, dir, o), ErrUncaptioned)

	for name, one := range map[string]struct{ meta, want string }{
		"no JSON":     {"x", "line 1"},
		"a list":      {"[]", "line 1"},
		"no file":     {`{"text": "x"}`, "file_name"},
		"no caption":  {`{"file_name": "a.png", "title": "x"}`, "title"},
		"outside":     {`{"file_name": "../a.png", "text": "x"}`, "../a.png"},
		"absolute":    {`{"file_name": "/etc/passwd", "text": "x"}`, "/etc/passwd"},
		"missing":     {`{"file_name": "b.png", "text": "x"}`, "b.png"},
		"a number":    {`{"file_name": "a.png", "text": 3}`, "a number"},
		"nested":      {`{"file_name": "a.png", "text": [["x"]]}`, "a.png"},
		"NUL":         {`{"file_name": "a.png", "text": "a\u0000"}`, "NUL"},
		"long line":   {`{"file_name": "a.png", "text": "` + strings.Repeat("x", maxLine) + `"}`, "line 1"},
		"column gone": {`{"file_name": "a.png", "text": "x"}` + "\n" + `{"file_name": "a.png", "texts": "x"}`, "line 2"},
	} {
		assert.Contains(t, refused(t, tree(t, "a.png", img, "metadata.jsonl", one.meta), o).Error(), one.want, name)
	}
	for _, csv := range []string{"", "file_name\na.png\n", "file_name,text\na.png\n", "file_name,text\n\"a.png,x\n"} {
		refused(t, tree(t, "a.png", img, "metadata.csv", csv), o)
	}
	refused(t, tree(t, "a.png", img, "metadata.csv", "file_name,text\na.png,x", "metadata.jsonl", `{"file_name": "a.png", "text": "x"}`), o)
	var corrupt *dataset.CorruptError
	require.ErrorAs(t, refused(t, tree(t, "a.png", img, "metadata.jsonl", `{"file_name": "a.png", "text": {}}`), o), &corrupt)
	require.ErrorAs(t, refused(t, tree(t, "a.png", img, "metadata.csv", "file_name,text\na.png,\xff"), o), &corrupt)
}

// Directories N_name are N repeats with class tokens.
func TestRepeatedDirectories(t *testing.T) {
	img := gradient(8, 8, 0)
	dir := tree(t, "3_sks dog/a.png", img, "3_sks dog/b.png", img, "3_sks dog/b.txt", "a dog", "1_cat/c.png", img, "more/d.png", img)
	s := opened(t, dir, Options{Resolution: 8})
	assert.Equal(t, map[string][]string{"3_sks dog/a.png": {"sks dog"}, "3_sks dog/b.png": {"a dog"}, "1_cat/c.png": {"cat"}}, captionsOf(s))
	assert.EqualValues(t, 7, s.Summary().Samples)
	assert.Contains(t, strings.Join(s.Notices(), "\n"), "more", "the directory that is not used")
	// The one directory itself is not taken for its parent.
	s = opened(t, filepath.Join(dir, "3_sks dog"), Options{Resolution: 8, Uncaptioned: true})
	assert.EqualValues(t, 2, s.Summary().Samples)
	assert.Len(t, s.Notices(), 1)

	// Images beside such directories are ignored, and a metadata file lists images without repeats; both are said.
	write(t, dir, "stray.png", img)
	write(t, dir, "stray.txt", "x")
	s = opened(t, dir, Options{Resolution: 8})
	assert.EqualValues(t, 7, s.Summary().Samples)
	assert.Contains(t, strings.Join(s.Notices(), "\n"), "stray.png")
	write(t, dir, "metadata.jsonl", `{"file_name": "stray.png", "text": "x"}`)
	s = opened(t, dir, Options{Resolution: 8, Uncaptioned: true})
	assert.EqualValues(t, 5, s.Summary().Samples)
	assert.Contains(t, strings.Join(s.Notices(), "\n"), "repeats")

	for _, name := range []string{"0_x", "99999999999999999999_x", "3_\xff"} {
		refused(t, tree(t, name+"/a.png", img), Options{Resolution: 8})
	}
	refused(t, tree(t, "1_x/a.txt", "x"), Options{Resolution: 8})
}

// Regularisation images are repeated until there are as many as of the others, and have the prior loss weight.
func TestRegularisation(t *testing.T) {
	img := gradient(8, 8, 0)
	data := tree(t, "5_sks dog/a.png", img)
	prior := tree(t, "1_dog/a.png", img, "1_dog/b.png", img)
	s := opened(t, data, Options{Resolution: 8, Prior: prior, PriorWeight: 0.5})
	require.Equal(t, 3, s.Len())
	assert.Equal(t, []int{5, 3, 2}, []int{s.Images()[0].Repeats, s.Images()[1].Repeats, s.Images()[2].Repeats})
	assert.Equal(t, 2, s.Summary().Regularization)
	weights := map[float64]int{}
	for _, b := range batches(s.Order(OrderOptions{Batch: 5}), 0, 20) {
		for _, it := range b {
			weights[it.Weight]++
			require.Equal(t, it.Image > 0, it.Weight == 0.5)
		}
	}
	assert.Equal(t, map[float64]int{1: 50, 0.5: 50}, weights)

	// Those that are too many are not used.
	s = opened(t, prior, Options{Resolution: 8, Prior: tree(t, "2_x/a.png", img, "2_x/b.png", img), PriorWeight: 0.5})
	assert.Equal(t, 3, s.Len())
	assert.EqualValues(t, 4, s.Summary().Samples)
	assert.Contains(t, strings.Join(s.Notices(), "\n"), "1 regularisation image")

	refused(t, data, Options{Resolution: 8, Prior: filepath.Join(data, "nowhere")})
	refused(t, data, Options{Resolution: 8, Settings: Settings{Regularization: true}})
	require.NoError(t, os.WriteFile(filepath.Join(prior, "x"), nil, 0o600))
	refused(t, data, Options{Resolution: 8, Prior: filepath.Join(prior, "x")})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"file_name": "a.png", "text": ["x"]}`), true)
	f.Add([]byte("file_name,text\na.png,x\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, lines bool) {
		m := metadata{captions: map[string][]string{}, errs: map[string]error{}, unused: map[string]bool{}}
		read := m.readCSV
		if lines {
			read = m.readJSONL
		}
		if read(bytes.NewReader(data), "sub") != nil {
			return
		}
		for path, captions := range m.captions {
			require.True(t, strings.HasPrefix(path, "sub/"), path)
			for _, c := range captions {
				require.NoError(t, checkText(c))
			}
		}
		captionsIn(data, "")
	})
}
