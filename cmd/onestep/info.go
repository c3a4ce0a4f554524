package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/sampling"
	"github.com/onestep-go/onestep/torch/safetensors"
	"github.com/onestep-go/onestep/training/rundir"
)

func (a *app) info() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "info FILE|DIR",
		Short: "Tell what a model file, a run's folder or a picture holds",
		Long: `Tell what a safetensors file holds (the model it describes, tensors, metadata), how far a run has come (its folder), or
with which settings a picture was drawn (a PNG).`,
		Example: `  onestep info runs/fashion
  onestep info model.safetensors --all
  onestep info emoji.png --json`,
		Args: exactly(1, "a file or a folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			st, err := os.Stat(args[0])
			if err != nil {
				return fmt.Errorf("%s: there is no such file or folder", args[0])
			}
			switch {
			case st.IsDir():
				return a.infoRun(args[0])
			case strings.EqualFold(filepath.Ext(args[0]), ".png"):
				return a.infoPicture(args[0])
			}
			return a.infoModel(args[0], all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every tensor")
	a.jsonFlag(cmd)
	return cmd
}

type tensorInfo struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
}

func (a *app) infoModel(path string, all bool) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	out := struct {
		File        string                  `json:"file"`
		Tensors     int                     `json:"tensors"`
		Elements    int                     `json:"elements"`
		Bytes       int                     `json:"bytes"`
		Description *checkpoint.Description `json:"description,omitempty"`
		Metadata    map[string]string       `json:"metadata,omitempty"`
		List        []tensorInfo            `json:"list,omitempty"`
	}{File: path, Metadata: f.Metadata()}
	types := map[string]int{}
	for t := range f.Tensors() {
		out.Tensors++
		out.Bytes += len(t.Data)
		out.Elements += len(t.Data) * 8 / t.DType.Bits()
		types[string(t.DType)]++
		if all {
			out.List = append(out.List, tensorInfo{t.Name, string(t.DType), t.Shape})
		}
	}
	d, err := checkpoint.ReadDescription(f.Metadata())
	switch {
	case err == nil:
		out.Description = &d
	case !errors.Is(err, checkpoint.ErrNoDescription):
		return fmt.Errorf("%s: %w", path, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d tensors, %d elements, %.1f MB (", path, out.Tensors, out.Elements, float64(out.Bytes)/1e6)
	first := true
	for name, n := range types {
		if !first {
			b.WriteString(", ")
		}
		first = false
		fmt.Fprintf(&b, "%d %s", n, name)
	}
	b.WriteString(")\n")
	if out.Description != nil {
		n := d.Network
		fmt.Fprintf(&b, "consistency model, %s on %s, step %d, %d images seen\n", d.Method, d.Data, d.Step, d.Images)
		fmt.Fprintf(&b, "images %d×%d×%d, U-Net of %d channels ×%v, %d blocks a level, attention at %v\n", n.InChannels, n.Resolution, n.Resolution, n.Channels, n.Mult, n.Blocks, n.Attention)
		if n.Classes > 0 {
			fmt.Fprintf(&b, "%d classes: %s\n", n.Classes, strings.Join(d.ClassNames, ", "))
		}
		fmt.Fprintf(&b, "identity at %s, noise levels %g to %g, sigma_data %g, label %s\n", d.Boundary, d.SigmaMin, d.SigmaMax, d.SigmaData, d.Noise)
		if d.Command != "" {
			fmt.Fprintf(&b, "made by: %s\n", d.Command)
		}
	} else {
		for k, v := range out.Metadata {
			fmt.Fprintf(&b, "%s: %s\n", k, strings.Join(strings.Fields(v[:min(len(v), 200)]), " "))
		}
	}
	for _, t := range out.List {
		fmt.Fprintf(&b, "%-60s %-5s %v\n", t.Name, t.DType, t.Shape)
	}
	return a.print(out, b.String())
}

func (a *app) infoRun(dir string) error {
	options, err := rundir.ReadOptions(dir)
	if err != nil {
		return fmt.Errorf("%s is no run's folder: %w", dir, err)
	}
	snapshots, err := rundir.Steps(dir, "model")
	if err != nil {
		return err
	}
	states, err := rundir.Steps(dir, "state")
	if err != nil {
		return err
	}
	last, err := lastStats(filepath.Join(dir, "stats.jsonl"))
	if err != nil {
		return err
	}
	var b strings.Builder
	text, err := json.MarshalIndent(options, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "%s\noptions: %s\n", dir, text)
	if last != nil {
		text, err := json.Marshal(last)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "last: %s\n", text)
	}
	fmt.Fprintf(&b, "snapshots after steps %v\nstates after steps %v\n", snapshots, states)
	return a.print(map[string]any{"dir": dir, "options": options, "last": last, "snapshots": snapshots, "states": states}, b.String())
}

func lastStats(path string) (map[string]any, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var last map[string]any
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var v map[string]any
		if json.Unmarshal(bytes.TrimSpace(sc.Bytes()), &v) == nil {
			last = v
		}
	}
	return last, nil
}

func (a *app) infoPicture(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	texts, err := sampling.ReadTexts(bufio.NewReader(f))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]any{"file": path}
	var b strings.Builder
	fmt.Fprintln(&b, path)
	for _, t := range texts {
		fmt.Fprintf(&b, "%s: %s\n", t.Keyword, t.Value)
		if json.Valid([]byte(t.Value)) {
			out[t.Keyword] = json.RawMessage(t.Value)
		} else {
			out[t.Keyword] = t.Value
		}
	}
	return a.print(out, b.String())
}
