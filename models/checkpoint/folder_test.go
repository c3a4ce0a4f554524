package checkpoint

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/models/unet2d"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/torchtest"
)

// A directory of an early version of diffusers: the network at the root, as a file of torch.save, with attention's old names.
func TestOldFolder(t *testing.T) {
	dir := filepath.Join("testdata", "old") // of scripts/golden/models/checkpoint/folders.py
	f, err := OpenFile(dir, torch.CPU)
	require.NoError(t, err)
	defer f.Close()
	require.Empty(t, f.Notices)
	require.Equal(t, dir, f.Path)
	d := f.Description
	require.Equal(t, "unet", d.Network.Name())
	require.Equal(t, Denoiser, d.Kind)
	require.Equal(t, &noise.Betas{Schedule: noise.Linear, Steps: 1000, First: 1e-4, Last: 0.02}, d.Form.Betas)
	require.InEpsilon(t, noise.Default().Sigma(999), d.SigmaMax, 1e-9)
	c, ok := d.Chain()
	require.True(t, ok)
	require.Equal(t, "fixed_large", c.Variance)
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		golden, _ := torchtest.Golden(t, s, filepath.Join(dir, "output.safetensors"))
		// float16 weights on both sides, computed with in float32
		torchtest.Close(t, "output", f.Network.Forward(s, golden["x"], golden["t"], models.Cond{}), golden["y"], 2e-5, 2e-5)
		return nil
	}))
	files, err := Files(dir)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "config.json"), filepath.Join(dir, "diffusion_pytorch_model.bin")}, files)
}

const ddpmIndex = `{"_class_name": "DDPMPipeline", "_diffusers_version": "0.42.0", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}`

// tree writes files into a new directory; "WEIGHTS" as content stands for the weights of the network c.
func tree(t *testing.T, c network.Config, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		if text != "WEIGHTS" {
			require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
			continue
		}
		net, err := network.New(c, torch.CPU, torch.Float32, 5)
		require.NoError(t, err)
		require.NoError(t, torch.SaveSafetensors(path, net.Tensors(), torch.SaveOptions{}))
		net.Close()
	}
	return dir
}

// plainNet is a network of package unet, and its config.json.
func plainNet(t *testing.T) (network.Config, string) {
	t.Helper()
	c := unet.Config{Resolution: 8, Channels: 8, Mult: []int{1, 1}, Blocks: 1, Resample: unet.ResampleConv, NormGroups: 4}
	text, err := c.Diffusers()
	require.NoError(t, err)
	return network.Config{Net: c}, string(text)
}

// A model is found in each layout of a directory, and what is assumed about it is said.
func TestFolderLayouts(t *testing.T) {
	c, config := plainNet(t)
	const name = "diffusion_pytorch_model.safetensors"
	cm := `{"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 151, "sigma_max": 40}`
	for what, v := range map[string]struct {
		files   map[string]string
		at      string // of the model below the directory
		kind    Kind
		sigma   float64
		notices []string
	}{
		"pipeline":           {map[string]string{"model_index.json": ddpmIndex, "unet/config.json": config, "unet/" + name: "WEIGHTS", "scheduler/scheduler_config.json": `{"_class_name": "DDPMScheduler"}`}, "", Denoiser, 157.4, nil},
		"without an index":   {map[string]string{"unet/config.json": config, "unet/" + name: "WEIGHTS", "scheduler/scheduler_config.json": cm}, "", Consistency, 40, nil},
		"at the root":        {map[string]string{"model_index.json": ddpmIndex, "config.json": config, name: "WEIGHTS", "scheduler_config.json": `{"_class_name": "DDIMScheduler"}`}, "", Denoiser, 157.4, nil},
		"alone":              {map[string]string{"config.json": config, name: "WEIGHTS"}, "", Denoiser, 157.4, []string{"predicts the noise"}},
		"beside a scheduler": {map[string]string{"unet/config.json": config, "unet/" + name: "WEIGHTS", "scheduler/scheduler_config.json": cm}, "unet", Consistency, 40, []string{"taken from"}},
		"a variant":          {map[string]string{"config.json": config, "diffusion_pytorch_model.fp16.safetensors": "WEIGHTS", "scheduler_config.json": cm}, "", Consistency, 40, []string{"variant fp16"}},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(tree(t, c, v.files), v.at)
			f, err := OpenFile(dir, torch.CPU)
			require.NoError(t, err)
			defer f.Close()
			require.Equal(t, v.kind, f.Description.Kind)
			require.InEpsilon(t, v.sigma, f.Description.SigmaMax, 1e-3)
			require.Len(t, f.Notices, len(v.notices), f.Notices)
			for i, want := range v.notices {
				require.Contains(t, f.Notices[i], want)
			}
			again, err := ReadDescription(dir)
			require.NoError(t, err)
			require.Equal(t, f.Description, again)
			contents, err := ReadContents(dir)
			require.NoError(t, err)
			require.Len(t, contents.Tensors, len(maps.Collect(f.Network.Tensors())))

			// As a file of this program it stays the same model.
			path := filepath.Join(t.TempDir(), "m.safetensors")
			require.NoError(t, Save(path, f.Description, f.Network.Tensors(), SaveOptions{}))
			own, err := ReadDescription(path)
			require.NoError(t, err)
			require.Equal(t, f.Description, own)
		})
	}
}

// The function of a network without a scheduler follows from its configuration, and the guess is said.
func TestGuesses(t *testing.T) {
	adm := unet2d.Config{Height: 8, Channels: []int{8, 8}, Down: []unet2d.Block{unet2d.ResnetDownBlock, unet2d.AttnDownBlock},
		Up: []unet2d.Block{unet2d.AttnUpBlock, unet2d.ResnetUpBlock}, Layers: 1, NormGroups: 4, UpType: unet2d.Resnet}
	song := unet2d.Config{Height: 8, Channels: []int{32, 32}, Down: []unet2d.Block{unet2d.SkipDownBlock, unet2d.SkipDownBlock},
		Up: []unet2d.Block{unet2d.SkipUpBlock, unet2d.SkipUpBlock}, Layers: 1, Embedding: unet.Fourier, NoMidAttention: true}
	for _, v := range []struct {
		c    unet2d.Config
		kind Kind
		form FormType
		net  string
		said string
	}{{adm, Consistency, EDM, "unet", "consistency function"}, {song, Denoiser, VE, "unet2d", "variance-exploding"}} {
		text, err := v.c.Diffusers()
		require.NoError(t, err)
		dir := tree(t, network.Config{Net: v.c}, map[string]string{"config.json": string(text), "diffusion_pytorch_model.safetensors": "WEIGHTS"})
		f, err := OpenFile(dir, torch.CPU)
		require.NoError(t, err)
		require.Equal(t, v.kind, f.Description.Kind)
		require.Equal(t, v.form, f.Description.Form.Type)
		require.Equal(t, v.net, f.Description.Network.Name())
		require.Contains(t, strings.Join(f.Notices, "\n"), v.said)
		f.Close()
	}
}

// Directories that are damaged or of other models are refused, and what is wrong is named.
func TestFolderRefuses(t *testing.T) {
	c, config := plainNet(t)
	const weights = "diffusion_pytorch_model.safetensors"
	with := func(more map[string]string) map[string]string {
		all := map[string]string{"model_index.json": ddpmIndex, "unet/config.json": config, "unet/" + weights: "WEIGHTS", "scheduler/scheduler_config.json": `{"_class_name": "DDPMScheduler"}`}
		for name, text := range more {
			if all[name] = text; text == "" {
				delete(all, name)
			}
		}
		return all
	}
	scheduler := func(text string) map[string]string {
		return with(map[string]string{"scheduler/scheduler_config.json": text})
	}
	net := func(from, to string) map[string]string {
		return with(map[string]string{"unet/config.json": strings.Replace(config, from, to, 1)})
	}
	for what, v := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no weights":          {with(map[string]string{"unet/" + weights: ""}), "want weights, such as diffusion_pytorch_model.safetensors"},
		"no config":           {with(map[string]string{"unet/config.json": ""}), "the network's configuration is missing"},
		"broken index":        {with(map[string]string{"model_index.json": "{"}), "model_index.json"},
		"broken config":       {with(map[string]string{"unet/config.json": "{"}), "config.json"},
		"unknown key":         {net(`"sample_size"`, `"colour": 1, "sample_size"`), `unknown field "colour"`},
		"unknown block":       {net(`"DownBlock2D"`, `"KDownBlock2D"`), "KDownBlock2D is not supported"},
		"wider":               {net(`"block_out_channels": [`, `"block_out_channels": [16, 16], "ignored": [`), "ignored"},
		"other activation":    {net(`"silu"`, `"mish"`), "act_fn"},
		"weights of another":  {net(`"layers_per_block": 1`, `"layers_per_block": 2`), "weights"},
		"another network":     {net(`"UNet2DModel"`, `"AutoencoderKL"`), `config.json: its _class_name is "AutoencoderKL", expected UNet2DModel`},
		"a list for a number": {net(`"layers_per_block": 1`, `"layers_per_block": [1]`), "layers_per_block: want a whole number, got a JSON array"},
		"broken weights":      {with(map[string]string{"unet/" + weights: "x"}), weights},
		"unknown scheduler":   {scheduler(`{"_class_name": "FlowMatchEulerDiscreteScheduler"}`), "FlowMatchEulerDiscreteScheduler"},
		"another process":     {scheduler(`{"_class_name": "ScoreSdeVpScheduler", "num_train_timesteps": 2000, "beta_min": 0.1}`), "ScoreSdeVpScheduler"},
		"another function":    {scheduler(`{"_class_name": "ScoreSdeVeScheduler"}`), "takes timesteps"},
		"broken scheduler":    {scheduler(`{"_class_name": 3`), "scheduler_config.json"},
		"levels out of range": {scheduler(`{"_class_name": "CMStochasticIterativeScheduler", "sigma_max": -1}`), "sigma_max"},
		"betas out of range":  {scheduler(`{"_class_name": "DDPMScheduler", "beta_end": 2}`), "beta_end"},
		"a latent model": {with(map[string]string{"model_index.json": `{"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}`}),
			"the pipeline LDMPipeline has a vqvae (VQModel)"},
	} {
		_, err := OpenFile(tree(t, c, v.files), torch.CPU)
		require.ErrorContains(t, err, v.want, what)
		require.NotErrorIs(t, err, ErrNoSnapshot, what)
		require.NotContains(t, err.Error(), "--")
	}
	for what, files := range map[string]map[string]string{
		"empty":            {"a.txt": ""},
		"Stable Diffusion": {"model_index.json": `{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}`, "unet/config.json": `{"_class_name": "UNet2DConditionModel"}`},
		"its network":      {"config.json": `{"_class_name": "UNet2DConditionModel"}`},
	} {
		_, err := OpenFile(tree(t, c, files), torch.CPU)
		require.ErrorIs(t, err, ErrNoSnapshot, what)
	}
}

// A model that diffusers can express is written as a directory, and is the same when it is read again.
func TestSaveFolder(t *testing.T) {
	c, _ := plainNet(t)
	net, err := network.New(c, torch.CPU, torch.Float32, 5)
	require.NoError(t, err)
	defer net.Close()
	chain, err := noise.NewChain([]float64{0.1, 0.2, 0.3})
	require.NoError(t, err)
	song := unet2d.Config{Height: 8, Channels: []int{32, 32}, Down: []unet2d.Block{unet2d.SkipDownBlock, unet2d.SkipDownBlock},
		Up: []unet2d.Block{unet2d.SkipUpBlock, unet2d.SkipUpBlock}, Layers: 1, Embedding: unet.Fourier, NoMidAttention: true}
	exploding, err := unet2d.New(song, torch.CPU, torch.Float32, 5)
	require.NoError(t, err)
	defer exploding.Close()
	for what, v := range map[string]struct {
		f        any
		net      network.Network
		pipeline string
	}{
		"ddpm":        {&models.DDPM{Net: net, Predict: noise.Velocity}, net, "DDPMPipeline"},
		"own betas":   {&models.DDPM{Net: net, Chain: chain}, net, "DDPMPipeline"},
		"consistency": {&models.Consistency{Net: net, Noise: models.ScaledLog, SigmaData: 0.4}, net, "ConsistencyModelPipeline"},
		"ve":          {&models.VE{Net: exploding}, exploding, "ScoreSdeVePipeline"},
		"edm":         {&models.EDM{Net: net}, net, ""},
		"at zero":     {&models.Consistency{Net: net, Noise: models.ScaledLog, Boundary: models.AtZero}, net, ""},
	} {
		t.Run(what, func(t *testing.T) {
			d, err := Describe(v.f)
			require.NoError(t, err)
			dir := filepath.Join(t.TempDir(), "out")
			notice, err := SaveFolder(dir, d, v.net.Tensors(), SaveOptions{})
			require.NoError(t, err)
			require.Equal(t, v.pipeline == "", strings.Contains(notice, "only the network"), notice)
			_, err = SaveFolder(dir, d, v.net.Tensors(), SaveOptions{})
			require.ErrorIs(t, err, fs.ErrExist)
			_, err = SaveFolder(dir, d, v.net.Tensors(), SaveOptions{Overwrite: true, DType: torch.Float16})
			require.NoError(t, err)
			again, err := ReadDescription(dir)
			require.NoError(t, err)
			if v.pipeline != "" {
				require.Equal(t, d.Kind, again.Kind)
				require.Equal(t, d.Form.Type, again.Form.Type)
				require.Equal(t, d.Form.Predict, again.Form.Predict)
				require.Equal(t, d.Form.Values, again.Form.Values)
				if d.Kind == Consistency {
					require.InDelta(t, d.SigmaData, again.SigmaData, 1e-12)
				}
				index, err := os.ReadFile(filepath.Join(dir, "model_index.json"))
				require.NoError(t, err)
				require.Contains(t, string(index), v.pipeline)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "mine.txt"), nil, 0o666))
			_, err = SaveFolder(dir, d, v.net.Tensors(), SaveOptions{Overwrite: true})
			require.ErrorContains(t, err, "mine.txt")
		})
	}
	ncsnpp, err := Describe(&models.EDM{Net: tinyNet(t)})
	require.NoError(t, err)
	ncsnpp.Network = network.Config{Net: unet.NCSNPP(8, 3, 8, []int{1, 1}, 1)}
	_, err = SaveFolder(t.TempDir(), ncsnpp, net.Tensors(), SaveOptions{})
	require.ErrorIs(t, err, ErrNotDiffusers)
}

// Fuzzing: no directory that names a UNet2DModel makes opening panic or allocate without bounds.
func FuzzFolder(f *testing.F) {
	f.Add([]byte(`{"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}`),
		[]byte(`{"_class_name": "DDPMScheduler"}`))
	f.Fuzz(func(t *testing.T, config, scheduler []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "scheduler_config.json"), scheduler, 0o666))
		_, err := ReadDescription(dir)
		require.Error(t, err) // there are no weights
	})
}

// A tensor by its old name beside another by today's is not dropped in silence: its name is none of the network's.
func TestToday(t *testing.T) {
	const old, now = "mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"
	require.NoError(t, torch.Run(torch.CPU, func(s *torch.Scope) error {
		x := torch.Ones(s, torch.Float32, 1)
		for _, names := range [][]string{{old, now}, {now, old}} {
			r := today(hold(func(yield func(string, *torch.Tensor) bool) {
				for _, name := range names {
					if !yield(name, x) {
						return
					}
				}
			}))
			require.Equal(t, []string{now, names[1] + " (twice: " + now + ")"}, slices.Collect(r.Names()))
		}
		return nil
	}))
}
