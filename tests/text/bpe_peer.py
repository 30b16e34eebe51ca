"""Compares meft's byte-level BPE, unigram, and decoding, with the PyPI package tokenizers, id for id.

bpe_peer.py PROGRAM [--full]

PROGRAM is tokenizer_peer, built from tokenizer_peer.cpp. The tokenizers are trained here on the lines that tests/fetch.py fetches
into build/assets, else on made-up ones, and get the special tokens of RoBERTa, BART, OPT and GPT-2, the words of SmolLM2,
Llama 3 and Qwen2, and SentencePiece's forms of Llama 2, Mistral, Gemma, T5 and XLM-R; build/assets/unigram*.json, where there
are such, are compared too. --full compares more than 20,000 lines of each of the latter, all code points among them.
Prints the throughput too. Exit status 1: they differ, and the first differences are printed.
"""
import copy
import functools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import tokenizer_peer as base

MERGES = 8000
CONTRACTIONS = ("I'm you're he's we've they'll she'd can't DON'T I'M 'sup 'tis rock'n'roll ''s '''ll 'r 'l 'v 'rex x'd "
                "'Re 's's 't1 '1s ' ' ’s o’clock 'd've <s> </s> <pad> <unk> <mask> <mask>s < mask> <<mask>> </ s> "
                "<s></s><mask><pad> <|endoftext|> 3rd 1st 2,000 ٣٤٥ १२३ ①② Ⅷ ⅷ ½¾ 四五 𝟘𝟙 𐄇 x² H₂O Ġ ĠĠ Ċ Ā ÿ").split(" ")


def made_up_lines(rng):
    starts, ends = "b c d f g h k l m n p r s t v w th sh st".split(), "a e i o u ea ing er".split()
    syllables = [a + b for a in starts for b in ends]
    words = ["".join(rng.choices(syllables, k=rng.randrange(1, 4))) for _ in range(6000)]
    return [" ".join(words[int(rng.paretovariate(0.6)) % 6000] for _ in range(rng.randrange(4, 40))).encode()
            for _ in range(24000)]


def hostile_lines(count, rng):
    yield from base.hostile_lines(count // 2, rng)
    texts = [" ", "  ", " a", "  a", "a ", "a  ", "\n", "\n\n", "a\n\nb", " \n a", "a \u00a0 b", "\u3000x", "\t\tx",
             "<mask>", " <mask>", "  <mask>  ", "a <mask> b", "a<mask>b", "\u00a0<mask>", "<s>a</s>", "<s> </s>", "'",
             "''", " 's", "'s", "a's", "1's", "!'s", "' s", "x" * 33, "ab" * 17, "ab" * 200, "the" * 3000, " " * 500,
             "\n" * 501 + "x", "1" * 200, "!?" * 300, "é" * 200, "\u0301" * 40, "👍🏽" * 30, "\u2065\u0302 \ufff0\u0308\u0308 a\u2065\ufff8\u0308 e\u0301\U000e0000\u0308"]
    yield from (text.encode() for text in texts)
    words = base.WORDS + CONTRACTIONS * 3
    for _ in range(count // 2):
        line = "".join(rng.choice(words) + rng.choice(base.SPACES) for _ in range(rng.randrange(1, 24)))
        line = "".join(c for c in line if rng.random() > 0.03)
        if rng.random() < 0.3:
            line = line.replace(" ", "")
        yield line.encode()


@functools.cache
def code_points():
    codes = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000 and (base.assigned(c) or c % 61 == 0)]
    return sorted({*codes, *base.NEWER, *range(0x10D40, 0x10F00), *range(0x11380, 0x113F0), *range(0x116D0, 0x11C00),
                   *range(0x16100, 0x16D80), *range(0x1CC00, 0x1CD00), *range(0x1E5D0, 0x1E700),
                   *range(0x13460, 0x14400), *range(0x2EBF0, 0x2EE70), *range(0x890, 0x8A0), *range(0x1AC0, 0x1AF0),
                   0x11F5A})


def code_point_lines(contexts=(("{}", 64), ("a{}b", 64), ("1{}1", 256), ("!{}'s", 256))):
    """64 in a line; a quarter of the lines in the last contexts."""
    codes = code_points()
    for context, step in contexts:
        for i in range(0, len(codes), step):
            yield " ".join(context.replace("{}", chr(c)) for c in codes[i:i + 64]).encode()


class Peer(base.Peer):
    def decode(self, title, folder, oracle, lines, skip=True):
        text = b"".join(line.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n" for line in lines)
        command = [self.binary, str(folder), "--escaped", "--decode" if skip else "--decode-all", "--max-length",
                   str(1 << 20)]
        done = subprocess.run(command, input=text, capture_output=True)
        oracle.no_truncation()
        theirs = [oracle.decode(oracle.encode(line.decode(errors="replace")).ids, skip_special_tokens=skip)
                  .replace("\\", "\\\\").replace("\n", "\\n") for line in lines]
        ours = done.stdout.decode(errors="replace").split("\n")[:-1]
        different = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
        failed = len(different) + (done.returncode != 0 or len(ours) != len(theirs))
        for i in different[:3]:
            print(f"  line {i}: {lines[i][:300]}\n    meft: {ours[i][:300]!r}\n    tokenizers: {theirs[i][:300]!r}")
        self.compared += len(ours)
        self.failures += failed
        print(f"{'ok' if not failed else 'FAILED'} {title}: {len(ours)} decoded, {failed} differ "
              f"{done.stderr.decode()}", flush=True)


def train(lines):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, show_progress=False, min_frequency=2,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator((line.decode(errors="replace") for line in lines), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def family(name, tokens, merges, prefix_space=False, files=False):
    """A tokenizers.Tokenizer of that family and what stands in its tokenizer_config.json. With `files` as transformers'
    class makes it of vocab.json and merges.txt: <mask> leaves the space before it, no text has a token type, and OPT's
    pairs have a bos before each text."""
    def added(content, **flags):
        return tokenizers.AddedToken(content, normalized=False, special=True, **flags)

    if name == "gpt2":
        front, back, special = [], ["<|endoftext|>"], [added("<|endoftext|>")]
        config = {"tokenizer_class": "GPT2Tokenizer"}
    else:
        front, back = ["<s>", "<pad>", "</s>", "<unk>"], ["<mask>"]
        special = [added(content) for content in front]
        config = {"tokenizer_class": {"roberta": "RobertaTokenizer", "bart": "BartTokenizerFast",
                                      "opt": "GPT2Tokenizer"}[name]}
    if name in ("roberta", "bart"):
        special.append(added("<mask>", lstrip=not files))
    if name == "opt":
        config |= {"add_bos_token": True, "bos_token": {"content": "</s>"}, "eos_token": {"content": "</s>"},
                   "unk_token": "</s>", "pad_token": "<pad>"}
        special = [added("</s>"), added("<pad>")]
    config["add_prefix_space"] = prefix_space
    vocab = {token: i for i, token in enumerate(front + tokens + back)}
    out = tokenizers.Tokenizer(models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    out.add_special_tokens(special)
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    out.decoder = decoders.ByteLevel()
    if name == "roberta":
        out.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix_space)
    elif name == "bart":
        out.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>",
                                          special_tokens=[("<s>", 0), ("</s>", 2)])])
    elif name == "opt":
        pair = "</s>:0 $A:0 </s>:0 $B:0" if files else "</s>:0 $A:0 $B:1"
        out.post_processor = processors.TemplateProcessing(single="</s>:0 $A:0", pair=pair,
                                                           special_tokens=[("</s>", 2)])
    elif files:
        out.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:0", special_tokens=[])
    else:
        out.post_processor = processors.ByteLevel(trim_offsets=False)
    return out, config


def write_files(parent, name, oracle, config, old_merges=False):
    """Two folders: tokenizer.json alone, and vocab.json with merges.txt and tokenizer_config.json."""
    content = json.loads(oracle.to_str())
    model = content["model"]
    pairs = [" ".join(merge) for merge in model["merges"]]
    if old_merges:
        model["merges"] = pairs
    whole = base.folder_with(parent, name + "_json", tokenizer__json=content)
    files = base.folder_with(parent, name + "_files", vocab__json=model["vocab"], tokenizer_config__json=config,
                             merges__txt="#version: 0.2\n" + "\n".join(pairs) + "\n")
    return whole, files


def family_tests(peer, parent, tokens, merges, real, rng):
    hostile = list(hostile_lines(2000, rng))
    speed = None
    for name in ("roberta", "bart", "opt", "gpt2"):
        for prefix_space in (False, True):
            oracle, config = family(name, tokens, merges, prefix_space)
            of_files, _ = family(name, tokens, merges, prefix_space, files=True)
            title = name + (", prefix space" if prefix_space else "")
            whole, files = write_files(parent, f"{name}_{prefix_space}", oracle, config, old_merges=prefix_space)
            whole_text = name == "roberta" and not prefix_space  # once: the others differ in what is around the tokens
            lines = rng.sample(real, len(real) if whole_text else min(len(real), 3000)) + hostile
            if whole_text:
                speed = whole
                peer.compare(f"{title}: every code point", whole, oracle, list(code_point_lines()), whole=True)
            peer.compare(f"{title}, tokenizer.json", whole, oracle, lines)
            peer.compare(f"{title}, vocab.json", files, of_files,
                         rng.sample(lines, min(len(lines), 4000)))
            if prefix_space:
                continue
            mixed = rng.sample(real, 1000) + rng.sample(hostile, 1000)
            rng.shuffle(mixed)
            for max_length in (2, 3, 7, 128):
                peer.compare(f"{title}: max length {max_length}", files, of_files, mixed, max_length)
            for max_length in (4, 5, 8, 9, 33, 128):
                # tokenizers also keeps every combination of the parts cut off, so a short maximum gets shorter lines.
                short = [line[:8 + rng.randrange(4 * max_length)] for line in mixed]
                folder, right = rng.choice(((whole, oracle), (files, of_files)))
                peer.compare(f"{title}: pairs, max length {max_length}", folder, right, short, max_length, pair=True)
            peer.compare(f"{title}: pairs", whole, oracle, mixed, pair=True)
            peer.compare(f"{title}: pairs, vocab.json", files, of_files, mixed, pair=True)
            peer.decode(f"{title}: decode", whole, oracle, mixed)
            peer.decode(f"{title}: decode with special tokens", files, of_files, mixed, skip=False)
    return speed


def variant_tests(peer, parent, tokens, merges, rng):
    hostile = list(hostile_lines(2000, rng))
    oracle, _ = family("roberta", tokens, merges)
    content = json.loads(oracle.to_str())
    size = len(content["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}

    def compare(title, change):
        changed = copy.deepcopy(content)
        change(changed)
        folder = base.folder_with(parent, "variant_" + title.replace(" ", "_"), tokenizer__json=changed)
        theirs = tokenizers.Tokenizer.from_str(json.dumps(changed))
        peer.compare(f"variant: {title}", folder, theirs, hostile)
        peer.decode(f"variant: {title}", folder, theirs, hostile, skip=False)

    def more_tokens(c):
        c["added_tokens"] += [
            {**flags, "id": size, "content": "café x"},
            {**flags, "id": size + 1, "content": "don'", "single_word": True},
            {**flags, "id": size + 2, "content": "<3", "lstrip": True, "rstrip": True},
            {**flags, "id": size + 3, "content": "the m", "normalized": False, "rstrip": True},
            {**flags, "id": c["model"]["vocab"]["it"], "content": "it", "single_word": True}]

    def fewer_bytes(c):
        alphabet = set(sorted(pre_tokenizers.ByteLevel.alphabet())[::3])
        kept = [t for t in c["model"]["vocab"] if t.startswith("<") and len(t) > 1 or not alphabet & set(t)]
        c["model"]["vocab"] = {t: i for i, t in enumerate(kept)}
        c["model"]["merges"] = [[a, b] for a, b in c["model"]["merges"] if a + b in c["model"]["vocab"]]
        c["added_tokens"][-1]["id"] = c["model"]["vocab"]["<mask>"]

    def unknown(c, fuse):
        fewer_bytes(c)
        c["model"] |= {"unk_token": "<unk>", "fuse_unk": fuse}

    compare("more added tokens", more_tokens)
    compare("bytes without a token", fewer_bytes)
    compare("unknown bytes", lambda c: unknown(c, False))
    compare("fused unknown bytes", lambda c: unknown(c, True))
    compare("ignore merges", lambda c: c["model"].update(ignore_merges=True, merges=c["model"]["merges"][::2]))
    compare("no split", lambda c: c["pre_tokenizer"].update(use_regex=False))
    compare("pre-tokenizer in a Sequence", lambda c: c.update(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [c["pre_tokenizer"]]}))
    compare("no post-processor", lambda c: c.update(post_processor=None))


CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CONTRACTED + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def decoder(name, tokens, merges):
    """As the tokenizer.json of a decoder's folder."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<mask>"]
    vocab = {token: i for i, token in enumerate(special + tokens)}
    out = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=name == "llama3"))
    out.add_special_tokens([tokenizers.AddedToken(content, normalized=False, special=True) for content in special])
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "smollm")
    if name == "smollm": first = pre_tokenizers.Digits(individual_digits=True)
    else: first = pre_tokenizers.Split(tokenizers.Regex(WORDS % ("{1,3}" if name == "llama3" else "")), "isolated")
    out.pre_tokenizer = pre_tokenizers.Sequence([first, level])
    if name == "qwen2": out.normalizer = tokenizers.normalizers.NFC()
    out.decoder = decoders.ByteLevel()
    if name == "llama3":
        out.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|>:1 $B:1", special_tokens=[("<|endoftext|>", 0)])])
    return out


def pieces(lines, rng):
    """SentencePiece's BPE with bytes, by name, as Llama 2's and Mistral's files have it."""
    space = "\u2581"
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=4000, show_progress=False, limit_alphabet=300)
    trained.train_from_iterator((line.decode(errors="replace") for line in rng.sample(lines, min(len(lines), 2000))), trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(model["vocab"], key=model["vocab"].get)]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge) for merge in model["merges"]]
    old, sequence = tokenizers.normalizers, decoders.Sequence
    ends = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    forms = {"llama2": (old.Sequence([old.Prepend(space), old.Replace(" ", space)]), None, sequence(ends)),
             "mistral": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), sequence(ends)),
             "always, split": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True), sequence(ends)),
             "never": (old.Replace(" ", space), None, sequence(ends[:3])),
             "gemma": (old.Replace(" ", space), pre_tokenizers.Split(" ", "merged_with_previous"), sequence(ends[:3]))}
    for name, (normalizer, words, decoder) in forms.items():
        out = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=name != "never"))
        out.add_special_tokens([tokenizers.AddedToken(content, normalized=False, special=True) for content in tokens[:3]])
        if normalizer: out.normalizer = normalizer
        if words: out.pre_tokenizer = words
        out.decoder = decoder
        out.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
        yield name, out


def charsmap(entries):
    """SentencePiece's precompiled map of characters: a trie of darts-clone, by first fit, and the texts."""
    texts, places = b"", {}
    for to in entries.values():
        if to not in places:
            places[to] = len(texts)
            texts += to.encode() + b"\0"
    children = {}
    for key in entries:
        raw = key.encode()
        for i in range(len(raw)): children.setdefault(raw[:i], set()).add(raw[i])
        children.setdefault(raw, set()).add(0)
    units, used = {}, {0}

    def place(prefix, at):
        """Puts the children of the node at `at` where all of them are free."""
        labels = sorted(children[prefix])
        base = 1
        while any((base ^ label) in used for label in labels): base += 1
        used.update(base ^ label for label in labels)
        offset = base ^ at
        assert offset < 1 << 21
        units[at] = offset << 10 | (1 << 8 if 0 in labels else 0) | (prefix[-1] if prefix else 0)
        for label in labels:
            if label: place(prefix + bytes([label]), base ^ label)
            else: units[base] = 1 << 31 | places[entries[prefix.decode()]]

    place(b"", 0)
    size = (max(units) | 255) + 1
    trie = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(size))
    return len(trie).to_bytes(4, "little") + trie + texts


def unigram(lines, rng):
    """Of T5's and XLM-R's forms, and others, by name."""
    space, norm = "\u2581", tokenizers.normalizers
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=3000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    sample = [line.decode(errors="replace") for line in rng.sample(lines, min(len(lines), 1000))]
    trained.train_from_iterator(sample, trainer)
    vocab = [(token, score) for token, score in json.loads(trained.to_str())["model"]["vocab"]]
    own = {"<unk>", *(chr(c) for c in range(32, 127, 3))}  # some letters are no tokens
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [one for one in vocab if one[0] not in own]
    vocab += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)] + [("the", -9.0), ("é中", -3.0), ("é", -8.5)]
    wide = {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}
    entries = {**wide, "e\u0301": "é", "E\u0301": "É", "a\u0308": "ä", "\u212b": "Å", "ﬁ": "fi", "\u3000": " ", "\t": " ", "\n": " ",
               "\r": " ", "\u00a0": " ", "\u200b": "", "\x01": "", "½": "1/2", "ﷺ": "صلى الله عليه وسلم", "ガ": "ガ", "g\u0306x": "?"}
    entries |= {"\u0308": "~", "\u2065": "!", "\ufff0": "-", "\ufff8": "", "^": "!"}
    mapped = norm.Precompiled(charsmap(entries))
    two = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    runs = tokenizers.Regex(" {2,}")
    forms = {"t5": (mapped, two, False), "t5, whole": (norm.Sequence([mapped, norm.Strip(False, True), norm.Replace(runs, space)]),
                                                       pre_tokenizers.Metaspace(prepend_scheme="always"), False),
             "xlm-r": (norm.Sequence([mapped, norm.Replace(runs, " "), norm.Strip()]), pre_tokenizers.Metaspace(prepend_scheme="always"), True),
             "first, one word": (norm.Replace("``", '"'), pre_tokenizers.Metaspace(prepend_scheme="first", split=False), True),
             "first, parts": (None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                                             pre_tokenizers.Metaspace(prepend_scheme="first")]), False)}
    for name, (normalizer, words, fallback) in forms.items():
        out = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=fallback))
        out.add_special_tokens([tokenizers.AddedToken(content, normalized=False, special=True) for content in ("<pad>", "</s>")])
        if normalizer: out.normalizer = normalizer
        out.pre_tokenizer = words
        out.decoder = decoders.Metaspace()
        out.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B:0 </s>:0", special_tokens=[("</s>", 1)])
        yield "unigram, " + name, out


def decoder_tests(peer, parent, tokens, merges, real, rng, full):
    """Returns the folders by name."""
    hostile = list(hostile_lines(20000 if full else 2000, rng))
    hostile += [line.replace(b" ", rng.choice((b"\n", b"\r\n", b" \n ", b"'S ", "'\u017f".encode(), b"12345")))
                for line in rng.sample(hostile, len(hostile) // 8)]
    folders = {}
    for name in ("smollm", "llama3", "qwen2"):
        oracle = decoder(name, tokens, merges)
        content = json.loads(oracle.to_str())
        config = {"tokenizer_class": "GPT2Tokenizer" if name == "smollm" else "PreTrainedTokenizerFast"}
        folders[name] = base.folder_with(parent, name, tokenizer__json=content, tokenizer_config__json=config,
                                         config__json={"model_type": "llama"})
        lines = hostile + rng.sample(real, min(len(real), 20000 if full else 1000))
        peer.compare(name, folders[name], oracle, lines)
        points = list(code_point_lines())
        if full: peer.compare(f"{name}: every code point", folders[name], oracle, points)
        elif name == "qwen2": peer.compare("qwen2: code points alone", folders[name], oracle, points[:len(points) * 2 // 5])
        peer.decode(f"{name}: decode", folders[name], oracle, rng.sample(lines, 1000))
    for name, oracle in pieces(real, rng):
        folders[name] = base.folder_with(parent, name.replace(", ", "_"), tokenizer__json=json.loads(oracle.to_str()),
                                         tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"})
        lines = hostile + rng.sample(real, min(len(real), 20000 if full else 1000))
        peer.compare(name, folders[name], oracle, lines)
        peer.decode(f"{name}: decode", folders[name], oracle, rng.sample(lines, 1000))
    more = [(path.stem, tokenizers.Tokenizer.from_file(str(path))) for path in sorted(base.ASSETS.glob("unigram*.json"))]
    for name, oracle in [*unigram(real, rng), *more]:
        folders[name] = base.folder_with(parent, name.replace(", ", "_").replace(" ", "_"), tokenizer__json=json.loads(oracle.to_str()))
        lines = hostile + rng.sample(real, min(len(real), 20000 if full else 1000))
        peer.compare(name, folders[name], oracle, lines)
        if full: peer.compare(f"{name}: every code point", folders[name], oracle, list(code_point_lines()))
        peer.decode(f"{name}: decode", folders[name], oracle, rng.sample(lines, 500))
    return folders


def merge_tests(peer, parent, rng):
    """Random merges in random order, on words short and long."""
    for count in (3, 40, 400):
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens, merges = list("abc"), []
        while len(merges) < count:
            pair = rng.choice(tokens), rng.choice(tokens)
            if "".join(pair) in tokens and pair in merges:
                continue
            merges.append(pair)
            tokens = list(dict.fromkeys(tokens + ["".join(pair)]))
        rng.shuffle(merges)
        vocab = {token: i for i, token in enumerate(dict.fromkeys(alphabet + tokens))}
        oracle = tokenizers.Tokenizer(models.BPE(vocab, merges))
        oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        folder = base.folder_with(parent, f"merges_{count}", tokenizer__json=json.loads(oracle.to_str()))
        lines = ["".join(rng.choices("abc", k=rng.choice((5, 20, 31, 32, 33, 34, 60, 300)))).encode()
                 for _ in range(3000)]
        peer.compare(f"{count} random merges", folder, oracle, lines)


def added_tests(peer, parent, folders):
    """Added tokens beside every code point, those that take white space along, and the clusters of a map with marks."""
    oracle = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    config = json.loads(oracle.to_str())
    config["added_tokens"] = [{**flags, "id": 256, "content": "<w>", "single_word": True},
                              {**flags, "id": 257, "content": "<x>", "rstrip": True},
                              {**flags, "id": 258, "content": "\n", "lstrip": True, "rstrip": True},
                              {**flags, "id": 259, "content": "zq", "single_word": True}]
    config["model"]["ignore_merges"] = True
    folder = base.folder_with(parent, "added", tokenizer__json=config)
    oracle = tokenizers.Tokenizer.from_str(json.dumps(config))
    lines = list(code_point_lines((("{}<w>", 64), ("<w>{}", 256), ("a<x>{}", 256))))
    lines += [b"a<x>\nb", b"<x>\n\n \n<x>", b"a \n <x> \nb", b"zq 1zq zq1 _zq 'szq azq"]
    peer.compare("added tokens: beside code points", folder, oracle, lines, whole=True)
    oracle = tokenizers.Tokenizer.from_file(str(folders["unigram, xlm-r"] / "tokenizer.json"))
    peer.compare("charsmap: clusters with every code point", folders["unigram, xlm-r"], oracle,
                 list(code_point_lines((("^{}b", 64), ("{}\u0301", 256)))), whole=True)


def main():
    full = sys.argv[2:] == ["--full"]
    if len(sys.argv) != 2 + full or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    if tokenizers.__version__ != base.TESTED_WITH:
        print(f"note: tokenizers {tokenizers.__version__}; meft follows the character tables of {base.TESTED_WITH}")
    rng = random.Random(0)
    peer = Peer(sys.argv[1], full)
    real = [line for file in sorted(base.ASSETS.glob("*.txt")) for line in file.read_bytes().split(b"\n")]
    if not real:
        print("skipped: bpe_peer: real lines (tests/fetch.py fetches them)")
        real = made_up_lines(rng)
    with tempfile.TemporaryDirectory() as parent:
        parent = pathlib.Path(parent)
        tokens, merges = train(real)
        folders = decoder_tests(peer, parent, tokens, merges, real, rng, full)
        merge_tests(peer, parent, rng)
        added_tests(peer, parent, folders)
        variant_tests(peer, parent, tokens, merges, rng)
        speed = family_tests(peer, parent, tokens, merges, real, rng)
        minilm = base.ASSETS / "minilm"
        if (minilm / "tokenizer.json").is_file():
            oracle = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
            oracle.no_padding()
            lines = rng.sample(real, 2000) + list(hostile_lines(2000, rng))
            peer.decode("WordPiece: decode", minilm, oracle, lines)
            peer.decode("WordPiece: decode with special tokens", minilm, oracle, lines, skip=False)
        else:
            print(f"skipped: bpe_peer: decoding WordPiece: no {minilm} (tests/fetch.py fetches it)")
        for name, folder in {"roberta": speed, **(folders if full else {})}.items():
            done = subprocess.run([sys.argv[1], str(folder), "--speed"], input=b"\n".join(real), capture_output=True)
            print(f"{name}: {done.stdout.decode().strip()} MB/s on {len(real)} lines, {len(merges)} merges, one core")
    print(f"{peer.compared} lines compared with tokenizers {tokenizers.__version__}, {peer.failures} differ")
    return 1 if peer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
