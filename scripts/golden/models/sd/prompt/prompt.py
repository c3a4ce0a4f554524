"""Tokens of transformers' CLIPTokenizer, for models/sd/prompt:

    python scripts/golden/models/sd/prompt/prompt.py     writes models/sd/prompt/testdata/

Its vocabulary is made of the merges in models/sd/prompt/merges.txt.gz, as OpenAI's CLIP makes it. small/ is a tokenizer of 1000 tokens in
the form of older models, small5/ the same as transformers 5 writes it. prompts.jsonl.gz has 500 texts: ids of the full vocabulary with
"!" as pad token (and with EOS, where they differ), CRC-32 of the padded and cut texts in both, what was cut off, ids of the small one.
folders.json has small files that folders can have beside small/'s, and what they do. unicode.json has the kind of every character for
the tokenizer (letter, number, space, other) and a hash of what it normalizes them to, among marks.
"""
import gzip
import hashlib
import json
import os
import random
import shutil
import tempfile
import zlib

import tokenizers
import transformers
from tokenizers import Regex, pre_tokenizers
from transformers import CLIPTokenizer

HERE = os.path.join(os.path.abspath(__file__).partition("/scripts/golden/")[0], "models", "sd", "prompt")
OUT = os.path.join(HERE, "testdata")
with gzip.open(os.path.join(HERE, "merges.txt.gz"), "rt", encoding="utf-8") as f:
    merges = [line.rstrip("\n") for line in f]


def vocabulary(merges):
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    words = letters + [c + "</w>" for c in letters] + ["".join(m.split()) for m in merges]
    return {w: i for i, w in enumerate(words + ["<|startoftext|>", "<|endoftext|>"])}


def write(folder, merges, **config):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
        json.dump(vocabulary(merges), f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(m + "\n" for m in merges))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!", **config}, f)


rng = random.Random(7)
prompts = ["", " ", "\n\t ", "a photo of a cat", "A  PHOTO,of  a\ncat!!", "it's they're we've I'm you'll he'd 'tis don't DON'T", "'s't're've'm'll'd", "''s", "!'s",
           "3.14 42nd 1234567890 ½ ² ٣ Ⅷ", "café", "cafe\u0301", "ﬁne ﬂuff ㎏", "İstanbul ıI ẞß ΑΣ Σσς ǅ", "e\u0301\u0302\u0323x", "\u200bzero\u200dwidth\ufeff", "nbsp\u00a0here\u2003em\u3000ideo",
           "emoji 😀👍🏽👩‍👩‍👧‍👦🇩🇪❤️", "日本語のテキスト 東京タワー", "한국어 텍스트", "中文，标点。", "עברית ועוד", "العربية ١٢٣", "हिन्दी क्षत्रिय", "ไทย", "Привет, мир!", "ελληνικά",
           "<|endoftext|>", "a <|startoftext|> b <|endoftext|>c", "<|ENDOFTEXT|>", "<|endoftext", "&amp; &lt;b&gt; &#39;", "http://example.com/?a=b&c=d#e", "snake_case camelCase kebab-case",
           "(word:1.2) [less] ((more))", "a,b;c:d.e!f?g", "...", "—–-", "“quotes” ‘single’", "tab\tsep", "null\u0000byte", "\u0007bell\u001b[0m", "\ud7ff\ue000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒻𝒶𝓃𝒸𝓎", "Å Å", "\u1e9b\u0323",
           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "word " * 120, "☃" * 90,
           "z" + "\u0301\u0316" * 20 + "e\u0301", "a" + "\u0316\u0315\u0301" * 11, "\u0344" * 12 + "x", "가" + "\u0301" * 33, "각" + "\u0f73" * 11, "\u0301" * 40,
           "<|StartOfText|>!!", "!!<|startoftext|>!!", "<|endof\ntext|>", "hello! wow!!", " ! ", "x<|endoftext|>!<|endoftext|>", "a\r\nb\x85c\u2028d", "\ufeffbom",
           "Å\u0323 \u212b \u2126 \ufb1d \u0958", "\U00010d50\U0001e900\U00010400", "\U0002ebf0漢\U0002ee5d", "1\U0001ccf02", "it’s ‘s it`s", "I'M YOU'RE 'LL", "'ſ 'S",
           "👨‍👩‍👧‍👦 " * 20, "日本語の文章がここにとても長く続いています。" * 6, "שלום עולם " * 15, "supercalifragilisticexpialidocious" * 9, "</w> a</w>b", "Ġword ĊX ģ",
           "&nbsp;&copy;&#x1F600; <br/> &amp;amp;", "\u202eabc\u202c \u061c\u2066x\u2069", "\u0000\u0001\u007f\u009f", "ﷺ ﷽", "½¾ ①②③ 〇一二三 ১২৩ ௧", "ǅǆ Ǳ ᾈ ẞ Ϲ ϴ K"]
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

VERSIONS = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
os.makedirs(OUT, exist_ok=True)


def dump(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=None, separators=(",", ":"))
        f.write("\n")


def crc(ids):
    return "%08x" % zlib.crc32(" ".join(map(str, ids)).encode())


def framed(tokenizer, text):
    return tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids


with tempfile.TemporaryDirectory() as d:
    write(d, merges)
    full = CLIPTokenizer.from_pretrained(d)
    write(d, merges, pad_token="<|endoftext|>")
    ends = CLIPTokenizer.from_pretrained(d)
small = os.path.join(OUT, "small")
write(small, merges[:1000 - 514])
few = CLIPTokenizer.from_pretrained(small)
five = os.path.join(OUT, "small5")
shutil.rmtree(five, ignore_errors=True)
few.save_pretrained(five)
with open(os.path.join(OUT, "prompts.jsonl.gz"), "wb") as out, gzip.GzipFile("", "wb", mtime=0, fileobj=out) as f:
    f.write(json.dumps(VERSIONS).encode() + b"\n")
    for text in prompts:
        ids, plain = full(text, add_special_tokens=False).input_ids, ends(text, add_special_tokens=False).input_ids
        row = {"text": text, "ids": ids, "padded": crc(framed(full, text)), "ends": crc(framed(ends, text)),
               "small": crc(few(text, add_special_tokens=False).input_ids)}
        if plain != ids:
            row["plain"] = plain
        if len(plain) > 75:  # as StableDiffusionPipeline tells what it did not see
            row["cut"] = ends.batch_decode([ends(text).input_ids[76:-1]])[0]
        f.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def token(content, normalized, **more):
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False, **more}


def typed(content):
    return dict(token(content, True), __type="AddedToken")


WORDS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS}
OBJECTS = {"bos_token": token(BOS, True), "eos_token": token(EOS, True), "unk_token": token(EOS, True)}
FOLDERS = {
    "no config": {},
    "words": {"tokenizer_config.json": {**WORDS, "pad_token": EOS, "model_max_length": 77}},
    "stable diffusion 1.5": {
        "tokenizer_config.json": {"bos_token": typed(BOS), "eos_token": typed(EOS), "unk_token": typed(EOS), "pad_token": EOS,
                                  "add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77},
        "special_tokens_map.json": {**OBJECTS, "pad_token": EOS}},
    "xl's second": {
        "tokenizer_config.json": {**WORDS, "pad_token": "!", "model_max_length": 77, "added_tokens_decoder": {
            "0": token("!", False, special=True), "998": token(BOS, True, special=True), "999": token(EOS, True, special=True)}},
        "special_tokens_map.json": {**OBJECTS, "pad_token": "!"}},
    "the map counts more": {"tokenizer_config.json": {**WORDS, "pad_token": EOS, "model_max_length": 20},
                            "special_tokens_map.json": {**WORDS, "pad_token": "a"}},
    "unless there is a decoder": {
        "tokenizer_config.json": {**WORDS, "pad_token": EOS, "added_tokens_decoder": {
            "998": token(BOS, False, special=True), "999": token(EOS, False, special=True)}, "model_max_length": 9},
        "special_tokens_map.json": {**OBJECTS, "pad_token": "a"}},
    "objects without what pads": {"special_tokens_map.json": OBJECTS},
    "what is unknown is an object": {"special_tokens_map.json": {**WORDS, "unk_token": token(EOS, True), "pad_token": EOS}},
    "an object between others": {"special_tokens_map.json": {"eos_token": token(EOS, False), "unk_token": token(EOS, True), "pad_token": token(EOS, False)}},
    "the map's words for objects": {"tokenizer_config.json": {"bos_token": typed(BOS), "eos_token": typed(EOS), "unk_token": typed(EOS)},
                                    "special_tokens_map.json": {**WORDS, "pad_token": EOS}},
    "added": {"tokenizer_config.json": {**WORDS, "pad_token": EOS, "model_max_length": 77},
              "added_tokens.json": {"<Cat-Toy>": 1000, "<cat-toy>_1": 1001}},
    "added in the decoder": {
        "tokenizer_config.json": {**WORDS, "pad_token": EOS, "model_max_length": 77, "added_tokens_decoder": {
            "998": token(BOS, True, special=True), "999": token(EOS, True, special=True), "1000": token("<Cat-Toy>", False, special=False),
            "1001": token("É x", True, special=False)}}},
}
TEXTS = ["hello! wow!!", "a <|endoftext|> b", "a <|ENDOFTEXT|> b", "<|StartOfText|>x", "<|endof\ntext|>", "a a b A", "a <Cat-Toy> here", "a <cat-toy>x",
         "<cat-toy>_1 <CAT-TOY>_1", "e\u0301  X, \u00c9 x", "caf\u00e9 xx", "a b c d e f g h i j k l m n o p q r s t u v w x y z"]
folders = []
for name, files in FOLDERS.items():
    with tempfile.TemporaryDirectory() as d:
        write(d, merges[:1000 - 514])
        os.remove(os.path.join(d, "tokenizer_config.json"))
        for file, content in files.items():
            with open(os.path.join(d, file), "w", encoding="utf-8") as f:
                json.dump(content, f)
        t = CLIPTokenizer.from_pretrained(d)
        most = t.model_max_length if t.model_max_length < 1000 else 77
        folders.append({"name": name, "files": files, "pad": t.pad_token_id, "max": most, "size": len(t),
                        "ids": {text: t(text, add_special_tokens=False).input_ids for text in TEXTS},
                        "padded": {text: t(text, padding="max_length", max_length=most, truncation=True).input_ids for text in TEXTS[-1:]}})
dump("folders.json", {**VERSIONS, "folders": folders})

normalizer = full.backend_tokenizer.normalizer
kinds = [(k, pre_tokenizers.Split(Regex(r), "removed")) for k, r in (("l", r"\p{L}"), ("n", r"\p{N}"), ("s", r"\s"))]
runs, last, digest = [], "", hashlib.sha256()
for i in range(0x110000):
    if 0xD800 <= i < 0xE000:
        continue
    kind = next((k for k, split in kinds if not split.pre_tokenize_str(chr(i))), "o")
    if kind != last:
        runs.append("%x%s" % (i, "lnso".index(kind)))
        last = kind
    digest.update(normalizer.normalize_str("a\u0345" + chr(i) + "\u0334" + chr(i) + "\u0301a").encode())
dump("unicode.json", {**VERSIONS, "kinds": "lnso", "runs": " ".join(runs), "normalized": digest.hexdigest()})
print(VERSIONS, len(prompts), full.pad_token_id)
