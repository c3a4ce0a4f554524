package recipe_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"math"
	"os"
	"path/filepath"

	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/models/unet"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
	"github.com/onestep-go/onestep/training/recipe"
)

// denoising is a training method of this program: it trains a denoiser at noise levels drawn log-uniformly from [From, 80].
type denoising struct {
	From float64 `option:"from" default:"0.01" range:"(0,80)" help:"smallest noise level"`
}

// Spec implements recipe.Method. The network predicts in EDM's form, and the method trains the denoiser over it.
func (m *denoising) Spec() recipe.Spec {
	return recipe.Spec{
		Name: "denoising", About: "a denoiser at log-uniform noise levels", Formulas: "L = ‖D_θ(x + t·z, t) - x‖²/t²",
		Forms: []checkpoint.FormType{checkpoint.EDM},
		Function: func(m recipe.Model) (any, error) {
			return &models.EDM{Net: m.Net, SigmaData: m.Start.SigmaData}, nil
		},
	}
}

// Objective implements recipe.Method.
func (m *denoising) Objective(_ *recipe.Parts, f any) (training.Objective, error) {
	return &denoisingLoss{model: f.(*models.EDM), from: m.From}, nil
}

// denoisingLoss is the method's training.Objective.
type denoisingLoss struct {
	model *models.EDM
	from  float64
}

// Loss draws a noise level and noise for each sample from the sample's own random stream, so that runs can be resumed exactly.
func (l *denoisingLoss) Loss(s *torch.Scope, _ int, b training.Batch, d training.Draws) *torch.Tensor {
	levels := make([]float32, b.X.Dim(0))
	for i := range levels {
		levels[i] = float32(l.from * math.Pow(80/l.from, d.Samples[i].Float64()))
	}
	t := torch.FromSlice(s, levels)
	wide := t.View(s, -1, 1, 1, 1) // for images [B, C, H, W]
	x := b.X.Add(s, d.Noise(s, b.X).Mul(s, wide))
	cond := b.Cond
	cond.Dropout = models.DropoutFrom(d.Dropout)
	return l.model.Denoise(s, x, t, cond).Sub(s, b.X).Div(s, wide).Square(s).Mean(s)
}

// Update, State and Stats are for methods with target networks, tensors of their own and schedules.
func (l *denoisingLoss) Update(*torch.Scope, int) {}
func (l *denoisingLoss) State() iter.Seq2[string, *torch.Tensor] {
	return func(func(string, *torch.Tensor) bool) {}
}
func (l *denoisingLoss) Stats(int) map[string]float64 { return nil }

// A training method of a program's own: its options are declared by tags, and it runs, resumes and is saved like the methods of this
// package.
func ExampleMethod() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run := recipe.Run{
		Method: &denoising{}, Data: "emoji", Resolution: 8, Steps: 5, Batch: 4,
		Size: &unet.Options{Channels: 8, Mult: []int{1, 2}, Blocks: 1}, Out: filepath.Join(dir, "run"),
	}
	if err := run.Set("from", 0.1); err != nil {
		log.Fatal(err)
	}
	result, err := run.Train(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	d, err := checkpoint.ReadDescription(result.Snapshot)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Method, d.Kind, d.Step)
	// Output: denoising denoiser 5
}
