package job

import (
	"context"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/training/recipe"
)

// A student, a teacher alone and a student without a teacher are looked at; what cannot be is refused, and nothing is written.
func TestInspect(t *testing.T) {
	from := teacher(t)
	student := tinyRun(filepath.Join(t.TempDir(), "student"), "cd")
	student.Steps, student.Dropout = 2, 0
	_, err := student.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	written := ""
	look := func(change func(o *Inspect)) (Inspected, error) {
		o := DefaultInspect()
		o.Model, o.N, o.Columns, o.Steps, o.Threads, o.Out = student.Out, 2, 4, 12, 1, filepath.Join(t.TempDir(), "x.png")
		change(&o)
		r, err := o.Run(context.Background())
		if err != nil && o.Out != written {
			require.NoFileExists(t, o.Out)
		}
		return r, err
	}
	size := func(path string) image.Point {
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		img, err := png.Decode(f)
		require.NoError(t, err)
		return img.Bounds().Size()
	}
	both, err := look(func(o *Inspect) { o.Teacher = from })
	require.NoError(t, err)
	require.Len(t, both.Levels, 4)
	require.Equal(t, 80.0, both.Levels[0].T)
	require.InDelta(t, 0.002, both.Levels[3].T, 1e-9)
	require.Less(t, *both.Levels[3].ToEnd, 0.02, "at its boundary the function is the identity, and the trajectory nearly at its end")
	require.Greater(t, *both.Levels[0].ToEnd, *both.Levels[3].ToEnd)
	require.Nil(t, both.Levels[3].ToNext)
	require.InDelta(t, *both.Levels[0].ToEnd, *both.OneStep, 1e-6, "one step is what the function says of the noise itself")
	require.NotNil(t, both.TwoSteps)

	alone, err := look(func(*Inspect) {})
	require.NoError(t, err)
	require.Nil(t, alone.OneStep)
	require.Nil(t, alone.Levels[0].ToEnd)
	require.NotNil(t, alone.Levels[0].ToNext)
	teacherAlone, err := look(func(o *Inspect) { o.Model = from })
	require.NoError(t, err)
	require.Nil(t, teacherAlone.Levels[0].ToNext)
	require.Greater(t, size(both.File).Y, size(alone.File).Y, "a row more for each trajectory")
	require.Greater(t, size(both.File).X, size(teacherAlone.File).X)

	for want, change := range map[string]func(o *Inspect){
		"--model is missing":                                    func(o *Inspect) { o.Model = "" },
		"--out: want FILE.png":                                  func(o *Inspect) { o.Out = "x.jpg" },
		"--n: want 1 to 64":                                     func(o *Inspect) { o.N = 65 },
		"--columns: want 2 to 40":                               func(o *Inspect) { o.Columns = 1 },
		"--steps: want at least as many as --columns, 4":        func(o *Inspect) { o.Steps = 3 },
		"--label: want 0 to 8, got 9":                           func(o *Inspect) { o.Label = 9 },
		"--teacher: its images have shape":                      func(o *Inspect) { o.Model, o.Teacher = "builtin", from },
		"holds a consistency function":                          func(o *Inspect) { o.Teacher = student.Out },
		"no/.. does not exist":                                  func(o *Inspect) { o.Out = t.TempDir() + "/no/../x.png" },
		"--device: ":                                            func(o *Inspect) { o.Device = "tpu" },
		"--seed: 2 trajectories from seed 18446744073709551615": func(o *Inspect) { o.Seed = 1<<64 - 1 },
	} {
		_, err := look(change)
		require.ErrorContains(t, err, want)
	}
	written = both.File
	_, err = look(func(o *Inspect) { o.Out = written })
	require.ErrorContains(t, err, "exists: choose another name")
}

// A student that was distilled with guidance is looked at beside its teacher with the same guidance, told the scale or not.
func TestInspectGuided(t *testing.T) {
	dir := t.TempDir()
	train := func(name, method string, change func(o *Train)) string {
		o := tinyRun(filepath.Join(dir, name), method)
		o.Steps, o.Dropout, o.LR = 8, 0, 0.05
		change(&o)
		_, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err)
		return o.Out
	}
	from := train("teacher", "edm", func(o *Train) { o.LabelDropout = 0.3 })
	plain := train("plain", "edm", func(*Train) {})
	unconditional := train("unconditional", "edm", func(o *Train) { o.Classes = false })
	told := train("told", "cd", func(o *Train) { *own[*recipe.CD](o) = recipe.CD{Teacher: from, Guidance: []float64{1, 5}} })
	fixed := train("fixed", "cd", func(o *Train) { *own[*recipe.CD](o) = recipe.CD{Teacher: from, Guidance: []float64{3}} })
	look := func(model, teacher string, scale float64) (Inspected, []byte, error) {
		o := DefaultInspect()
		o.Model, o.Teacher, o.Guidance = model, teacher, scale
		o.N, o.Columns, o.Steps, o.Threads, o.Out = 2, 4, 12, 1, filepath.Join(t.TempDir(), "x.png")
		r, err := o.Run(context.Background())
		if err != nil {
			require.NoFileExists(t, o.Out)
			return r, nil, err
		}
		picture, err := os.ReadFile(o.Out)
		return r, picture, err
	}
	seen := map[string]bool{}
	for _, c := range []struct {
		model, teacher string
		scale          float64
	}{{told, from, 0}, {told, from, 4}, {told, "", 0}, {told, "", 4}, {fixed, from, 0}, {fixed, from, 3}, {from, "", 0}, {from, "", 3}} {
		_, picture, err := look(c.model, c.teacher, c.scale)
		require.NoError(t, err)
		require.False(t, seen[string(picture)], "%v: the scale changes the picture", c)
		seen[string(picture)] = true
	}
	none, _, err := look(told, from, 0)
	require.NoError(t, err)
	one, _, err := look(told, from, 1)
	require.NoError(t, err)
	require.Equal(t, *none.OneStep, *one.OneStep, "no guidance is a scale of 1")
	// At the boundary the student is the identity: the distance there is that of the teacher's trajectory from its end, told or not.
	three, _, err := look(fixed, from, 3)
	require.NoError(t, err)
	same, _, err := look(told, from, 3)
	require.NoError(t, err)
	require.Equal(t, *three.Levels[3].ToEnd, *same.Levels[3].ToEnd)

	for want, c := range map[string]func() error{
		"--guidance: the model was not trained for it":          func() error { _, _, err := look(fixed, "", 3); return err },
		"the denoiser was not trained without classes":          func() error { _, _, err := look(told, plain, 3); return err },
		"the denoiser is not class-conditional":                 func() error { _, _, err := look(unconditional, "", 3); return err },
		"--teacher: it has no classes, the model has 9 classes": func() error { _, _, err := look(told, unconditional, 0); return err },
		"--teacher: it has 9 classes, the model has no classes": func() error { _, _, err := look(unconditional, from, 0); return err },
		"--guidance: want a scale from 0 to 1000, got -1":       func() error { _, _, err := look(told, from, -1); return err },
		"--guidance: want a scale from 0 to 1000, got NaN":      func() error { _, _, err := look(told, from, math.NaN()); return err },
		"--teacher: want a denoiser":                            func() error { _, _, err := look(told, fixed, 0); return err },
	} {
		require.ErrorContains(t, c(), want)
	}
}
