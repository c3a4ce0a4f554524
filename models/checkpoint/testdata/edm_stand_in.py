"""Writes network.pkl with a network of the names, shapes and arguments of EDM's smallest SongUNet, and runs scripts/edm_weights.py, whose path is
the argument, on it: to write network.safetensors, to write it again, and with a key that the pickle lacks."""
import pickle
import runpy
import sys

import torch


class Net(torch.nn.Module):
    """Modules made of the names of their tensors."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            at, _, last = name.partition(".")
            if last:
                if not hasattr(self, at):
                    inner = {n.partition(".")[2]: s for n, s in shapes.items() if n.startswith(at + ".")}
                    self.add_module(at, Net(inner))
            elif at == "resample_filter":
                self.register_buffer(at, torch.full(shape, 0.25))
            else:
                self.register_parameter(at, torch.nn.Parameter(torch.full(shape, 0.01)))


class EDMPrecond(torch.nn.Module):
    def __init__(self, sigma_data, dropout, model):
        super().__init__()
        self.sigma_data, self.sigma_max = sigma_data, float("inf")
        self._init_kwargs = {"sigma_data": sigma_data, "dropout": dropout}
        self.model = model


def block(at, i, o, resample=False, attention=False):
    out = {f"{at}.norm0.weight": (i,), f"{at}.norm0.bias": (i,), f"{at}.conv0.weight": (o, i, 3, 3), f"{at}.conv0.bias": (o,),
           f"{at}.affine.weight": (o, 32), f"{at}.affine.bias": (o,), f"{at}.norm1.weight": (o,), f"{at}.norm1.bias": (o,),
           f"{at}.conv1.weight": (o, o, 3, 3), f"{at}.conv1.bias": (o,)}
    if i != o or resample:
        out |= {f"{at}.skip.weight": (o, i, 1, 1), f"{at}.skip.bias": (o,)}
    if resample:
        out |= {f"{at}.conv0.resample_filter": (1, 1, 2, 2), f"{at}.skip.resample_filter": (1, 1, 2, 2)}
    if attention:
        out |= {f"{at}.norm2.weight": (o,), f"{at}.norm2.bias": (o,), f"{at}.qkv.weight": (3 * o, o, 1, 1), f"{at}.qkv.bias": (3 * o,),
                f"{at}.proj.weight": (o, o, 1, 1), f"{at}.proj.bias": (o,)}
    return out


def shapes(c=8):
    out = {"map_layer0.weight": (4 * c, c), "map_layer0.bias": (4 * c,), "map_layer1.weight": (4 * c, 4 * c), "map_layer1.bias": (4 * c,),
           "enc.8x8_conv.weight": (c, 3, 3, 3), "enc.8x8_conv.bias": (c,)}
    out |= block("enc.8x8_block0", c, c) | block("enc.4x4_down", c, c, resample=True) | block("enc.4x4_block0", c, c)
    out |= block("dec.4x4_in0", c, c, attention=True) | block("dec.4x4_in1", c, c)
    out |= block("dec.4x4_block0", 2 * c, c) | block("dec.4x4_block1", 2 * c, c) | block("dec.8x8_up", c, c, resample=True)
    out |= block("dec.8x8_block0", 2 * c, c) | block("dec.8x8_block1", 2 * c, c)
    return out | {"dec.8x8_aux_norm.weight": (c,), "dec.8x8_aux_norm.bias": (c,), "dec.8x8_aux_conv.weight": (3, c, 3, 3), "dec.8x8_aux_conv.bias": (3,)}


if __name__ == "__main__":
    from edm_stand_in import EDMPrecond, Net  # so that the pickle names this module

    net = EDMPrecond(0.4, 0.13, Net(shapes()))
    with open("network.pkl", "wb") as f:
        pickle.dump({"ema": net, "training_set_kwargs": {}}, f)
    script = sys.argv[1]
    for args in ([], [], ["--overwrite", "--key", "none"]):
        sys.argv = [script, "network.pkl", "network.safetensors"] + args
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as e:
            print(e)
