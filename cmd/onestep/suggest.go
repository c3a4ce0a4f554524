package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/onestep-go/onestep/internal/suggest"
)

// elsewhere are the names that diffusers, kohya's scripts, A1111 and stable-diffusion.cpp have for flags, with ours.
var elsewhere = map[string]string{
	"guidance-scale": "guidance", "cfg-scale": "guidance", "cfg": "guidance",
	"num-inference-steps": "steps", "max-train-steps": "steps", "sampling-steps": "steps",
	"sampling-method": "sampler", "sampler-name": "sampler", "scheduler": "sampler",
	"negative-prompt": "negative", "num-images-per-prompt": "n", "batch-count": "n", "init-img": "init-image",
	"pretrained-model-name-or-path": "model", "ckpt": "model", "lora-model-dir": "lora-dir", "output-dir": "out", "output": "out",
	"train-data-dir": "data", "train-batch-size": "batch", "batch-size": "batch", "learning-rate": "lr", "network-dim": "rank", "network-alpha": "alpha",
	"gradient-accumulation-steps": "grad-accum", "gradient-checkpointing": "checkpointing", "validation-prompt": "val-prompts",
}

// nearFlags are the flags that a name which is none may stand for.
func nearFlags(name string, flags *pflag.FlagSet) []string {
	if ours := elsewhere[strings.ReplaceAll(strings.ToLower(name), "_", "-")]; ours != "" && flags.Lookup(ours) != nil {
		return []string{ours}
	}
	return suggest.Near(name, flagNames(flags))
}

// flagNames lists the flags of a command that help texts show.
func flagNames(flags *pflag.FlagSet) (names []string) {
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// commandNames lists the subcommands that help texts show.
func commandNames(of *cobra.Command) (names []string) {
	for _, c := range of.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}
