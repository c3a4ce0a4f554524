"""Uses a server by the package webuiapi, and asserts what its users see. Arguments: the server's URL, an API key."""
import base64
import io
import sys
import threading
import time

import webuiapi
from PIL import Image

base, key = sys.argv[1] + "/sdapi/v1", sys.argv[2]
api = webuiapi.WebUIApi(baseurl=base, sampler="LCM", scheduler="automatic", steps=2, username="anybody", password=key)
assert not (api.has_controlnet or api.has_adetailer or api.has_animatediff)


def equal(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


def has(notices, *words):
    for word in words:
        assert any(word in n for n in notices), f"no notice of {word} in {notices}"


# Without the key, with A1111's form of an error.
for stranger in (webuiapi.WebUIApi(baseurl=base), webuiapi.WebUIApi(baseurl=base, username="anybody", password="wrong")):
    assert "key" in stranger.get_options()["detail"]
    try:
        stranger.txt2img(prompt="a")
    except RuntimeError as e:
        equal(e.args[0], 401)
    else:
        raise AssertionError("no error without the key")

# Lists.
equal(api.util_get_model_names(), ["builtin", "tiny-sd"])
equal([x["name"] for x in api.get_loras()], ["ink"])
assert {"Euler a", "LCM", "DPM++ 2M"} <= set(api.util_get_sampler_names()), api.util_get_sampler_names()
assert {"automatic", "karras"} <= set(api.util_get_scheduler_names())
for empty in (api.get_sd_vae, api.get_latent_upscale_modes, api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models, api.get_prompt_styles):
    equal(empty(), [])
equal(api.get_embeddings(), {"loaded": {}, "skipped": {}})
equal([x["name"] for x in api.get_upscalers()], ["None"])
equal(api.get_cmd_flags(), {})
equal(api.refresh_checkpoints(), None)
assert api.get_memory()["ram"]["total"] > 0

# Text to image: the same seed is the same image, an adapter changes it.
asked = dict(prompt="a red apple", negative_prompt="blurry", seed=5, width=32, height=32, cfg_scale=1.5)
one = api.txt2img(**asked)
equal(one.image.size, (32, 32))
equal([one.info["seed"], one.info["width"], one.info["height"], one.info["steps"], one.info["sd_model_name"]], [5, 32, 32, 2, "tiny-sd"])
equal(one.info["infotexts"][0], one.image.info["parameters"])
equal(one.parameters["prompt"], "a red apple")
equal(api.txt2img(**asked).image.tobytes(), one.image.tobytes())
four = api.txt2img(**{**asked, "seed": 4}, batch_size=2, n_iter=2)
equal(four.info["all_seeds"], [4, 5, 6, 7])
equal(len(four.images), 4)
equal(four.images[1].tobytes(), one.image.tobytes())
inked = api.txt2img(**{**asked, "prompt": "a red apple <lora:ink:1>"})
assert inked.image.tobytes() != one.image.tobytes()
assert api.txt2img(**{**asked, "seed": -1}).info["seed"] >= 0
more = api.txt2img(**asked, enable_hr=True, tiling=True, styles=["x"], save_images=True, override_settings={"CLIP_stop_at_last_layers": 2},
                   adetailer=[webuiapi.ADetailer(ad_model="face")])
has(more.info["notices"], "enable_hr", "tiling", "style", "save_images", "CLIP_stop_at_last_layers", "ADetailer")
many = api.txt2img(**asked, batch_size=20)
equal([len(many.images), len(many.info["all_seeds"]), len(many.info["infotexts"])], [16, 16, 16])
has(many.info["notices"], "16")
for wrong in (dict(sampler_name="no sampler"), dict(steps=0), dict(prompt="<lora:nobody:1>"), dict(script_name="X/Y/Z plot")):
    try:
        api.txt2img(**{**asked, **wrong})
    except RuntimeError as e:
        assert e.args[0] in (400, 422), (wrong, e)
    else:
        raise AssertionError(f"no error for {wrong}")

# Image to image and inpainting: black is kept.
start = Image.new("RGB", (32, 32), (200, 40, 40))
changed = api.img2img(images=[start], prompt="an apple", seed=3, width=32, height=32, denoising_strength=0.5)
equal(changed.image.size, (32, 32))
equal(changed.parameters["init_images"], None)
equal(changed.info["denoising_strength"], 0.5)
assert changed.image.tobytes() != api.img2img(images=[start], prompt="an apple", seed=3, width=32, height=32, denoising_strength=1).image.tobytes()
mask = Image.new("L", (32, 32), 0)
mask.paste(255, (0, 0, 16, 32))
painted = api.img2img(images=[start], mask_image=mask, prompt="an apple", seed=3, width=32, height=32, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, cfg_scale=1)
equal(painted.info["notices"], [])
kept = (16, 0, 32, 32)
equal(painted.image.crop(kept).tobytes(), start.crop(kept).tobytes())
inverted = api.img2img(images=[start], mask_image=mask, prompt="an apple", seed=3, width=32, height=32, inpainting_mask_invert=1)
assert painted.image.tobytes() != inverted.image.tobytes()
has(api.img2img(images=[start], mask_image=mask, prompt="a", width=32, height=32, inpainting_fill=2).info["notices"], "inpainting_fill")

# Settings of images.
read = api.png_info(one.image)
equal(read.info, one.info["infotexts"][0])
equal([read.parameters["Prompt"], read.parameters["Seed"], read.parameters["Size-1"]], ["a red apple", "5", "32"])

# Options choose the model.
equal(api.util_get_current_model(), "tiny-sd")
api.util_set_model("builtn")
equal(api.util_get_current_model(), "builtin")
api.util_wait_for_ready(check_interval=0.1)
emoji = api.txt2img(prompt="0", seed=7, width=32, height=32, sampler_name="Euler a")
equal([emoji.image.size, emoji.info["sd_model_name"]], [(32, 32), "builtin"])
has(emoji.info["notices"], "euler_a")
assert "Class: " in emoji.image.info["parameters"]
equal(api.set_options({"sd_model_checkpoint": "tiny-sd", "unknown": 1}), None)
equal(api.get_options()["sd_model_checkpoint"], "tiny-sd")

# Progress and interruption of a long request.
equal([api.get_progress()["progress"], api.get_progress()["state"]["job_count"]], [0, 0])
replies = []
long = threading.Thread(target=lambda: replies.append(api.txt2img(prompt="a", seed=1, width=64, height=64, steps=50, sampler_name="Heun", n_iter=4)))
long.start()
seen, looked = [], None
while long.is_alive() and not looked:
    p = api.get_progress()
    seen.append(p["progress"])
    looked = p["current_image"]
    if looked:
        equal([p["state"]["job_count"], p["state"]["job"], p["state"]["sampling_steps"]], [4, "scripts_txt2img", 50])
        equal(Image.open(io.BytesIO(base64.b64decode(looked))).size, (64, 64))
        equal(api.interrupt(), {})
    time.sleep(0.01)
long.join()
equal(seen, sorted(seen))
assert max(seen) > 0.02, seen
assert len(replies[0].images) < 4, len(replies[0].images)
has(replies[0].info["notices"], "interrupted")
equal(api.skip(), None)
print("every check passed")
