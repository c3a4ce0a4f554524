"""Tokens of transformers' CLIPTokenizer for 500 prompts, for models/sd/prompt:

    python scripts/golden_sd_prompt.py     writes models/sd/prompt/testdata/prompts.jsonl, small/ and small5/

Its vocabulary is made of the merges in models/sd/prompt/merges.txt.gz, as OpenAI's CLIP makes it. small/ is a tokenizer of 1000 tokens in
the form of older models, small5/ the same as transformers 5 writes it.
"""
import gzip
import json
import os
import random
import shutil
import tempfile

import transformers
from transformers import CLIPTokenizer

HERE = os.path.join(os.path.dirname(__file__), "..", "models", "sd", "prompt")
OUT = os.path.join(HERE, "testdata")
with gzip.open(os.path.join(HERE, "merges.txt.gz"), "rt", encoding="utf-8") as f:
    merges = [line.rstrip("\n") for line in f]


def vocabulary(merges):
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    words = letters + [c + "</w>" for c in letters] + ["".join(m.split()) for m in merges]
    return {w: i for i, w in enumerate(words + ["<|startoftext|>", "<|endoftext|>"])}


def write(folder, merges):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump(vocabulary(merges), f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(m + "\n" for m in merges))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"}, f)


rng = random.Random(7)
prompts = ["", " ", "\n\t ", "a photo of a cat", "A  PHOTO,of  a\ncat!!", "it's they're we've I'm you'll he'd 'tis don't DON'T", "'s't're've'm'll'd", "''s", "!'s",
           "3.14 42nd 1234567890 ½ ² ٣ Ⅷ", "café", "cafe\u0301", "ﬁne ﬂuff ㎏", "İstanbul ıI ẞß ΑΣ Σσς ǅ", "e\u0301\u0302\u0323x", "\u200bzero\u200dwidth\ufeff", "nbsp\u00a0here\u2003em\u3000ideo",
           "emoji 😀👍🏽👩‍👩‍👧‍👦🇩🇪❤️", "日本語のテキスト 東京タワー", "한국어 텍스트", "中文，标点。", "עברית ועוד", "العربية ١٢٣", "हिन्दी क्षत्रिय", "ไทย", "Привет, мир!", "ελληνικά",
           "<|endoftext|>", "a <|startoftext|> b <|endoftext|>c", "<|ENDOFTEXT|>", "<|endoftext", "&amp; &lt;b&gt; &#39;", "http://example.com/?a=b&c=d#e", "snake_case camelCase kebab-case",
           "(word:1.2) [less] ((more))", "a,b;c:d.e!f?g", "...", "—–-", "“quotes” ‘single’", "tab\tsep", "null\u0000byte", "\u0007bell\u001b[0m", "\ud7ff\ue000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝒶𝓃𝒸𝓎", "Å Å", "\u1e9b\u0323",
           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "word " * 120, "☃" * 90]
WORDS = """a an the of in on with and portrait landscape cat dog castle dragon robot forest sunset highly detailed oil painting by artist trending 4k 8k masterpiece
best quality cinematic lighting bokeh f/1.8 35mm isometric low-poly watercolor sketch cyberpunk steampunk baroque neon rain fog mountain river ocean
woman man child astronaut riding horse mars photorealistic unreal engine octane render ultra-wide""".split()
while len(prompts) < 380:
    n = rng.randint(1, 40)
    sep = rng.choice([" ", ", ", " ", ",", "  "])
    prompts.append(sep.join(rng.choice(WORDS).title() if rng.random() < 0.2 else rng.choice(WORDS) for _ in range(n)))
RANGES = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0x97f), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x20a0, 0x214f), (0x2190, 0x27bf),
          (0x3040, 0x30ff), (0x4e00, 0x4fff), (0xac00, 0xaeff), (0xfb00, 0xfb4f), (0xff00, 0xffef), (0x1f300, 0x1f6ff), (0x1f900, 0x1f9ff)]
while len(prompts) < 500:
    text = ""
    for _ in range(rng.randint(1, 25)):
        lo, hi = rng.choice(RANGES)
        text += chr(rng.randint(lo, hi)) + (" " if rng.random() < 0.2 else "")
    prompts.append(text)

with tempfile.TemporaryDirectory() as d:
    write(d, merges)
    full = CLIPTokenizer.from_pretrained(d)
    small = os.path.join(OUT, "small")
    write(small, merges[:1000 - 514])
    few = CLIPTokenizer.from_pretrained(small)
    five = os.path.join(OUT, "small5")
    shutil.rmtree(five, ignore_errors=True)
    few.save_pretrained(five)
    with open(os.path.join(OUT, "prompts.jsonl"), "w", encoding="utf-8") as f:
        for text in prompts:
            row = {"text": text, "ids": full(text, add_special_tokens=False).input_ids,
                   "padded": full(text, padding="max_length", max_length=77, truncation=True).input_ids, "small": few(text, add_special_tokens=False).input_ids}
            f.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")
print(transformers.__version__, len(prompts), full.pad_token_id)
