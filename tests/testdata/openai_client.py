"""What users of the Python package openai do.

Arguments: the URL of a server whose models are builtin and tiny-sd, its key, and the URL of one that refuses: /full, /stopping.
"""
import base64
import io
import sys
import urllib.request

import openai
from PIL import Image, ImageDraw

url, key, refuses = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)


def opened(b64):
    image = Image.open(io.BytesIO(base64.b64decode(b64)))
    image.load()
    return image


def png(image, name="image.png"):
    file = io.BytesIO()
    image.save(file, "PNG")
    file.seek(0)
    file.name = name
    return file


def raises(kind, **fields):
    class Check:
        def __enter__(self):
            return self

        def __exit__(self, _, error, __):
            assert type(error) is kind, f"got {error!r}, want {kind}"
            for name, want in fields.items():
                assert getattr(error, name) == want, f"{name}: got {getattr(error, name)!r}, want {want!r}"
            return True
    return Check()


# Models.
models = client.models.list()
assert [m.id for m in models] == ["builtin", "tiny-sd"] and models.data[0].object == "model", models
assert client.models.retrieve("builtin").owned_by == "onestep"
with raises(openai.NotFoundError, code="model_not_found", param="model"):
    client.models.retrieve("gpt-5")

# Generation.
result = client.images.generate(model="builtin", prompt="animals", n=2, size="64x64", extra_body={"seed": 7})
assert len(result.data) == 2 and result.size == "64x64" and result.output_format == "png" and result.background == "opaque", result
assert [d.seed for d in result.data] == [7, 8] and result.usage.total_tokens == 0 and result.data[0].url is None
first = opened(result.data[0].b64_json)
assert first.size == (64, 64) and first.text["onestep"], first.text
again = client.images.generate(model="builtin", prompt="animals", size="64x64", extra_body={"seed": 7}).data[0].b64_json
assert again == result.data[0].b64_json

# By URL, as for DALL-E, whose name stands for the default model.
result = client.images.generate(model="dall-e-3", prompt="animals", size="1024x1024", quality="standard", style="vivid", user="u")
assert result.model == "builtin" and "dall-e-3" in result.notices[0] and "quality, style, user" in result.notices[1], result.notices
with urllib.request.urlopen(result.data[0].url) as file:
    assert file.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(file.read())).size == (1024, 1024)
result = client.images.generate(prompt="animals", response_format="url", output_format="webp")
with urllib.request.urlopen(result.data[0].url) as file:
    assert Image.open(io.BytesIO(file.read())).format == "WEBP"
result = client.images.generate(prompt="animals", output_format="jpeg", output_compression=50)
assert opened(result.data[0].b64_json).format == "JPEG"

# Stable Diffusion, with an adapter and a negative prompt.
plain = dict(model="tiny-sd", prompt="a cat", size="64x64")
more = {"seed": 1, "steps": 2, "guidance": 5, "negative_prompt": "dog", "sampler": "ddim"}
one = client.images.generate(**plain, extra_body=more)
two = client.images.generate(**plain, extra_body={**more, "loras": [{"name": "ink", "weight": 0.8}]})
assert one.model == "tiny-sd" and one.sampler == "ddim" and one.steps == 2, one
assert "Negative prompt: dog" in opened(one.data[0].b64_json).text["parameters"]
assert one.data[0].b64_json != two.data[0].b64_json and "ink" in opened(two.data[0].b64_json).text["parameters"]

# Edits. Where the mask is opaque the image stays.
image = Image.new("RGB", (32, 32), (200, 100, 50))
mask = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
ImageDraw.Draw(mask).rectangle((0, 0, 15, 31), fill=(0, 0, 0, 0))
result = client.images.edit(model="builtin", image=png(image), mask=png(mask), prompt="animals", n=1, extra_body={"seed": 3})
edited = opened(result.data[0].b64_json).convert("RGB")
assert edited.size == (32, 32) and result.size == "32x32"
assert all(abs(a - b) < 2 for a, b in zip(edited.getpixel((28, 10)), (200, 100, 50))), edited.getpixel((28, 10))
assert any(abs(a - b) > 10 for x in range(12) for a, b in zip(edited.getpixel((x, 16)), (200, 100, 50)))
result = client.images.edit(model="tiny-sd", image=[png(image), png(image, "b.png")], prompt="a cat", size="64x64",
                            extra_body={"steps": 2, "strength": 0.5, "loras": [{"name": "ink", "weight": 0.5}]})
assert result.size == "64x64" and any("further image" in n for n in result.notices), result.notices
result = client.images.create_variation(image=png(image), n=2, size="256x256", response_format="b64_json")
assert len(result.data) == 2 and opened(result.data[0].b64_json).size == (256, 256)

# Streams.
events = list(client.images.generate(**plain, stream=True, partial_images=2, extra_body={"steps": 4, "seed": 5}))
assert {e.type for e in events} <= {"image_generation.partial_image", "image_generation.completed"}, events
done = events[-1]
assert done.type == "image_generation.completed" and done.usage.total_tokens == 0 and done.seed == 5, done
assert opened(done.b64_json).size == (64, 64)
partial = [e for e in events if e.type == "image_generation.partial_image"]
assert len(partial) <= 2 and [e.partial_image_index for e in partial] == list(range(len(partial)))
assert all(opened(e.b64_json).size == (64, 64) and e.output_format == "png" and e.created_at > 0 for e in partial)
print(len(partial), "partial images")
events = list(client.images.edit(model="builtin", image=png(image), prompt="animals", stream=True))
assert events[-1].type == "image_edit.completed" and opened(events[-1].b64_json).size == (32, 32)
with client.images.generate(**plain, n=4, stream=True, extra_body={"steps": 20}) as stream:
    next(iter(stream))  # and go away

# Errors.
for fields, param in [
    (dict(n=0), "n"), (dict(size="huge"), "size"), (dict(output_format="gif"), "output_format"), (dict(partial_images=9, stream=True), "partial_images"),
    (dict(extra_body={"guidance": "much"}), "guidance"),
]:
    with raises(openai.BadRequestError, param=param, type="invalid_request_error"):
        client.images.generate(prompt="animals", **fields)
with raises(openai.BadRequestError, param="prompt"):
    client.images.generate(model="builtin", prompt="no such class")
with raises(openai.BadRequestError, param="image", code="invalid_image"):
    client.images.edit(image=b"not an image", prompt="animals")
with raises(openai.AuthenticationError, type="authentication_error"):
    client.with_options(api_key="wrong").models.list()
with raises(openai.NotFoundError, code="model_not_found"):
    client.images.generate(model="missing", prompt="animals")
with raises(openai.RateLimitError, code="rate_limit_exceeded"):
    client.with_options(base_url=refuses + "/full/v1").images.generate(prompt="animals")
with raises(openai.RateLimitError, code="rate_limit_exceeded"):
    client.with_options(base_url=refuses + "/full/v1").images.generate(prompt="animals", stream=True)
with raises(openai.InternalServerError, code="server_stopping", status_code=503):
    client.with_options(base_url=refuses + "/stopping/v1").images.generate(prompt="animals")
print("every check passed")
