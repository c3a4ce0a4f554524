package lora

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/onestep-go/onestep/models/sd"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/safetensors"
)

// Metadata returns what an adapter's file tells other programs: the entries of kohya's scripts by which A1111 and ComfyUI list an adapter
// and recognise its base model (ss_*), and those of ModelSpec 1.0.1 (modelspec.*). name is the file's, which is the title by default.
func (a *Adapter) Metadata(name string, f sd.AdapterFile) map[string]string {
	if f.Title == "" {
		f.Title = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
	}
	all := map[string]string{"ss_output_name": f.Title, "ss_network_module": "networks.lora"}
	put := func(key, value string) {
		if value != "" {
			all[key] = value
		}
	}
	if f.OriginalSteps > 0 {
		all[gridKey] = strconv.Itoa(f.OriginalSteps)
	}
	put("ss_sd_model_name", f.Base)
	put("ss_base_model_version", kohyaBase(f.Kind, f.Prediction))
	put("ss_v2", map[bool]string{true: "True", false: "False"}[f.Kind == weights.SD2])
	linear, convolution := a.usual(false), a.usual(true)
	if linear == nil {
		linear = convolution
	}
	if linear != nil {
		all["ss_network_dim"], all["ss_network_alpha"] = strconv.Itoa(linear.Rank), float(linear.Alpha)
	}
	args := map[string]string{}
	if convolution != nil {
		args = map[string]string{"conv_dim": strconv.Itoa(convolution.Rank), "conv_alpha": float(convolution.Alpha)}
	}
	if text, err := json.Marshal(args); err == nil {
		all["ss_network_args"] = string(text)
	}
	if f.Width > 0 && f.Height > 0 {
		all["ss_resolution"] = fmt.Sprintf("(%d, %d)", f.Width, f.Height)
	}
	if architecture, predicts := weights.Architecture(f.Kind, f.Prediction); architecture != "" {
		all["modelspec.sai_model_spec"], all["modelspec.architecture"], all["modelspec.title"] = "1.0.1", architecture+"/lora", f.Title
		all["modelspec.implementation"] = "diffusers"
		if f.Kind == weights.SDXL || f.Kind == weights.SSD1B {
			all["modelspec.implementation"] = "https://github.com/Stability-AI/generative-models"
		}
		if put("modelspec.prediction_type", predicts); f.Width > 0 && f.Height > 0 {
			all["modelspec.resolution"] = fmt.Sprintf("%dx%d", f.Width, f.Height)
		}
		if !f.Date.IsZero() {
			all["modelspec.date"] = f.Date.Format("2006-01-02T15:04:05")
		}
	}
	maps.Copy(all, f.Metadata)
	return all
}

// gridKey is the key of the size of a few-step adapter's grid of timesteps. Other programs have none.
const gridKey = "onestep_original_inference_steps"

// mostSteps bounds the timesteps of a chain, so that a grid is at most as large.
const mostSteps = 1_000_000

// OriginalSteps returns the size of the grid of timesteps that a few-step adapter was distilled on (original_inference_steps of LCM samplers), as
// its metadata has it; 0: not known, or it is not for few steps.
func (f *File) OriginalSteps() int {
	if n, err := strconv.Atoi(f.Metadata[gridKey]); err == nil && n > 0 && n <= mostSteps {
		return n
	}
	return 0
}

// OriginalSteps is that of the adapter's file; 0 for an adapter that was not read.
func (a *Adapter) OriginalSteps() int {
	if a.file == nil {
		return 0
	}
	return a.file.OriginalSteps()
}

// Run returns what the metadata says of the run that made the adapter. Phases that its grid of timesteps cannot have are no run's.
func (f *File) Run() (r sd.AdapterRun) {
	if json.Unmarshal([]byte(f.Metadata[sd.RunEntry]), &r) != nil || r.Phases < 0 || r.Phases > cmp.Or(f.OriginalSteps(), sd.UsualGrid) {
		return sd.AdapterRun{}
	}
	return r
}

// Run is what the adapter's file says of the run that made it.
func (a *Adapter) Run() sd.AdapterRun {
	if a.file == nil {
		return sd.AdapterRun{}
	}
	return a.file.Run()
}

// TrainedFor adds to an adaptation what the adapter was trained for: the size of its grid of timesteps, and its run.
func (a *Adapter) TrainedFor(all *sd.Adaptation) {
	all.Runs = append(all.Runs, a.Run())
	if n := a.OriginalSteps(); n > 0 {
		all.Grids = append(all.Grids, n)
	}
}

// kohyaBase is what kohya's scripts call a base model.
func kohyaBase(kind weights.Kind, prediction string) string {
	switch kind {
	case weights.SD15, weights.LCM15, weights.Inpaint15:
		return "sd_v1"
	case weights.SD2:
		if prediction == "v_prediction" {
			return "sd_v2_v"
		}
		return "sd_v2"
	case weights.SDXL, weights.SSD1B:
		return "sdxl_base_v1-0"
	}
	return ""
}

// usual returns a module of the most common rank among the U-Net's layers, of linear ones and 1×1 convolutions or of larger convolutions;
// nil: there is none.
func (a *Adapter) usual(convolutions bool) (best *Module) {
	count := map[int]int{}
	for i := range a.Modules {
		s, m := a.spots[i], &a.Modules[i]
		if large := s.convolution() && s.shape[2] > 1; large != convolutions || m.Rank == 0 {
			continue
		}
		if count[m.Rank]++; best == nil || count[m.Rank] > count[best.Rank] {
			best = m
		}
	}
	return best
}

// float writes a number as Python does.
func float(v float64) string {
	text := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(text, ".en") {
		text += ".0"
	}
	return text
}

// The keys of the hashes by which A1111 and its extensions find an adapter again.
const modelHash, legacyHash = "sshs_model_hash", "sshs_legacy_hash"

// addHashes adds the hashes that kohya's scripts write: of the file as it would be with the entries ss_* alone in its metadata.
func addHashes(metadata map[string]string, tensors []safetensors.Source) error {
	own := maps.Clone(metadata)
	maps.DeleteFunc(own, func(key, _ string) bool { return !strings.HasPrefix(key, "ss_") })
	h := &hashes{model: sha256.New(), legacy: sha256.New()}
	if err := safetensors.Encode(h, tensors, own); err != nil {
		return err
	}
	metadata[modelHash] = hex.EncodeToString(h.model.Sum(nil))
	metadata[legacyHash] = hex.EncodeToString(h.legacy.Sum(nil))[:8]
	return nil
}

// hashes computes both while a safetensors file is written to it.
type hashes struct {
	model  hash.Hash // of what follows the header
	legacy hash.Hash // of 64 KiB from 1 MiB on
	at     int64     // bytes so far
	size   []byte    // the first 8 bytes, which are the header's length
}

var _ io.Writer = (*hashes)(nil)

// Write implements io.Writer.
func (h *hashes) Write(b []byte) (int, error) {
	if n := 8 - len(h.size); n > 0 {
		h.size = append(h.size, b[:min(n, len(b))]...)
	}
	if len(h.size) == 8 {
		h.model.Write(h.part(b, 8+int64(binary.LittleEndian.Uint64(h.size)), 1<<62))
	}
	h.legacy.Write(h.part(b, 1<<20, 1<<20+1<<16))
	h.at += int64(len(b))
	return len(b), nil
}

// part is what of b, the bytes that follow, lies between two positions in the file.
func (h *hashes) part(b []byte, from, to int64) []byte {
	n := int64(len(b))
	from, to = min(max(from-h.at, 0), n), min(max(to-h.at, 0), n)
	return b[from:max(from, to)]
}

// Adapters makes and opens adapters for the runs of package training/finetune. Its zero value is ready.
type Adapters struct{}

// New makes an adapter for training, with weights in float32.
func (Adapters) New(m *sd.Model, c sd.AdapterConfig) (sd.Adapter, error) {
	n := Of(m)
	if !c.Text {
		n = Networks{unetPart: m.UNet.Store()}
	}
	a, err := New(n, Config{Rank: c.Rank, Alpha: c.Alpha, Targets: targetsOf(c), Seed: c.Seed})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Open reads an adapter's file for a model, in the given data type; nil: the model's. Its own weights are not packed, so that a step of training
// beside it rounds in the same way whether it is the first of a process or not.
func (Adapters) Open(m *sd.Model, path string, dtype *torch.DType) (sd.Adapter, error) {
	a, err := Load(m, path, Options{DType: dtype})
	if err != nil {
		return nil, err
	}
	a.store.Unpack()
	return a, nil
}

// Save implements [sd.Adapter]: it writes a file with the metadata of [Adapter.Metadata] and with the hashes that A1111 looks for.
func (a *Adapter) Save(path string, f sd.AdapterFile) error {
	o := WriteOptions{DType: f.DType, Overwrite: true, Metadata: a.Metadata(path, f), Hashes: true}
	if f.Layout != "" {
		var err error
		if o.Layout, err = ParseLayout(f.Layout); err != nil {
			return err
		}
	}
	return a.Write(path, o)
}
