#!/usr/bin/env python3
"""Makes the test tokenizers of this folder and their cases with the reference library (pip install tokenizers).

For each shape of tokenizer.json that makers of models use: NAME.tokenizer.json and NAME.cases.json. The texts are in
texts.json; a case is [index of the text, ids, ids with special tokens, decoded, decoded without special tokens], where
null stands for "the same as" the ids, the text, the decoded text. Only needed to make the files anew:
    python3 tests/data/tokenizers/make.py
"""
import copy
import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
    "Once upon a time there was a little girl who lived in a village near the forest.",
    "I'm sure you're right; they'll say we've won, don't they? He'd go if she'd go.",
    "In 1984, 3.14159 and 2,718 were numbers; 100% of 12345678 is 12345678.",
    "def main(argc, argv):\n    for i in range(10):\n        print(i, end='\\n')\n    return 0\n",
    "int main(void)\r\n{\r\n\tprintf(\"hello, world\\n\");\r\n\treturn 0;\r\n}\r\n",
    "Über die Brücke gehen – schöne Grüße aus München, ß und Ä.",
    "Ça va très bien, merci; l'été dernier à la plage, œuvre naïve.",
    "Привет, мир! Как дела? Всё хорошо, спасибо.",
    "你好,世界。今天天气很好,我们去公园吧。", "こんにちは世界。カタカナとひらがなと漢字。", "안녕하세요 세계, 오늘 날씨가 좋네요.",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣", "שלום עולם, מה שלומך?", "नमस्ते दुनिया, आप कैसे हैं? १२३", "สวัสดีชาวโลก วันนี้อากาศดี",
    "😀 🎉 👩‍👩‍👧‍👦 🇩🇪 ❤️ 👍🏽", "x = (a + b) * c / d - e ** 2; y != z && !w || v >= u",
    "https://example.org/path?query=1&other=two#fragment user@example.org",
]

SNIPPETS = CORPUS + [
    " ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\x00", "\x01\x1f\x7f", "\x85", "\xa0", "\u1680", "\u180e",
    "\u2003", "\u2028", "\u200b", "\u200d", "\u202f", "\u3000", "\ufeff", "\ufffd", "\ufffe", "é", "e\u0301", "ﬁ", "①②", "Ⅷ", "½", "ⓐ", "ǅ", "İ", "ſ", "Å",
    "가", "\u1112\u1161\u11ab", "각", "が", "か\u3099", "ﷺ", "㍿", "\u0345\u0301\u0323", "a\u0323\u0301", "a\u0301\u0323", "٣", "१", "〇", "𝟘", "𝔸", "𐍈",
    "_", "__init__", "a_b", "...", "---", "``", "«»", "¿¡", "。、", "'s", "'S", "’s", "'LL", "'ve", "''", "\"", "$5.00", "€", "^", "+=<>|~`", "\\", "0", "007", "1234", "12345678901",
    "▁", "▁▁", "▁a", "Ġ", "Ċ", "<0x41>", "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im", "<tool>", "<tool_call>", "word", "words", "[DAY]", "[day]", "MASK", "MASKED", "-MASK-",
    "the", "The", "THE", "camelCaseWord", "ALLCAPS", "aaaaaaaaaa", "ababababab", "ab", "zzzz", "hello", "Hello World",
]

ADDED = [  # content, special, lstrip, rstrip, single_word, normalized
    ("<|im_start|>", True, False, False, False, False), ("<|im_end|>", True, False, False, False, False), ("<tool>", False, False, False, False, True),
    ("<tool_call>", False, False, False, False, False), ("[DAY]", False, True, False, False, True), ("MASK", True, True, True, True, False),
    ("word", False, False, False, True, True), ("  ", False, False, False, False, False),
]

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?"
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"


def split(pattern, behavior="isolated", invert=False, string=False):
    return pre_tokenizers.Split(pattern if string else Regex(pattern), behavior, invert)


def train(normalizer, pre_tokenizer, alphabet, size=480, model=None, specials=(), **options):
    tokenizer = Tokenizer(model or models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False, **options)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return json.loads(tokenizer.to_str())


def finish(data, decoder=None, template=None, added=ADDED, **model):
    """Adds what trainers do not write: added tokens with all their flags, decoder, template, options of the model."""
    data = copy.deepcopy(data)
    vocab = data["model"]["vocab"]
    have = {token["content"] for token in data["added_tokens"]}
    following = max(vocab.values()) + 1
    for content, special, lstrip, rstrip, single, normalized in added:
        if content in have:
            continue
        token_id = vocab.get(content, following)
        following += token_id == following
        data["added_tokens"].append({"id": token_id, "content": content, "single_word": single, "lstrip": lstrip, "rstrip": rstrip,
                                     "normalized": normalized, "special": special})
    data["model"].update(model)
    data["decoder"] = json.loads(decoder.__getstate__()) if decoder else None
    if template:
        ids = {token["content"]: token["id"] for token in data["added_tokens"]}
        pieces = [{"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}} for name in template]
        processing = {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}],
                      "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in template if name != "A"}}
        data["post_processor"] = processing
    return data


def byte_level_of(normalizer, *steps, prefix=False, use_regex=False, decoder=None, template=None, added=ADDED, size=480, **model):
    steps = list(steps) + [pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)]
    pre = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    data = train(normalizer, pre, pre_tokenizers.ByteLevel.alphabet(), size)
    return finish(data, decoder or decoders.ByteLevel(), template, added, **model)


def pieces_of(normalizer, pre, decoder, template=None, added=ADDED, specials=("<unk>", "<s>", "</s>"), size=560, byte_tokens=True, **model):
    specials = list(specials) + (["<0x%02X>" % i for i in range(256)] if byte_tokens else [])
    data = train(normalizer, pre, [], size + (0 if byte_tokens else -200), models.BPE(unk_token="<unk>"), specials)
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    return finish(data, decoder, template, added, **{"byte_fallback": byte_tokens, "fuse_unk": True, **model})


def legacy_merges(data):
    """Merges as strings, as files of older versions have them."""
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    return data


def shapes():
    P, N, D = pre_tokenizers, normalizers, decoders
    llama_decoder = D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    yield "gpt2", legacy_merges(byte_level_of(None, use_regex=True, prefix=False, added=ADDED[:3]))
    yield "gpt2_prefix", byte_level_of(None, use_regex=True, prefix=True)
    yield "llama3", byte_level_of(None, split(GPT4), template=["<|im_start|>", "A"], ignore_merges=True)
    yield "qwen2", byte_level_of(N.NFC(), split(QWEN))
    yield "o200k", byte_level_of(None, split(O200K), added=ADDED[:2])
    yield "kimi", byte_level_of(None, split(KIMI), added=ADDED[:4])
    yield "cl100k", byte_level_of(None, split(CL100K), template=["<|im_start|>", "A", "<|im_end|>"])
    yield "deepseek", byte_level_of(
        N.Sequence([]), split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
        split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), added=ADDED[:5])
    yield "deepseek_llm", byte_level_of(
        None, split("[\r\n]"), split("\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+"), split("\\s?[!-/:-~！-／：-～‘-‟　-。]+"), split("\\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"), P.Digits(individual_digits=True), added=ADDED[:5])
    yield "starcoder", byte_level_of(None, P.Digits(individual_digits=True), use_regex=True)
    yield "digits_contiguous", byte_level_of(N.NFKC(), P.Digits(individual_digits=False), use_regex=True, added=ADDED[:4])
    yield "punctuation", byte_level_of(N.NFD(), P.Punctuation("merged_with_previous"), split(" ", "merged_with_next", string=True))
    yield "behaviors", byte_level_of(N.NFKD(), split(r"[aeiou]+", "contiguous"), split(r"\d", "merged_with_previous"), split(r"\w+", "isolated", True), split(r"\W", "contiguous", True))
    yield "removed", byte_level_of(N.Sequence([N.Strip(True, False), N.Lowercase(), N.NFC()]), split(r"\s+", "removed"), split("-", "removed", string=True), use_regex=True)
    yield "llama2", legacy_merges(pieces_of(N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None, llama_decoder, ["<s>", "A"], size=520))
    yield "llama2_plain", pieces_of(N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None, llama_decoder, ["<s>", "A", "</s>"], added=[], size=520)
    yield "mistral", pieces_of(None, P.Metaspace("▁", "first", False), D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]), ["<s>", "A"], size=520)
    yield "metaspace_always", pieces_of(N.NFKC(), P.Metaspace("▁", "always", True), D.Sequence([D.ByteFallback(), D.Metaspace("▁", "always", True)]), added=ADDED[:6])
    yield "metaspace_never", pieces_of(N.Strip(True, True), P.Sequence([P.Digits(True), P.Metaspace("▁", "never", True)]), D.Metaspace("▁", "never", True), byte_tokens=False, fuse_unk=False)
    yield "metaspace_first", pieces_of(N.Sequence([N.Strip(True, False)]), P.Sequence([split("-", "isolated", string=True), P.Metaspace("▁", "first", True)]), D.Metaspace("▁", "first", True))
    yield "gemma", pieces_of(N.Replace(" ", "▁"), split(" ", "merged_with_previous", string=True), D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse()]), ["<s>", "A"])
    yield "whitespace", pieces_of(N.Sequence([N.Replace(Regex("[0-9]+"), "#"), N.Lowercase()]), P.Whitespace(), None, byte_tokens=False, fuse_unk=True, added=ADDED[:6])
    yield "whitespace_split", pieces_of(N.Lowercase(), P.Sequence([P.WhitespaceSplit(), P.Punctuation("removed")]), D.Fuse(), byte_tokens=False, fuse_unk=False, added=ADDED[2:7])
    affixes = train(None, P.Whitespace(), [], 420, models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"), ["<unk>"],
                    continuing_subword_prefix="##", end_of_word_suffix="</w>")
    yield "affixes", finish(affixes, D.Fuse(), None, ADDED[:4])
    bare = train(None, P.ByteLevel(add_prefix_space=False, use_regex=True), [], 300)
    yield "incomplete_alphabet", finish(bare, D.ByteLevel(), None, ADDED[:2])


def random_text(generator, limit=6):
    parts = []
    for _ in range(generator.randint(1, limit)):
        kind = generator.random()
        snippet = generator.choice(SNIPPETS)
        if kind < 0.55:
            parts.append(snippet)
        elif kind < 0.75:
            start = generator.randrange(len(snippet))
            parts.append(snippet[start:start + generator.randint(1, 12)])
        elif kind < 0.85:
            parts.append(generator.choice([" ", "\n", "\t", "a", "ab", "\r\n", "é", "0", "▁", "世"]) * generator.randint(1, 20))
        elif kind < 0.95:
            block = generator.choice([0x20, 0x80, 0x100, 0x300, 0x370, 0x590, 0x900, 0x1100, 0x2000, 0x2100, 0x3000, 0x4e00, 0xac00, 0xfe00, 0x1d400, 0x1f300])
            parts.append("".join(chr(block + generator.randrange(0x100)) for _ in range(generator.randint(1, 6))))
        else:
            parts.append("".join(chr(c) for c in (generator.randrange(0x110000) for _ in range(3)) if not 0xd800 <= c < 0xe000))
        if generator.random() < 0.4:
            parts.append(" ")
    return "".join(parts)


def write(name, data, **options):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=True, separators=(",", ":"), **options)
        file.write("\n")


def main():
    generator = random.Random(20240229)
    texts = list(dict.fromkeys(["", *SNIPPETS, *(random_text(generator) for _ in range(90))]))
    write("texts.json", texts)
    total = 0
    for name, data in shapes():
        tokenizer = Tokenizer.from_str(json.dumps(data))
        cases = []
        for index, text in enumerate(texts):
            if index % 3 == total % 3 and index > 150:
                continue
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            special = tokenizer.encode(text).ids
            decoded = tokenizer.decode(special, skip_special_tokens=False)
            skipped = tokenizer.decode(special, skip_special_tokens=True)
            cases.append([index, ids, None if special == ids else special, None if decoded == text else decoded, None if skipped == decoded else skipped])
        write(name + ".tokenizer.json", data)
        write(name + ".cases.json", cases)
        total += len(cases)
    print(total, "cases")


if __name__ == "__main__":
    main()
