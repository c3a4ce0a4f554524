package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/onestep-go/onestep/internal/atomicfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/network"
	"github.com/onestep-go/onestep/models/noise"
	"github.com/onestep-go/onestep/torch"
)

// ErrNotDiffusers is the error for models that diffusers has no network class for, by name or configuration.
var ErrNotDiffusers = errors.New("diffusers' UNet2DModel cannot express the network")

// SaveFolder writes a model as a directory of diffusers: model_index.json, unet and scheduler, for DDPMPipeline, ConsistencyModelPipeline or
// ScoreSdeVePipeline, which then generate with it; or, for a function that none of them computes, the network alone, which the notice says.
// The weights have the network's names. The directory appears when it is complete. An existing one is an error that wraps fs.ErrExist, unless
// o.Overwrite is set and it has nothing but such a model.
func SaveFolder(dir string, d Description, weights iter.Seq2[string, *torch.Tensor], o SaveOptions) (notice string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("write %s: %w", quote.Path(dir), err) }
	config, err := d.Network.Diffusers()
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrNotDiffusers, err))
	}
	pipeline, scheduler, err := d.pipeline()
	if err != nil {
		return fail(err)
	}
	if err := replaceableFolder(dir, o.Overwrite); err != nil {
		return fail(err)
	}
	switch {
	case pipeline != "" && pipeline != consistencyPipeline && d.Network.Classes() > 0:
		notice = fmt.Sprintf("%s passes no class labels to the network: in diffusers, call its network and scheduler directly", pipeline)
	case pipeline == "":
		notice = fmt.Sprintf("no pipeline of diffusers computes a %s of the form %s: only the network was written", d.Kind, d.Form.Type)
	}
	return notice, atomicfile.WriteFolder(dir, atomicfile.Options{Overwrite: o.Overwrite}, func(dir string) error {
		at := dir
		if pipeline != "" {
			at = filepath.Join(dir, netFolder)
			class, err := classOf(scheduler)
			if err != nil {
				return err
			}
			index, err := json.MarshalIndent(map[string]any{
				"_class_name": pipeline, "_diffusers_version": "0.18.0", "unet": []string{"diffusers", network.DiffusersClass}, "scheduler": []string{"diffusers", class},
			}, "", "  ")
			if err != nil {
				return err
			}
			if err := errors.Join(writeConfig(dir, modelIndex, index), writeConfig(filepath.Join(dir, schedulerFolder), schedulerFile, scheduler)); err != nil {
				return err
			}
		}
		if err := writeConfig(at, configFile, config); err != nil {
			return err
		}
		s := torch.NewScope(torch.CPU)
		defer s.Close()
		return torch.SaveSafetensors(filepath.Join(at, "diffusion_pytorch_model.safetensors"), func(yield func(string, *torch.Tensor) bool) {
			for name, w := range weights {
				if !yield(name, w.Detach(s).To(s, o.DType)) {
					return
				}
			}
		}, torch.SaveOptions{Metadata: map[string]string{"format": "pt"}})
	})
}

// consistencyPipeline is the pipeline that passes class labels to the network.
const consistencyPipeline = "ConsistencyModelPipeline"

func writeConfig(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(data, '\n'), 0o666)
}

// replaceableFolder returns an error if a directory must not be replaced: without overwrite, or with other content than such a model.
func replaceableFolder(dir string, overwrite bool) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) == 0: // rename replaces it
		return nil
	case !overwrite:
		return atomicfile.ErrExists
	}
	for _, e := range entries {
		name := e.Name()
		own := slices.Contains([]string{modelIndex, configFile, schedulerFile, "README.md", ".gitattributes"}, name) || strings.HasPrefix(name, "diffusion_pytorch_model.")
		if e.IsDir() {
			own = name == netFolder || name == schedulerFolder
		}
		if !own {
			return fmt.Errorf("it contains %s, which is not part of such a model and would be deleted; move it elsewhere first: %w", quote.Path(name), fs.ErrExist)
		}
	}
	return nil
}

// pipeline returns the pipeline of diffusers that computes the function, and its scheduler's configuration; "" if there is none.
func (d Description) pipeline() (class string, scheduler []byte, err error) {
	is, _ := d.Network.Traits()
	exploding := d.Kind == Denoiser && d.Form.Type == VE && (d.Form.Scale == 0 || d.Form.Scale == 1)
	if is.Fourier && !exploding {
		return "", nil, fmt.Errorf("%w: with a Fourier embedding it embeds the logarithm of its input and divides by it, as a model of the form %s, and this one is of the form %s",
			ErrNotDiffusers, VE, quote.Text(d.Form.Type))
	}
	var config any
	switch {
	case exploding && is.Fourier:
		class = "ScoreSdeVePipeline"
		config = map[string]any{"_class_name": veScheduler, "sigma_min": d.SigmaMin, "sigma_max": d.SigmaMax}
	case d.Kind == Denoiser && d.Form.Type == DDPM:
		class = "DDPMPipeline"
		c := noise.Config{Class: "DDPMScheduler", Predicts: d.Form.Predict, TrainedBetas: d.Form.Values, TrainSteps: len(d.Form.Values)}
		if d.Form.Values == nil {
			c = c.OfBetas(d.Form.schedule())
		}
		if d.Form.Learned {
			c.Variance = "learned_range"
		}
		config = c
	case d.Kind == Consistency && d.Form.Type == EDM && d.Form.Noise == models.ScaledLog && d.Boundary == models.AtSigmaMin:
		class = consistencyPipeline
		c := noise.DefaultConsistency()
		c.SigmaData, c.SigmaMin, c.SigmaMax = d.SigmaData, d.SigmaMin, d.SigmaMax
		config = c
	default:
		return "", nil, nil
	}
	if d.Scheduler != nil {
		if by, err := classOf(d.Scheduler); err == nil && by == "DDIMScheduler" {
			class = "DDIMPipeline"
		}
		// JSON has no infinities, but the configurations of diffusers' DPM-Solver have one.
		return class, bytes.ReplaceAll(d.Scheduler, []byte(`:"-Infinity"`), []byte(`:-Infinity`)), nil
	}
	scheduler, err = json.MarshalIndent(config, "", "  ")
	return class, scheduler, err
}
