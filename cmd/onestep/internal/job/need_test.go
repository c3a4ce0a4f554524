package job

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/onestep-go/onestep/models/sd/clip"
	"github.com/onestep-go/onestep/models/sd/sdtest"
	sdunet "github.com/onestep-go/onestep/models/sd/unet"
	"github.com/onestep-go/onestep/models/sd/vae"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
	"github.com/onestep-go/onestep/torch/vision"
	"github.com/onestep-go/onestep/training/recipe"
)

// middling writes a model of Stable Diffusion 1's shape with about a third of its channels, and a ControlNet for it.
func middling(t *testing.T, dir string) {
	t.Helper()
	net := sdunet.SD15()
	net.BlockOutChannels, net.AttentionHeadDim, net.CrossAttentionDim = sdunet.Ints{96, 160, 320, 320}, sdunet.Ints{8}, sdunet.Ints{64}
	text := clip.Config{Width: 64, MLPWidth: 128, Depth: 3, Heads: 2}.WithDefaults()
	auto := vae.Config{Channels: []int{64, 128, 192, 192}}.WithDefaults()
	control := sdunet.ControlNetConfig{Encoder: net.Encoder}.WithDefaults()
	part := func(config any, plan []nn.Shape) *weights.Component {
		data, err := json.Marshal(config)
		require.NoError(t, err)
		return &weights.Component{Config: data, Source: sdtest.Filled(plan)}
	}
	require.NoError(t, weights.WriteFolder(filepath.Join(dir, "model"), &weights.Model{
		Kind: weights.SD15, UNet: part(net, sdunet.Shapes(net)), Text: part(text, clip.Shapes(text)), VAE: part(auto, vae.Shapes(auto)),
		Scheduler: []byte(`{"_class_name": "DDIMScheduler"}`),
	}, weights.WriteOptions{}))
	require.NoError(t, weights.WriteFolder(filepath.Join(dir, "control"), &weights.Model{ControlNet: part(control, sdunet.ControlNetShapes(control))}, weights.WriteOptions{}))
	require.NoError(t, vision.Write(filepath.Join(dir, "white.png"), image.NewNRGBA(image.Rect(0, 0, 256, 256)), vision.WriteOptions{Overwrite: true}))
}

const (
	needIn   = "ONESTEP_TEST_NEED"       // the options of a child process of TestNeedOfGenerate
	needWith = "ONESTEP_TEST_NEED_MODEL" // a model of a published size, to look at by hand
)

// asked is what a child process generates: what the JSON of Generate leaves out, too.
type asked struct {
	Generate
	Number, Together int
}

func (a asked) generate() Generate {
	o := a.Generate
	o.Prompts, o.N, o.Batch, o.Device, o.Threads = []string{"a cat"}, max(a.Number, 1), max(a.Together, 1), "cpu", 1
	o.Out = filepath.Join(os.TempDir(), "onestep-need-{n}.png")
	return o
}

// The estimate of what generating needs is never less than the most that a process had in memory, and at most half as much again.
func TestNeedOfGenerate(t *testing.T) {
	if text := os.Getenv(needIn); text != "" {
		var a asked
		require.NoError(t, json.Unmarshal([]byte(text), &a))
		_, err := a.generate().Run(context.Background(), func(GenerateProgress) {}, func(string) {})
		require.NoError(t, err)
		fmt.Printf("peak %d\n", peak(t))
		return
	}
	if testing.Short() {
		t.Skip("writes half a gigabyte")
	}
	dir := t.TempDir()
	model := os.Getenv(needWith)
	if model == "" {
		middling(t, dir)
		model = filepath.Join(dir, "model")
	}
	control := []string{filepath.Join(dir, "control")}
	white := filepath.Join(dir, "white.png")
	none := new(1.0)
	sized := func(o Opening, width, height int, guidance *float64) Generate {
		return Generate{Opening: o, Drawing: Drawing{Width: width, Height: height, Guidance: guidance}}
	}
	controlled := sized(Opening{DType: "f32"}, 256, 256, nil)
	controlled.ControlModels, controlled.ControlImages = []string{control[0], control[0]}, []string{white, white}
	cases := map[string]asked{
		"f32":      {Generate: sized(Opening{DType: "f32"}, 256, 256, nil)},
		"bf16":     {Generate: sized(Opening{DType: "bf16"}, 192, 256, none)},
		"tiles":    {Generate: sized(Opening{DType: "f32", Tile: 192}, 384, 512, none)},
		"together": {sized(Opening{DType: "f32"}, 256, 256, none), 4, 4},
		"controls": {controlled, 1, 1},
	}
	if os.Getenv(needWith) != "" {
		delete(cases, "controls")
	}
	for name, a := range cases {
		t.Run(name, func(t *testing.T) {
			a.Model, a.Steps = model, 1
			text, err := json.Marshal(a)
			require.NoError(t, err)
			child := exec.Command(os.Args[0], "-test.run=^TestNeedOfGenerate$")
			child.Env = append(os.Environ(), needIn+"="+string(text), "TMPDIR="+t.TempDir())
			out, err := child.CombinedOutput()
			require.NoError(t, err, string(out))
			var got float64
			_, err = fmt.Sscanf(string(out), "peak %f", &got)
			require.NoError(t, err, string(out))

			o := a.generate()
			require.NoError(t, o.validate())
			draws, err := o.pipeline()
			require.NoError(t, err)
			o.Force, o.Bare = true, true
			files, err := o.openFiles(context.Background(), draws)
			defer files.close()
			require.NoError(t, err)
			n, what, _, err := o.need(files, draws, torch.CPU)
			require.NoError(t, err)
			want := n.device + n.host + host
			t.Logf("%s: peak %.0f MB, estimate %.0f MB, factor %.2f", what, got/1e6, want/1e6, want/got)
			require.GreaterOrEqual(t, want, got)
			require.LessOrEqual(t, want, 1.5*got)
		})
	}
}

const needTrain = "ONESTEP_TEST_NEED_TRAIN" // the options of a child process of TestNeedOfTraining

// The like for training, whose methods differ in what they keep.
func TestNeedOfTraining(t *testing.T) {
	if text := os.Getenv(needTrain); text != "" {
		o := Train{Threads: 1}
		require.NoError(t, json.Unmarshal([]byte(text), &o))
		o.Out = filepath.Join(t.TempDir(), "run")
		_, err := o.Train(context.Background(), Hooks{})
		require.NoError(t, err)
		fmt.Printf("peak %d\n", peak(t))
		return
	}
	if testing.Short() {
		t.Skip("trains networks that are not tiny")
	}
	one := tinyRun(filepath.Join(t.TempDir(), "teacher"), "edm")
	one.Resolution, one.Steps, one.Classes, size(&one).Channels = 32, 2, false, 32
	_, err := one.Train(context.Background(), Hooks{})
	require.NoError(t, err)
	for name, change := range map[string]func(o *Train){
		"ict": func(o *Train) { o.Widths, o.HalfLives = []float64{0.05, 0.1}, []float64{1000} },
		"scd": func(o *Train) { set(o, "teacher", one.Out) },
		"cd":  func(o *Train) { set(o, "teacher", one.Out) },
		"edm": func(o *Train) { size(o).Channels, o.Batch = 64, 16 },
	} {
		t.Run(name, func(t *testing.T) {
			m, err := recipe.Named(name)
			require.NoError(t, err)
			o := Train{Run: recipe.Run{Method: m, Data: "emoji", Steps: 2, Resolution: 32, Size: &unet.Options{Channels: 32, Mult: []int{1, 2}, Blocks: 1}, Batch: 32, SampleEvery: new(0)}}
			change(&o)
			text, err := json.Marshal(o)
			require.NoError(t, err)
			child := exec.Command(os.Args[0], "-test.run=^TestNeedOfTraining$")
			child.Env = append(os.Environ(), needTrain+"="+string(text))
			out, err := child.CombinedOutput()
			require.NoError(t, err, string(out))
			var got float64
			_, err = fmt.Sscanf(string(out), "peak %f", &got)
			require.NoError(t, err, string(out))

			o.Out = filepath.Join(t.TempDir(), "run")
			p, err := o.Plan()
			require.NoError(t, err)
			require.NoError(t, p.Close())
			n, err := p.Need()
			require.NoError(t, err)
			want := n.Device + n.Host + host
			t.Logf("peak %.0f MB, estimate %.0f MB, factor %.2f", got/1e6, want/1e6, want/got)
			require.GreaterOrEqual(t, want, got)
			require.LessOrEqual(t, want, 1.5*got)
		})
	}
}

const needSample = "ONESTEP_TEST_NEED_SAMPLE" // the options of a child process of TestNeedOfSampling

// The like for sampling.
func TestNeedOfSampling(t *testing.T) {
	o := DefaultSample()
	o.Model, o.N, o.Batch, o.Threads, o.Out = "builtin", 400, 400, 1, filepath.Join(t.TempDir(), "a.png")
	if os.Getenv(needSample) != "" {
		_, err := o.Run(context.Background(), nil)
		require.NoError(t, err)
		fmt.Printf("peak %d\n", peak(t))
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestNeedOfSampling$")
	child.Env = append(os.Environ(), needSample+"=1")
	out, err := child.CombinedOutput()
	require.NoError(t, err, string(out))
	var got float64
	_, err = fmt.Sscanf(string(out), "peak %f", &got)
	require.NoError(t, err, string(out))
	d, err := describes("builtin")
	require.NoError(t, err)
	n := o.need(d.Network)
	want := n.device + n.host + host
	t.Logf("peak %.0f MB, estimate %.0f MB, factor %.2f", got/1e6, want/1e6, want/got)
	require.GreaterOrEqual(t, want, got)
	require.LessOrEqual(t, want, 1.5*got)
}

// peak is the most that this process had in memory, in bytes.
func peak(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	require.True(t, found)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n << 10
}
