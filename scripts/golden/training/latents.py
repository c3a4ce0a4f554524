"""What diffusers' training scripts encode, for training/latents/golden_test.go:

    python scripts/golden/training/latents.py      writes training/latents/testdata/encode.safetensors

The models are tests/testdata/sd/sd15 and sdxl. Images and captions are encoded as in examples/consistency_distillation/
train_lcm_distill_lora_{sd,sdxl}_wds.py: pixels as ToTensor and Normalize([0.5], [0.5]) give them, latents drawn from the posterior times
scaling_factor, captions padded and truncated to the tokenizer's length; for SDXL the last but one layer of both text encoders, the pooled
output of the second, and the time ids of original size, crop and target size. Computed in float64, but for the draw's noise, which is
float32. Each sample's generator has the seed that package latents derives from the run's seed and the position.
"""
import os

os.environ["HF_HUB_OFFLINE"] = "1"
import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers import AutoencoderKL  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: E402

ROOT = os.path.abspath(__file__).partition("/scripts/golden/")[0]
OUT = os.path.join(ROOT, "training", "latents", "testdata", "encode.safetensors")
SEED, SIZE, MASK = 11, 32, (1 << 64) - 1
CAPTIONS = ["a photo of a cat", "Two dogs, in the snow! " * 12]
torch.set_grad_enabled(False)
torch.set_num_threads(1)


def mix(x):
    """The finaliser of SplitMix64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def draw_seed(position):
    return mix(SEED ^ mix(position ^ mix(0x6C6174656E7473)))


def picture(number):
    """The image that paint of main_test.go makes, 32×32 pixels."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    levels = torch.stack([x * (number + 3), y * 5 + 11 * number, x + y + 40 * number]) % 256
    return (levels.to(torch.float64) / 255 - 0.5) / 0.5


def main():
    out = {}
    pixels = torch.stack([picture(i) for i in range(len(CAPTIONS))])
    for kind in ("sd15", "sdxl"):
        folder = os.path.join(ROOT, "tests", "testdata", "sd", kind)
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float64)
        posterior = vae.encode(pixels).latent_dist
        noise = torch.cat([torch.randn((1, *posterior.mean.shape[1:]), generator=torch.Generator().manual_seed(draw_seed(i)))
                           for i in range(len(CAPTIONS))])
        out[kind + ".latents"] = (posterior.mean + posterior.std * noise.double()) * vae.config.scaling_factor
        parts = [("tokenizer", "text_encoder", CLIPTextModel)]
        if kind == "sdxl":
            parts.append(("tokenizer_2", "text_encoder_2", CLIPTextModelWithProjection))
        hidden = []
        for tok, enc, cls in parts:
            tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder=tok)
            encoder = cls.from_pretrained(folder, subfolder=enc, dtype=torch.float64)
            ids = tokenizer(CAPTIONS, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
            result = encoder(ids, output_hidden_states=True)
            if kind == "sd15":
                hidden.append(result[0])
                continue
            out["sdxl.pooled"] = result[0]
            hidden.append(result.hidden_states[-2])
        out[kind + ".text"] = torch.cat(hidden, dim=-1)
    out["sdxl.sizes"] = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]] * len(CAPTIONS), dtype=torch.float64)
    out = {k: v.float().contiguous() for k, v in out.items()}
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    save_file(out, OUT, metadata={"seed": str(SEED), "torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__})
    os.chmod(OUT, 0o644)
    print(OUT, os.path.getsize(OUT))


main()
