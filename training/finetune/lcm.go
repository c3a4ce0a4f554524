package finetune

import (
	"context"

	"github.com/onestep-go/onestep/internal/options"
	"github.com/onestep-go/onestep/models"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/training"
)

// LCM is latent consistency distillation (Luo et al. 2023) of a Stable Diffusion model, to a model of its own or, with LoRA, to an adapter
// (LCM-LoRA): see [training.LCD]. The teacher is the model itself.
type LCM struct {
	Run
	_    struct{} `overrides:"save-dtype" help:"data type in snapshots of what is trained; a full model's autoencoder and text encoders keep theirs"`
	_    struct{} `overrides:"val-steps" help:"sampling steps of validation images (default: 4, or the number of phases)"`
	LoRA bool     `option:"lora" help:"train an LCM-LoRA adapter instead of a full model"`
	Adapter

	WMin *float64 `option:"w-min" default:"5" range:"[0,1000]" help:"least guidance of the teacher, as the scale minus 1"`
	WMax *float64 `option:"w-max" default:"15" range:"[0,1000]" help:"greatest guidance of the teacher, as the scale minus 1"`
	Skip int      `option:"skip" default:"20" range:"[1,1000]" help:"skipping step: timesteps of the chain in one step of the teacher"`
	Loss string   `option:"loss" default:"huber" choices:"huber,l2" help:"distance of the model's predictions"`
	// HuberC is the constant of the pseudo-Huber distance.
	HuberC       float64  `option:"huber-c" default:"0.001" range:"(0,1000]" help:"constant of the pseudo-Huber distance"`
	GuidanceSize int      `option:"guidance-size" default:"256" range:"[2,4096]" help:"numbers of the guidance embedding of a full model"`
	TargetEMA    *float64 `option:"target-ema" default:"0.95" range:"[0,1)" help:"EMA decay of the target network of a full model"`

	Phases     int  `option:"phases" range:"[0,1000]" value:"N" help:"phased consistency (PCM) in N phases, for sampling in N steps with the sampler tcd and eta 0 (default 0: none)"`
	Trajectory bool `option:"trajectory" help:"trajectory consistency (TCD), for the sampler tcd with any number of steps and any eta"`
}

// Plan reads what the model and the data are, and decides everything, without reading weights. The caller closes what it returns.
func (r LCM) Plan(ctx context.Context) (*Plan, error) { return plan(ctx, &r) }

// Train trains. Cancelling ctx saves, and returns the context's error with the result.
func (r LCM) Train(ctx context.Context) (Result, error) { return train(ctx, &r) }

func (r *LCM) kind() string  { return "train-lcm" }
func (r *LCM) common() *Run  { return &r.Run }
func (r *LCM) fewStep() bool { return true }

func (r *LCM) adapter() *Adapter {
	if r.LoRA {
		return &r.Adapter
	}
	return nil
}

func (r *LCM) fill() error {
	if !r.LoRA {
		for _, o := range options.Of(&r.Adapter) {
			if r.changed(r, o.Name) {
				return options.Refuse(o.Name, "%s is only for adapters: %s, or leave it out for a full model", options.NameOf(o.Name), options.SetOf("lora", ""))
			}
		}
	}
	if err := r.checkInit(false); err != nil {
		return err
	}
	if err := r.defaults(r); err != nil {
		return err
	}
	if r.LR == 0 {
		if r.LR = 1e-6; r.LoRA {
			r.LR = 1e-4
		}
	}
	if r.LoRA {
		if err := r.idle(r, "with "+options.NameOf("lora")+", since it is of full models", "guidance-size", "target-ema", "precision"); err != nil {
			return err
		}
	}
	if r.Loss == "l2" {
		if err := r.idle(r, "with the "+options.NameOf("loss")+" l2", "huber-c"); err != nil {
			return err
		}
	}
	if r.Phases > 0 && r.Trajectory {
		return options.Refuse("phases", "%s and %s are different methods: leave one of them out", options.NameOf("phases"), options.NameOf("trajectory"))
	}
	if *r.WMin > *r.WMax {
		return options.Refuse("w-min", "%s: want at most %s, which is %g, got %g", options.NameOf("w-min"), options.NameOf("w-max"), *r.WMax, *r.WMin)
	}
	if r.LoRA {
		return r.Adapter.complete(&r.Run)
	}
	return nil
}

// jumps reports whether the network predicts points of the trajectory, without the boundary function of latent consistency models.
func (r *LCM) jumps() bool { return r.Phases > 0 || r.Trajectory }

// continues checks the file to start from.
func (r *LCM) continues() error {
	if r.from.Text {
		return options.Refuse("init", "%s: the adapter has modules for text encoders, which distillation does not train: want an adapter of the U-Net alone", options.NameOf("init"))
	}
	return nil
}

// learn makes the student and the objective.
func (r *LCM) learn(s *session) error {
	teacher, err := s.model.Denoiser()
	if err != nil {
		return err
	}
	o := &training.LCD{Teacher: teacher, Null: s.source.Null(s.kept), Skip: r.Skip, WMin: r.WMin, WMax: r.WMax, Distance: training.Distance(training.ElementHuber{C: r.HuberC}), Phases: r.Phases, Trajectory: r.Trajectory}
	if r.Loss == "l2" {
		o.Distance = training.L2{}
	}
	student := *teacher
	if r.LoRA {
		if err := s.adapt(&r.Adapter, false); err != nil {
			return err
		}
		student.Net = s.adapted(teacher.Net, s.adapter)
		o.Model = &models.Latent{Model: &student}
		s.objective = o
		return nil
	}
	net, err := s.model.UNet.WithGuidance(r.GuidanceSize, torch.Float32, r.Seed)
	if err != nil {
		return options.Failed("model", err)
	}
	s.own(net.Close)
	student.Net = net
	target := student
	copied, err := copyOf(net)
	if err != nil {
		return err
	}
	s.own(copied.Close)
	target.Net = copied
	o.Model, o.Target, o.Decay, o.GuidanceInput = &models.Latent{Model: &student}, &models.Latent{Model: &target}, *r.TargetEMA, true
	if r.TargetEMA != nil && *r.TargetEMA == 0 { // the student itself
		o.Target, o.Decay = nil, 0
	}
	s.student, s.objective = net, o
	return nil
}
