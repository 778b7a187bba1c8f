#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""make - the tokenizers of this folder, and what Hugging Face's tokenizers make of some texts.

    python3 tests/reference/tokenizers/make.py        needs the package `tokenizers` (0.23)

Each tokenizer is trained on the documents of this project and has the parts of a family in use; cases.json has, for every
text and tokenizer, the ids of encode(text, add_special_tokens=False).
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def special(text, **more):
    return AddedToken(text, special=True, normalized=False, **more)


def corpus():
    paths = sorted(path for folder in ("docs", "man", "base") for path in (ROOT / folder).glob("*") if path.suffix in (".md", ".in", ".h"))
    return [path.read_text(encoding="utf-8") for path in paths] + TEXTS * 3


def byte_level(normalizer=None, stages=None, size=500, prefix=False, ignore_merges=False, added=("<|endoftext|>",)):
    """A model of bytes: ByteLevel with its own pattern, or behind stages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=stages is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*stages, last]) if stages else last
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([token if isinstance(token, AddedToken) else special(token) for token in added])
    if ignore_merges:
        shape = json.loads(tokenizer.to_str())
        shape["model"]["ignore_merges"] = True
        # A token that no merges make: it is found as a whole alone.
        shape["model"]["merges"] = [merge for merge in shape["model"]["merges"] if "".join(merge) != "Ġthe"]
        tokenizer = Tokenizer.from_str(json.dumps(shape))
    return tokenizer


def sentencepiece(metaspace=None, size=500, alphabet=120):
    """A model of characters: with Llama 2's normalizer and no pre-tokenizer, or with Metaspace."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = metaspace or pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size + 259, special_tokens=names, limit_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in corpus()], trainer)
    shape = json.loads(tokenizer.to_str())
    shape["added_tokens"] = [token for token in shape["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(shape))
    strip = decoders.Strip(content=" ", left=1, right=0)
    if metaspace is None:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


def odd():
    """Every behaviour of Split, and added tokens with every flag."""
    stages = [pre_tokenizers.Split(Regex(r"\d+"), "merged_with_previous"), pre_tokenizers.Split(Regex(r"[,;]"), "merged_with_next"),
              pre_tokenizers.Split(Regex(r"\s"), "contiguous"), pre_tokenizers.Split("q", "removed"),
              pre_tokenizers.Split(Regex(r"[a-z]+"), "isolated", invert=True)]
    added = [AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True), AddedToken("<w>", single_word=True),
             AddedToken("<both>", lstrip=True, rstrip=True), special("<|end|>"), special("<|end|><|end|>"), AddedToken("e\u0301t"),
             AddedToken("word", single_word=True, normalized=False)]
    return byte_level(normalizers.NFC(), stages, size=300, added=added)


def unknown():
    """Characters without a token, not fused, of a model that has no bytes to fall back to."""
    tokenizer = sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), size=60, alphabet=60)
    shape = json.loads(tokenizer.to_str())
    shape["model"] |= {"byte_fallback": False, "fuse_unk": False}
    return Tokenizer.from_str(json.dumps(shape))


TEXTS = [
    "", " ", "\n", "a", "Hello, world!", "  leading and trailing  ", "I'm you're he'll they'd WE'VE don'T it's 'tis 's",
    "tabs\tand\r\nlines\n\n\n  indented\n\ttoo \n", "numbers 1 12 123 1234 12345 3.14159 0x1F 1e-9 ½ ² ٣٤",
    "snake_case camelCase ALLCAPS MiXeD x86_64 a.b.c --option=value <tag attr=\"v\">", "for (int i = 0; i < n; i++) {\n    x[i] += 1;\n}\n",
    "naïve café résumé — “quotes” … ünïcödé ÀÉÎ", "cafe\u0301 e\u0301t A\u030a o\u0308 q\u0307\u0323 \u1100\u1161\u11a8 \u212b \uf900",
    "Привет, мир! Ёлка", "你好,世界。\u3000全角\u3000空格", "日本語のテキスト カタカナ", "한국어 텍스트", "العربية ١٢٣ עברית", "हिन्दी ค่ะ",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 👍🏽 ok", "zero\u200bwidth\u200d\u200c joiner\ufeff bom\u2060", "spaces\u00a0nbsp\u2003em\u2009thin\u202fnarrow\u180emongol\u1680ogham",
    "line\u2028sep\u2029par\x85nel\x0bvt\x0cff\x1cfs\x1fus", "\x00\x01\x02\x7f controls \x1b[0m", "\u0130\u0131 ſs 'ſ K 'Ll \u212a", "a" * 300, " " * 70 + "x",
    "\n" * 40 + "y", "ab" * 200, "!?" * 60, "the the the\nthe\tthe", "...,,,;;;:::---___***###", "1,234,567.89 q1w2e3;r4,t5",
    "<|endoftext|>", "before<|endoftext|>after", " <|endoftext|> <|endoftext|>\n", "<|endoftext", "</s><s> <unk>x</s>",
    "a <l> b  <l>c <r>  d <both>  \n e<w>f <w> g.<w>.<w>", "<|end|><|end|><|end|>x <|end|>", "word words word-word (word) éword word\u0301",
    "<0x41> ▁ ▁▁x literal <0xZZ>", "tail newline\n", "two\n\nparagraphs\n\nhere", "mixed\r\n \r\n\r x", "한\u0308 \U0001F600\u0301 \U000E0001 \U0010FFFF",
    "x\u0301\u0323y\u0323\u0301", "Ωmega ΑΣ ς ǅ ǆ ﬁ ﬂ ß ẞ", "① ⑳ Ⅷ ⅷ 〇 ㊿ ⓐ Ⓩ", "௧ ⑴ ᛮ ៰", "http://user:pw@host:80/p?q=1&r=%20#f", "C:\\path\\n \\u0041 $HOME `x`",
    "It was the best of times,\nit was the worst of times,\n\tit was the age of wisdom...\n\n\n", "don\u2019t \u2018quote\u2019",
]

SPLIT = pre_tokenizers.Split
TOKENIZERS = {
    "gpt2": lambda: byte_level(size=900),
    "prefix": lambda: byte_level(size=300, prefix=True),
    "llama3": lambda: byte_level(None, [SPLIT(Regex(LLAMA3), "isolated")], size=700, ignore_merges=True,
                                 added=("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")),
    "qwen": lambda: byte_level(normalizers.NFC(), [SPLIT(Regex(QWEN), "isolated")], size=400),
    "o200k": lambda: byte_level(None, [SPLIT(Regex(O200K), "removed", invert=True)], size=400),
    "deepseek": lambda: byte_level(None, [SPLIT(Regex(r"\p{N}{1,3}"), "isolated"), SPLIT(Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
                                          SPLIT(Regex(DEEPSEEK), "isolated")], size=400),
    "starcoder": lambda: byte_level(None, [pre_tokenizers.Digits(individual_digits=True), SPLIT(Regex(r"\s*\w+|[^\w\s]+"), "isolated")], size=320),
    "llama2": sentencepiece,
    "mistral": lambda: sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=True), size=400),
    "unknown": unknown,
    "odd": odd,
}


def compact(tokenizer, one_text):
    """Merges are texts of two words in older files, and pairs in newer ones."""
    shape = json.loads(tokenizer.to_str())
    if one_text:
        shape["model"]["merges"] = [" ".join(merge) for merge in shape["model"]["merges"]]
    return json.dumps(shape, ensure_ascii=False, separators=(",", ":")) + "\n"


def main():
    cases = [{"text": text, "ids": {}} for text in TEXTS]
    for number, (name, make) in enumerate(TOKENIZERS.items()):
        text = compact(make(), one_text=number % 2 == 0)
        (HERE / f"{name}.json").write_text(text, encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
        for case in cases:
            case["ids"][name] = tokenizer.encode(case["text"], add_special_tokens=False).ids
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, {len(text.encode())} bytes")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
