"""Compares meft's tokenizers with transformers' own, id for id: what the files beside a vocabulary change.

transformers_peer.py PROGRAM

PROGRAM is tokenizer_peer, built from tokenizer_peer.cpp. Seventeen folders, each a family with options of its own, are
written here with vocabularies made here, and opened by AutoTokenizer, with use_fast and without. 2,000 hostile lines
from a seed go through each, alone, and as pairs cut to a length. Exit status 1: ids or token types differ.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import transformers
from tokenizers import models, pre_tokenizers, trainers
from tokenizers import Tokenizer

import bpe_peer
import tokenizer_peer as base

LINES = 2000
MIXED = ("[MASK] [mask] [CLS][SEP] [PAD] [UNK] <mask> <s> </s> <pad> <unk> <|endoftext|> <new> <NEW> New new <m> <e1> "
         "<E1> İ I i ı ß ẞ ﬀ ﬁ ǆ Ǆ ŉ ΐ ς Σ ΣΑΣ ŸŸ é É e\u0301 \u0130\u0307 \u1e9e \ufb01 Å \u212b \u2126 中 中文 𠀀 가 "
         "각 \u1112\u1161\u11ab שָׁלוֹם \u202eabc\u202c العربية \u061c 👨\u200d👩\u200d👧 👍🏽 🇩🇪 ❤\ufe0f \U000e0041 "
         "\u0378 \U0003fffe \ufffd\ufffd \ufdd0 \u00ad \u200b \x00 \x01\x1f \x7f \x85 \ue000 don't y'all 1,000.5 "
         ).split(" ")
SPACES = base.SPACES + ["\x00", "\u2029", "\u202f", "\u205f", "\x1c", "\x1f", "\n\n"]


def hostile_lines(rng):
    out = list(base.hostile_lines(LINES // 4, rng)) + list(bpe_peer.hostile_lines(LINES // 4, rng))
    out = [line[:600] for line in rng.sample(out, LINES // 2)]
    while len(out) < LINES:
        some = (rng.choice(MIXED if rng.random() < 0.7 else base.WORDS) + rng.choice(SPACES)
                for _ in range(rng.randrange(1, 24)))
        line = "".join(some)
        if rng.random() < 0.2:
            line = line.upper() if rng.random() < 0.5 else line.title()
        if rng.random() < 0.02:
            line += rng.choice("aÉ中x") * rng.randrange(95, 130)
        out.append(line.encode(errors="replace"))
    rng.shuffle(out)
    return out


def pieces(lines):
    """Every character of the lines, as it is and taken apart, and some words: little hides in [UNK]."""
    text = "".join(line.decode(errors="replace") for line in lines)
    seen = set(text) | set(text.lower()) | set(unicodedata.normalize("NFD", text)) | set("abcdefghijklmnopqrstuvwxyz")
    seen = sorted(c for c in seen if not c.isspace() and c != "\0")
    words = ["the", "movie", "New", "new", "un", "##aff", "##able", "caf", "##ment", "mask", "sep", "##es"]
    return list(dict.fromkeys([*base.SPECIALS, *words, *seen, *("##" + c for c in seen)]))


def merges_of(lines):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=256 + 600, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator((line.decode(errors="replace") for line in lines), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def token(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, **flags}


def numbered(tokens, vocab):
    """By id: the vocabulary's, or the next."""
    ids = dict(vocab)
    return {str(ids.setdefault(one["content"], len(ids))): one for one in tokens}


def option_sets(lines):
    """Names, files, and the kind of model."""
    wordpiece = pieces(lines)
    vocab = {t: i for i, t in enumerate(wordpiece)}
    text = "\n".join(wordpiece) + "\n"
    size = len(wordpiece)
    lower = base.tokenizer_json(vocab, base.options())
    new = {"id": size, **token("<new>", special=False, normalized=True)}

    yield "BERT, vocab.txt alone", "bert", {"vocab__txt": text}
    yield "BERT, tokenizer.json lowers, the config does not", "bert", {
        "tokenizer__json": lower, "tokenizer_config__json": {
            "tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True}}
    yield "BERT, accents and ideographs kept; mask named by the map, more special tokens", "bert", {
        "tokenizer__json": base.tokenizer_json(vocab, base.options(lower=False), [new]),
        "tokenizer_config__json": {"strip_accents": False, "tokenize_chinese_chars": False, "mask_token": "[MASK]"},
        "special_tokens_map__json": {"mask_token": token("<m>", lstrip=True), "unk_token": "[UNK]",
                                     "additional_special_tokens": ["<e1>", "[PAD]"]}}
    yield "BERT, doubled and blank lines, added_tokens.json, cut on the left", "bert", {
        "vocab__txt": "\r\n".join([*wordpiece[:40], "", "new", *wordpiece[40:], "mask \u3000", "e", "<new>"]) + "\r\n",
        "added_tokens__json": {"New": wordpiece.index("New") + 2 * (wordpiece.index("New") >= 40)},
        "tokenizer_config__json": {"truncation_side": "left", "model_max_length": 24}}
    flagged = [token("<new>", lstrip=True, rstrip=True, special=False), token("Σ", normalized=True, special=False),
               token("café", single_word=True, normalized=True, special=False), token("İ", single_word=True, special=True),
               token("[MASK]", lstrip=True, normalized=True, special=True), token("the", rstrip=True, special=False)]
    yield "BERT, added_tokens_decoder with every flag", "bert", {
        "vocab__txt": text, "special_tokens_map__json": {"mask_token": "movie"}, "tokenizer_config__json": {
            "tokenizer_class": "BertTokenizerFast", "added_tokens_decoder": numbered(flagged, vocab)}}
    yield "BERT, tokenizer.json as it stands, no token types, no mask", "bert", {
        "tokenizer__json": base.tokenizer_json(vocab, base.options(clean=False, accents=False), [new]),
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False,
                                   "add_prefix_space": True, "mask_token": None, "cls_token": "[CLS]",
                                   "pad_token": "<none>", "model_input_names": ["input_ids", "attention_mask"]}}

    mpnet = ["<s>", "<pad>", "</s>", "<unk>", *wordpiece, "<mask>"]
    yield "MPNet, tokenizer.json that keeps case, the config does not", "mpnet", {
        "tokenizer__json": base.tokenizer_json({t: i for i, t in enumerate(mpnet)}, base.options(lower=False)),
        "tokenizer_config__json": {"tokenizer_class": "MPNetTokenizer", "do_lower_case": True, "strip_accents": False,
                                   "mask_token": {"__type": "AddedToken", **token("<mask>", lstrip=True)}}}
    yield "MPNet, vocab.txt", "mpnet", {"vocab__txt": "\n".join(mpnet) + "\n",
                                        "tokenizer_config__json": {"tokenizer_class": "MPNetTokenizer", "mask_token": "<mask>"}}

    tokens, merges = merges_of(lines)
    family = ["<s>", "<pad>", "</s>", "<unk>", *tokens, "<mask>"]
    ids = {t: i for i, t in enumerate(family)}
    files = {"vocab__json": ids, "merges__txt": "#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n"}

    def whole(name, change=lambda content: None, prefix=False):
        content = json.loads(bpe_peer.family(name, tokens, merges, prefix)[0].to_str())
        change(content)
        return content

    def bert_processing(content):
        content["post_processor"] = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
        content["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}

    yield "RoBERTa, the config wants a prefix space", "roberta", {
        "tokenizer__json": whole("roberta"), "tokenizer_config__json": {
            "tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, "mask_token": "<mask>"}}
    yield "RoBERTa, vocab.json, normalized tokens, another separator", "roberta", {
        **files, "special_tokens_map__json": {
            "bos_token": token("<s>", normalized=True), "mask_token": token("<mask>", lstrip=True, normalized=True),
            "sep_token": "<unk>", "pad_token": "[PAD]"}}
    yield "RoBERTa, BertProcessing, tokenizer.json wants a prefix space and cuts on the left", "roberta", {
        "tokenizer__json": whole("roberta", bert_processing, prefix=True)}
    yield "BART, vocab.json, prefix space, added_tokens.json", "bart", {
        **files, "added_tokens__json": {"<new>": len(family), "New": ids.get("New", len(family) + 1)},
        "tokenizer_config__json": {"tokenizer_class": "BartTokenizer", "add_prefix_space": True}}
    opt = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "eos_token": "</s>", "unk_token": "</s>",
           "pad_token": "<pad>", "bos_token": {"__type": "AddedToken", **token("</s>", normalized=True)}}
    yield "OPT, vocab.json, bos in front", "opt", {**files, "tokenizer_config__json": opt}

    def fewer_bytes(content):
        rare = set(sorted(pre_tokenizers.ByteLevel.alphabet())[::5])
        kept = [t for t in family if t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>") or not rare & set(t)]
        content["model"] |= {"vocab": {t: i for i, t in enumerate(kept)}, "unk_token": "<unk>", "fuse_unk": True,
                             "merges": [list(m) for m in merges if "".join(m) in kept]}

    yield "OPT, tokenizer.json without some bytes, special tokens split", "opt", {
        "tokenizer__json": whole("opt", fewer_bytes), "tokenizer_config__json": {
            **opt, "split_special_tokens": True, "truncation_side": "left"}}

    def parted(content):
        digits = {"type": "Digits", "individual_digits": True}
        content["normalizer"] = {"type": "NFC"}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}

    yield "RoBERTa, tokenizer.json with digits apart and NFC", "roberta", {
        "tokenizer__json": whole("roberta", parted), "tokenizer_config__json": {"tokenizer_class": "RobertaTokenizer"}}
    named = {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": "<|im_end|>", "added_tokens_decoder": {
        str(len(family) + i): token(t, special=True) for i, t in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}}
    yield "Qwen2, vocab.json", "qwen2", {**files, "tokenizer_config__json": named}
    yield "Qwen3, vocab.json, no tokenizer_config.json", "qwen3", files


def ours(binary, folder, lines, *options):
    text = b"".join(line.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n" for line in lines)
    done = subprocess.run([binary, str(folder), "--escaped", "--types", *options], input=text, capture_output=True)
    if done.returncode:
        print(f"  exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return [[list(map(int, part.split())) for part in line.split("|")] for line in done.stdout.decode().splitlines()]


def theirs(tokenizer, first, second=None, length=None):
    cut = {} if length is None else {"truncation": True, "max_length": length}
    found = tokenizer(first, second, **cut)
    types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
    return [[ids, kinds] for ids, kinds in zip(found["input_ids"], types)]


def compare(title, lines, mine, expected):
    different = [i for i, (a, b) in enumerate(zip(mine, expected)) if a != b]
    failed = len(different) + abs(len(mine) - len(expected))
    for i in different[:2]:
        print(f"  {title}, line {i}: {lines[i]!r:.300}")
        print(f"    meft:         {mine[i]!s:.300}\n    transformers: {expected[i]!s:.300}")
    return failed


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    rng = random.Random(5)
    lines = hostile_lines(rng)
    texts = [line.decode(errors="replace") for line in lines]
    pairs = list(zip(texts[::2], texts[1::2]))
    failures = 0
    with tempfile.TemporaryDirectory() as parent:
        for number, (title, model, files) in enumerate(option_sets(lines)):
            began = time.process_time()
            files["config__json"] = {"model_type": model}
            folder = base.folder_with(pathlib.Path(parent), str(number), **files)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            slow = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
            failed = compare("alone", texts, ours(sys.argv[1], folder, lines, "--max-length", str(1 << 20)),
                             theirs(tokenizer, texts))
            length = rng.randrange(8, 40)
            mine = ours(sys.argv[1], folder, lines, "--pair", "--max-length", str(length))
            failed += compare(f"pairs cut to {length}", pairs, mine, theirs(tokenizer, texts[::2], texts[1::2], length))
            some = slice(0, 200)
            mine = ours(sys.argv[1], folder, lines[some], "--max-length", str(length))
            failed += compare(f"cut to {length}", texts, mine, theirs(slow, texts[some], None, length))
            failures += failed
            print(f"{'FAILED' if failed else 'ok'} {title}: {type(tokenizer).__name__}, {failed} differ "
                  f"({time.process_time() - began:.1f} s)", flush=True)
    print(f"compared with transformers {transformers.__version__}: {failures} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
