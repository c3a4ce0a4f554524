"""Writes the weights of LPIPS to a safetensors file, for package models/lpips.

    pip install lpips torchvision safetensors
    python scripts/lpips_weights.py vgg lpips-vgg.safetensors      or alex

The Python packages download what was trained on ImageNet, 528 MB for VGG16 and 233 MB for AlexNet, of which the file keeps 59 MB
and 10 MB. It holds the state dict of lpips.LPIPS under its own names; lins.*, which repeat lin0 to lin4, are left out.
"""
import argparse
import os
import sys
import tempfile
import warnings

NETS = ("alex", "vgg")


def write(model, path):
    """Writes an lpips.LPIPS: to a file beside path first, so that path never holds half of it."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    if model.pnet_type not in NETS or model.version != "0.1":
        raise ValueError(f"want LPIPS 0.1 with one of {', '.join(NETS)}, got {model.version} with {model.pnet_type}")
    weights = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not k.startswith("lins.")}
    for name, v in weights.items():
        if not torch.isfinite(v).all():
            raise ValueError(f"{name} has elements that are not finite")
    metadata = {"format": "pt", "lpips": model.version, "net": model.pnet_type, "torchvision": torchvision.__version__}
    fd, partial = tempfile.mkstemp(suffix=".partial", prefix=os.path.basename(path) + ".", dir=os.path.dirname(path) or ".")
    os.close(fd)
    try:
        save_file(weights, partial, metadata=metadata)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        with open(partial, "rb") as f:
            os.fsync(f.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def main():
    parser = argparse.ArgumentParser(description="Writes the weights of LPIPS for onestep.")
    parser.add_argument("net", choices=NETS, help="the network whose features are compared")
    parser.add_argument("path", help="the file to write, *.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    args = parser.parse_args()
    # Before the download, which takes its time.
    if os.path.exists(args.path) and not args.overwrite:
        sys.exit(f"{args.path} exists: choose another name, or --overwrite")
    if not os.path.isdir(os.path.dirname(args.path) or "."):
        sys.exit(f"{args.path}: there is no folder {os.path.dirname(args.path)}")
    try:
        import lpips
        import safetensors  # noqa: F401
    except ImportError as e:
        sys.exit(f"{e}: pip install lpips torchvision safetensors")
    warnings.filterwarnings("ignore", category=UserWarning)  # torchvision's, of the arguments that lpips gives it
    try:
        model = lpips.LPIPS(net=args.net, verbose=False)
    except OSError as e:  # urllib's errors are of this kind
        sys.exit(f"the weights of {args.net} could not be downloaded: {e}")
    write(model, args.path)
    print(f"{args.path}: {os.path.getsize(args.path)} bytes")


if __name__ == "__main__":
    main()
