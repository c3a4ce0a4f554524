"""An LCM-LoRA in the files that diffusers' training script of LCM-LoRA leaves: python finetune_writes.py MODEL DIRECTORY writes to DIRECTORY

    kohya.safetensors                       the names with which the script draws its validation images: lora_unet_…, each module with its
                                            alpha, all in float16
    folder                                  the network as peft saves it
    pytorch_lora_weights.safetensors        save_lora_weights of peft's own names, without an alpha
    deltas.safetensors                      by path what the adapter does to each weight in float32, as peft computes it; the scale is 2
    image.png                               of four steps with the seed 1, by the first file

Its weights are drawn with the seed 3 and rounded to float16, so that all files have the same numbers.
"""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
from diffusers import LCMScheduler, StableDiffusionPipeline  # noqa: E402
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
           "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
RANK, ALPHA = 2, 4


def kohya(state):
    """Only the dot before lora_down or lora_up, and the one before weight, stay dots."""
    out = {}
    for key, value in state.items():
        path, which = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + path.replace(".", "_")
        out[f"{name}.{dict(lora_A='lora_down', lora_B='lora_up')[which]}.weight"] = value.half()
        out[name + ".alpha"] = torch.tensor(ALPHA).half()
    return out


def main():
    model, folder = sys.argv[1:]

    def at(name):
        return os.path.join(folder, name)

    torch.set_num_threads(1)
    torch.manual_seed(3)
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    net = get_peft_model(pipe.unet, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".lora_" in name:
                p.copy_(torch.randn_like(p).mul(0.15).half())
    state = get_peft_model_state_dict(net)
    save_file(kohya(state), at("kohya.safetensors"))
    net.save_pretrained(at("folder"))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
    save_file({name.removeprefix("base_model.model."): m.get_delta_weight("default").detach().contiguous()
               for name, m in net.named_modules() if isinstance(m, BaseTunerLayer)}, at("deltas.safetensors"))

    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(at("kohya.safetensors"))
    pipe("a red cat", num_inference_steps=4, guidance_scale=1.0, generator=torch.Generator().manual_seed(1), height=64, width=64).images[0].save(at("image.png"))


if __name__ == "__main__":
    main()
