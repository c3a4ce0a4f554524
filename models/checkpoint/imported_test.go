package checkpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet/original"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/torch/saved"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// sized are the settings that the test's networks need beside them.
const sized = `"image_size": 8, "num_head_channels": 16`

// put copies a file of testdata under another name, with settings beside it; "" writes none.
func put(t *testing.T, from, name, settings string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", from))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	if settings != "" {
		beside := strings.TrimSuffix(path, filepath.Ext(path)) + ".json"
		require.NoError(t, os.WriteFile(beside, []byte("{"+settings+"}"), 0o644))
	}
	return path
}

func openAny(t *testing.T, path string) *File {
	t.Helper()
	f, err := OpenFile(path, torch.CPU)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

// Files of openai/consistency_models are the denoiser or the consistency function that their names say, or the settings beside them, and
// compute what that code computes with them. 5e-5: both sides compute in float32, and labels of 250·ln σ are rounded to 1e-4.
func TestConsistencyModelsFiles(t *testing.T) {
	for _, c := range []struct {
		name, settings string
		kind           Kind
		method         string
	}{
		{"edm_tiny.pt", sized, Denoiser, "edm"},
		{"CD_tiny_l2.pt", sized, Consistency, "cd"},
		{"ct_tiny.pt", sized, Consistency, "ct"},
		{"ema_0.9999_001000.pt", sized + `, "training_mode": "consistency_training"`, Consistency, "ct"},
		{"cd_of_the_teacher.pt", sized + `, "training_mode": "edm"`, Denoiser, "edm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := put(t, "consistency.pt", c.name, c.settings)
			d, notices, err := Inspect(path)
			require.NoError(t, err)
			f := openAny(t, path)
			require.Equal(t, d, f.Description)
			require.Equal(t, notices, f.Notices)
			require.Len(t, notices, 1)
			require.Contains(t, notices[0], "sigma_data 0.5")
			require.NotContains(t, notices[0], "pixels", "it is in the settings")
			require.Equal(t, c.kind, d.Kind)
			require.Equal(t, c.method, d.Method)
			require.Equal(t, original.ConsistencyModels, d.Layout)
			require.Equal(t, torch.Float16, f.DType)
			require.Equal(t, Form{Type: EDM, Noise: models.ScaledLog}, d.Form)
			require.Equal(t, []float64{0.5, 0.002, 80}, []float64{d.SigmaData, d.SigmaMin, d.SigmaMax})
			require.Equal(t, 9, d.Network.Classes())
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g, _ := torchtest.Golden(t, s, filepath.Join("testdata", "consistency.safetensors"))
				cond := models.Cond{Class: g["class"]}
				if c.kind == Denoiser {
					got := f.Function().(models.Denoiser).Denoise(s, g["x"], g["sigma"], cond)
					torchtest.Close(t, "denoiser", got, g["denoised"], 5e-5, 1e-5)
					return nil
				}
				got := f.Function().(models.ConsistencyFunction).Origin(s, g["x"], g["sigma"], cond)
				torchtest.Close(t, "consistency function", got, g["origin"], 5e-5, 1e-5)
				return nil
			}))
			roundTrip(t, f, path)
		})
	}
}

// Files of guided-diffusion are denoisers of 1000 timesteps, of the linear schedule or of the one in the settings, whose predicted variance is
// not used. Where the fractional timestep of a level is whole they compute the x_0 that guided-diffusion computes.
func TestGuidedDiffusionFiles(t *testing.T) {
	for schedule, settings := range map[string]string{"linear": sized + `, "use_new_attention_order": false`, "cosine": sized + `, "noise_schedule": "cosine"`} {
		t.Run(schedule, func(t *testing.T) {
			path := put(t, "guided.pt", "diffusion.pt", settings)
			f := openAny(t, path)
			require.Equal(t, original.GuidedDiffusion, f.Description.Layout)
			require.Equal(t, Denoiser, f.Description.Kind)
			require.True(t, f.Description.Form.Learned)
			require.Len(t, f.Notices, 1)
			require.Equal(t, schedule == "linear", strings.Contains(f.Notices[0], "the linear schedule"))
			require.Equal(t, schedule == "cosine", strings.Contains(f.Notices[0], "use_new_attention_order false"))
			require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
				g, _ := torchtest.Golden(t, s, filepath.Join("testdata", "guided.safetensors"))
				d := f.Function().(*models.DDPM)
				at := d.Process().Index(s, g["sigma."+schedule], false)
				torchtest.Close(t, "timesteps", at, g["t"].To(s, torch.Float64), 1e-6, 0)
				got := d.Denoise(s, g["x."+schedule], g["sigma."+schedule], models.Cond{Class: g["class"]})
				// ε is multiplied by σ, which is 150 at the last timestep.
				torchtest.Close(t, "denoiser", got, g["denoised."+schedule], 2e-5, 2e-5)
				return nil
			}))
			roundTrip(t, f, path)
		})
	}
}

// roundTrip saves a model of another code as ours and in its own layout: both open as the same model, without a notice, and the layout's file
// has the names, shapes and values of the first.
func roundTrip(t *testing.T, f *File, path string) {
	t.Helper()
	weights := func(f *File) map[string][]float32 {
		all := map[string][]float32{}
		for name, w := range f.Network.Tensors() {
			all[name] = torch.ToSlice[float32](w)
		}
		return all
	}
	own, theirs := filepath.Join(t.TempDir(), "own.safetensors"), filepath.Join(t.TempDir(), "theirs.safetensors")
	require.NoError(t, Save(theirs, f.Description, f.Network.Tensors(), SaveOptions{}))
	d := f.Description
	d.Layout = ""
	require.NoError(t, Save(own, d, f.Network.Tensors(), SaveOptions{}))
	for _, path := range []string{own, theirs} {
		again := openAny(t, path)
		want := f.Description
		if want.Format = format; path == own {
			want.Layout = ""
		}
		require.Equal(t, want, again.Description)
		require.Empty(t, again.Notices)
		require.Equal(t, weights(f), weights(again))
		require.IsType(t, f.Function(), again.Function())
	}
	old, err := saved.Open(path)
	require.NoError(t, err)
	w, err := torch.OpenWeights(theirs)
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		require.ElementsMatch(t, slices.Collect(old.Names()), slices.Collect(w.Names()))
		for name := range w.Names() {
			a, err := old.Get(s, name)
			require.NoError(t, err)
			b, err := w.Get(s, name)
			require.NoError(t, err)
			require.Equal(t, a.Shape(), b.Shape(), name)
			require.Equal(t, torch.ToSlice[float32](a.To(s, torch.Float32)), torch.ToSlice[float32](b), name)
		}
		return nil
	}))
	require.NoError(t, errors.Join(old.Close(), w.Close()))
}

// What weights do not show is asked for with the file to write it into; settings that are unknown or wrong are refused by name.
func TestImportSettings(t *testing.T) {
	for _, c := range []struct{ file, name, settings, want string }{
		{"consistency.pt", "cd_x.pt", "", "image_size"},
		{"consistency.pt", "cd_x.pt", `"image_size": 8`, "num_heads"},
		{"consistency.pt", "x.pt", sized, "training_mode"},
		{"consistency.pt", "x.pt", sized + `, "training_mode": "progdist"`, "progdist"},
		{"consistency.pt", "cd_x.pt", sized + `, "num_chanels": 3`, "num_chanels"},
		{"consistency.pt", "cd_x.pt", `"image_size": "8"`, "image_size"},
		{"consistency.pt", "cd_x.pt", `"image_size": -8`, "negative"},
		{"consistency.pt", "cd_x.pt", sized + `, "num_head_channels": -7`, "negative"},
		{"consistency.pt", "cd_x.pt", sized + `} {"sigma_max": 1`, "more text follows the object"},
		{"consistency.pt", "cd_x.pt", `"image_size": 8, "num_heads": 5`, "multiple of heads, 5"},
		{"consistency.pt", "cd_x.pt", sized + `, "sigma_min": 90`, "sigma_min"},
		{"guided.pt", "x.pt", sized + `, "noise_schedule": "sqrt"`, `"sqrt"`},
		{"guided.pt", "x.pt", sized + `, "diffusion_steps": 1`, "2 to 1000000"},
	} {
		path := put(t, c.file, c.name, c.settings)
		_, err := ReadDescription(path)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, err, strings.TrimSuffix(filepath.Base(path), ".pt"))
		require.NotErrorIs(t, err, ErrNoDescription)
	}
	path := put(t, "consistency.pt", "cd_x.pt", sized)
	require.NoError(t, os.Truncate(strings.TrimSuffix(path, ".pt")+".json", 0))
	_, err := ReadDescription(path)
	require.ErrorContains(t, err, "cd_x.json: settings of the weights beside it: the file is empty; want an object")
	f := openAny(t, put(t, "guided.pt", "x.pt", sized+`, "diffusion_steps": 500, "predict_xstart": true, "sigma_max": 20, "use_new_attention_order": true`))
	require.Equal(t, original.GuidedDiffusionNew, f.Description.Layout)
	require.Equal(t, noise.Sample, f.Description.Form.Predict)
	require.InDelta(t, 0.04, f.Description.Form.Betas.Last, 1e-15)
	require.Equal(t, 500, f.Description.Form.Betas.Steps)
	require.InDelta(t, 20, f.Description.SigmaMax, 0)
}

// EMA weights are preferred to others in the same file, and those in a file beside it are told.
func TestEMAWeights(t *testing.T) {
	plain := openAny(t, put(t, "consistency.pt", "cd_x.pt", sized))
	path := put(t, "both.pt", "cd_both.pt", sized)
	f := openAny(t, path)
	require.Len(t, f.Notices, 2)
	require.Contains(t, f.Notices[1], "ema")
	bias := func(f *File) float32 {
		for name, w := range f.Network.Tensors() {
			if name == "conv_out.bias" {
				return torch.ToSlice[float32](w)[0]
			}
		}
		return 0
	}
	require.InDelta(t, bias(plain)+1, bias(f), 1e-3) // float16

	path = put(t, "consistency.pt", "model001000.pt", sized+`, "training_mode": "consistency_distillation"`)
	require.Len(t, openAny(t, path).Notices, 1)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "ema_0.9999_001000.pt"), nil, 0o644))
	notices := openAny(t, path).Notices
	require.Len(t, notices, 2)
	require.Contains(t, notices[1], "ema_0.9999_001000.pt")
}

// Files of other kinds say so: pickles with code, archives without tensors of a known network, damaged ones.
func TestImportRefuses(t *testing.T) {
	write := func(name, data string) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(data), 0o644))
		return path
	}
	_, err := OpenFile(write("edm.pkl", "\x80\x04\x95abc"), torch.CPU)
	require.ErrorIs(t, err, ErrCode)
	require.ErrorContains(t, err, "edm.pkl")
	require.ErrorContains(t, err, "edm_weights.py")
	_, err = OpenFile(filepath.Join("..", "..", "torch", "saved", "testdata", "tiny.ckpt"), torch.CPU)
	require.ErrorIs(t, err, ErrNoDescription)
	_, err = OpenFile(write("x.pt", "PK\x03\x04"), torch.CPU)
	require.ErrorContains(t, err, "x.pt")
	_, err = OpenFile(write("x.safetensors", "PK\x03\x04"), torch.CPU)
	require.ErrorAs(t, err, new(*safetensors.FormatError))

	// A description that names a layout has to have its tensors.
	f := openAny(t, put(t, "consistency.pt", "cd_x.pt", sized))
	d := f.Description
	d.Layout = "x"
	require.ErrorContains(t, Save(filepath.Join(t.TempDir(), "x.safetensors"), d, f.Network.Tensors(), SaveOptions{}), `"x"`)
	d.Layout = original.EDM
	require.ErrorContains(t, Save(filepath.Join(t.TempDir(), "x.safetensors"), d, f.Network.Tensors(), SaveOptions{}), "NVlabs/edm")
	d.Layout = original.ConsistencyModels
	metadata, err := d.Metadata()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	require.NoError(t, torch.SaveSafetensors(path, f.Network.Tensors(), torch.SaveOptions{Metadata: metadata}))
	_, err = ReadDescription(path)
	require.ErrorContains(t, err, "missing: input_blocks.0.0.bias")
}

// random writes a layout's tensors, in float16 as EDM's networks may be, with metadata.
func random(t *testing.T, c network.Config, code original.Code, metadata map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "weights.safetensors")
	net, err := network.New(c, torch.CPU, torch.Float32, 3)
	require.NoError(t, err)
	defer net.Close()
	l, err := original.Of(code, c.WithDefaults().Net)
	require.NoError(t, err)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		theirs := l.Theirs(hold(net.Tensors()))
		return torch.SaveSafetensors(path, func(yield func(string, *torch.Tensor) bool) {
			for name := range theirs.Names() {
				v, err := theirs.Get(s, name)
				require.NoError(t, err)
				if !yield(name, v.Detach(s).Contiguous(s)) {
					return
				}
			}
		}, torch.SaveOptions{Metadata: metadata})
	}))
	return path
}

// EDM's networks take their preconditioning, σ_data and dropout from the metadata of scripts/edm_weights.py; without it they are EDMPrecond's,
// with a notice.
func TestEDMFiles(t *testing.T) {
	var c network.Config
	require.NoError(t, c.UnmarshalJSON([]byte(`{"unet": {"resolution": 8, "channels": 16, "mult": [1, 2], "blocks": 1, "attention": [4], "last_decoder_attention": true,
		"resample_skip": true, "skip_scale": 0.7071067811865476, "norm_eps": 1e-6, "endpoint_freqs": true, "sin_first": true, "classes": 3, "labels_first": true, "augment": 9}}`)))
	f := openAny(t, random(t, c, original.EDM, nil))
	require.Equal(t, Form{Type: EDM}, f.Description.Form)
	require.Len(t, f.Notices, 1)
	require.Contains(t, f.Notices[0], "EDMPrecond")
	require.InDelta(t, 0.5, f.Description.SigmaData, 0)
	require.Equal(t, -1, f.Description.Network.NullClass())

	f = openAny(t, random(t, c, original.EDM, map[string]string{"edm": `{"class": "EDMPrecond", "sigma_data": 0.25, "dropout": 0.13, "label_dropout": 0.1}`}))
	require.Empty(t, f.Notices)
	require.InDelta(t, 0.25, f.Description.SigmaData, 0)
	require.InDelta(t, 0.13, f.Description.Network.Inputs().Dropout, 0)
	require.Equal(t, 3, f.Description.Network.NullClass())

	f = openAny(t, random(t, c, original.EDM, map[string]string{"edm": `{"class": "VPPrecond", "beta_d": 19.9, "beta_min": 0.1, "M": 1000}`}))
	require.Equal(t, Form{Type: VP, BetaD: 19.9, BetaMin: 0.1, Scale: 999}, f.Description.Form)

	f = openAny(t, random(t, c, original.EDM, map[string]string{"edm": `{"class": "VEPrecond"}`}))
	require.Equal(t, Form{Type: VE, Scale: 0.5}, f.Description.Form)

	for metadata, want := range map[string]string{`{"class": "iDDPMPrecond"}`: "iDDPMPrecond", `[`: "edm", `{"class": "EDMPrecond", "sigma_data": -1}`: "sigma_data", `{"dropout": 2}`: "dropout"} {
		_, err := ReadDescription(random(t, c, original.EDM, map[string]string{"edm": metadata}))
		require.ErrorContains(t, err, want)
	}
}

// The script takes the weights out of a pickle whose classes keep their arguments as EDM's do, and what it writes is read.
func TestEDMScript(t *testing.T) {
	python := torchtest.Python(t, "torch")
	script, err := filepath.Abs(filepath.Join("..", "..", "scripts", "edm_weights.py"))
	require.NoError(t, err)
	stand, err := filepath.Abs(filepath.Join("testdata", "edm_stand_in.py"))
	require.NoError(t, err)
	dir := t.TempDir()
	cmd := exec.Command(python, stand, script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Dir(stand))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], "tensors of EDMPrecond")
	require.Contains(t, lines[1], "network.safetensors exists")
	require.Contains(t, lines[2], "none")
	f := openAny(t, filepath.Join(dir, "network.safetensors"))
	require.Empty(t, f.Notices)
	require.Equal(t, original.EDM, f.Description.Layout)
	require.InDelta(t, 0.4, f.Description.SigmaData, 0)
	require.InDelta(t, 0.13, f.Description.Network.Inputs().Dropout, 0)
	_, err = OpenFile(filepath.Join(dir, "network.pkl"), torch.CPU)
	require.ErrorIs(t, err, ErrCode)
}
