package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/onestep-go/onestep/cmd/onestep/internal/job"
	"github.com/onestep-go/onestep/internal/filetype"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/builtin"
	"github.com/onestep-go/onestep/models/builtintext"
	"github.com/onestep-go/onestep/models/checkpoint"
	"github.com/onestep-go/onestep/training/dataset"
)

// longest is the number of characters after which info cuts a value such as a prompt; --json has all of it.
const longest = 2000

// informs lists what info reads.
const informs = "a model, an adapter, a run directory, an image, or training images (a directory, .tar shards, IDX, CIFAR)"

// infoOptions are the flags of info.
type infoOptions struct {
	all     bool   // list every tensor
	check   bool   // decode every image of training data
	variant string // of a directory's weights
}

func (a *app) info() *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:        "info FILE|DIR",
		SuggestFor: []string{"data", "show", "describe", "list"},
		Short:      "Describe a model, a run, an image or training data",
		Long: `Describe a file or a directory:

  a model of onestep train   what it was trained on and how, its network, tensors, metadata
  a model in pixel space     of diffusers (UNet2DModel): what it predicts, its network, tensors
  Stable Diffusion           kind, components with their dtypes and parameters, prediction type, scheduler, image size
  an adapter, an embedding   its type and target modules, and which models it fits
  a run directory            its options and progress
  an image                   its size, and the settings it was generated with
  training images            number, sizes, classes, captions, and corrupt or unsupported files

"builtin" and "builtin-text" are the models that come with onestep; emoji, fashion-mnist and cifar10 are data sets, as in train --data.`,
		Example: `  onestep info runs/fashion
  onestep info model.safetensors --all
  onestep info photos/
  onestep info emoji.png --json`,
		Args: arguments(1, "one file or directory"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.inform(cmd.Context(), args[0], o) },
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "list every tensor (--json always does)")
	cmd.Flags().BoolVar(&o.check, "check", false, "training images: decode all of them (default: of sets with up to 10000 images)")
	cmd.Flags().StringVar(&o.variant, "variant", "", "variant of a directory's weights: fp16 reads files with .fp16. in their names, and plain files where there are none")
	call(cmd.Flags(), "NAME", "variant")
	a.quietFlag(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) inform(ctx context.Context, path string, o infoOptions) error {
	if path == "builtin" {
		f, err := builtin.File()
		if err != nil {
			return err
		}
		return a.infoModel(f, o.all)
	}
	if path == builtintext.Name {
		dir, err := builtintext.Dir("")
		if err != nil {
			return err
		}
		return a.infoFolder(ctx, dir, o)
	}
	st, err := os.Stat(path)
	if err != nil && (path == "emoji" || slices.Contains(dataset.Looked(), path) || strings.ContainsAny(path, "*?[{")) {
		return a.infoData(ctx, path, o.check)
	}
	if err := job.There(job.Path{Path: path, Want: informs}); err != nil {
		return err
	}
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return a.infoFolder(ctx, path, o)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s: neither a regular file nor a directory; info reads %s", quote.Path(path), informs)
	}
	return a.infoFile(ctx, path, o)
}

// infoFile describes a file by its content; files of torch.save, pickles and gzipped IDX files are recognized by their extension.
func (a *app) infoFile(ctx context.Context, path string, o infoOptions) error {
	is, err := filetype.Read(path)
	if err != nil {
		return err
	}
	if slices.Contains([]string{"png", "jpeg", "webp", "gif", "bmp"}, is.ID) {
		return a.infoImage(path, is)
	}
	name := strings.ToLower(filepath.Base(path))
	switch {
	case is.ID == "safetensors", is.ID == "json" && strings.HasSuffix(name, ".index.json"):
		if e, ok, err := job.DescribeEmbedding(path); ok {
			if err != nil {
				return err
			}
			return a.print(e, e.String())
		}
		return a.openModel(path, o.all)
	case (is.ID == "zip" || is.ID == "pickle") && slices.Contains([]string{".ckpt", ".pt", ".pth", ".bin"}, filepath.Ext(name)):
		if e, ok, err := job.DescribeEmbedding(path); ok {
			if err != nil {
				return err
			}
			return a.print(e, e.String())
		}
		if ok, err := a.infoSaved(path, o.all); ok {
			return err
		}
		return a.infoSD(path, "")
	case is.ID == "pickle" && filepath.Ext(name) == ".pkl":
		return fmt.Errorf("%s: %w", quote.Path(path), checkpoint.ErrCode)
	case is.ID == "tar", is.ID == "gzip", is.ID == "idx", is.ID == "pickle", !is.Known() && strings.HasSuffix(name, ".bin"):
		err := a.infoData(ctx, path, o.check)
		if err == nil || is.ID == "tar" || is.ID == "idx" || errors.Is(err, context.Canceled) {
			return err
		}
		return fmt.Errorf("%w; it is %s, and info reads %s", err, is, informs)
	case is.ID == "empty":
		return fmt.Errorf("%s: an empty file; info reads %s", quote.Path(path), informs)
	case is.ID == "json" && slices.Contains([]string{"model_index.json", "config.json", "options.json", "scheduler_config.json", "adapter_config.json"}, name):
		return fmt.Errorf("%s: a config file of a model or run directory: pass the directory, %s", quote.Path(path), quote.Path(filepath.Dir(path)))
	case !is.Known() && filepath.Ext(name) == ".safetensors":
		return a.openModel(path, o.all) // its error says what is damaged
	}
	return fmt.Errorf("%s: %s; info reads %s", quote.Path(path), is, informs)
}

func (a *app) infoFolder(ctx context.Context, path string, o infoOptions) error {
	_, err := os.Stat(filepath.Join(path, "options.json"))
	if err == nil {
		return a.infoRun(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch c, err := checkpoint.ReadContents(path); {
	case err == nil && c.Path == path: // of diffusers, in pixel space
		return a.infoContents(c, o.all)
	case err != nil && !errors.Is(err, checkpoint.ErrNoSnapshot):
		return err
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err == nil {
		return a.infoSD(path, o.variant)
	}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
		if got, err := job.DescribeDiffusion(path, o.variant); err == nil { // a component
			return a.printSD(path, got)
		}
	}
	err = a.openModel(path, o.all)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if runs, err := runsIn(path); err != nil || runs != nil {
		if err != nil {
			return err
		}
		return a.infoRuns(path, runs)
	}
	if err := a.infoData(ctx, path, o.check); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return fmt.Errorf("%s: neither a run (it has no options.json), nor a model (no model_index.json and no .safetensors), nor training images: %w",
			quote.Path(path), err)
	}
	return nil
}
