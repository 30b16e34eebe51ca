"""Compares meft's WordPiece with the PyPI package tokenizers, id for id.

tokenizer_peer.py --binary PROGRAM [--model FOLDER] [--lines FILE ...] [--full]

PROGRAM is tokenizer_peer, built from tokenizer_peer.cpp; it may also stand first, without --binary. FOLDER and FILEs
are by default what tests/fetch.py fetches into build/assets; without them the real model and lines are skipped, and
that is said. --full takes all code points, not just the assigned and every 61st of the others, and all lines of a
comparison, not just 1,000 drawn from them.
Exit status 1: they differ, and the first differences are printed.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import unicodedata

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
ASSETS = ROOT / "build" / "assets"
TESTED_WITH = "0.23.3"  # the tables of characters differ between versions
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Peer:
    """Runs both on the same lines and keeps the score."""

    def __init__(self, binary, full):
        self.binary = binary
        self.most = None if full else 1000  # lines
        self.compared = 0
        self.failures = 0

    def compare(self, title, folder, oracle, lines, max_length=1 << 20, pair=False, whole=False):
        """`lines`: bytes; with `pair`, lines 1 and 2 are a pair; `whole`: all of them in any case."""
        began = time.monotonic()
        if self.most and len(lines) > self.most and not whole:
            size = 1 + pair
            starts = random.Random(title).sample(range(0, len(lines) // size * size, size), self.most // size)
            lines = [line for i in starts for line in lines[i:i + size]]
        text = b"".join(line.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n" for line in lines)
        command = [self.binary, str(folder), "--escaped", "--types", "--max-length", str(max_length)]
        done = subprocess.run(command + ["--pair"] * pair, input=text, capture_output=True)
        if done.returncode != 0:
            self.failures += 1
            print(f"FAILED {title}: exit status {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
            return
        ours = done.stdout.decode().splitlines()
        oracle.no_padding()
        oracle.enable_truncation(max_length, strategy="longest_first")
        texts = [line.decode(errors="replace") for line in lines]
        inputs = list(zip(texts[::2], texts[1::2])) if pair else texts
        if len(ours) != len(inputs):
            self.failures += 1
            print(f"FAILED {title}: {len(ours)} lines of output for {len(inputs)}")
            return
        different = 0
        theirs = (e for i in range(0, len(inputs), 256) for e in oracle.encode_batch(inputs[i:i + 256]))
        for i, (mine, encoding) in enumerate(zip(ours, theirs)):
            expected = " ".join(map(str, encoding.ids)) + " | " + " ".join(map(str, encoding.type_ids))
            if mine == expected:
                continue
            different += 1
            if different <= 3:
                shown = lines[2 * i:2 * i + 2] if pair else [lines[i]]
                ids = list(map(int, mine.split("|")[0].split()))
                print(f"  line {i}: {str([line[:400] for line in shown])[:1200]}")
                same = [a == b for a, b in zip(ids, encoding.ids)]
                at = same.index(False) if False in same else len(same)
                for who, found in (("meft", ids), ("tokenizers", encoding.ids)):
                    tokens = [oracle.id_to_token(token) for token in found[max(0, at - 3):at + 5]]
                    print(f"    {who}: {len(found)} ids; from {max(0, at - 3)}: {tokens}")
        self.compared += len(ours)
        self.failures += different
        print(f"{'ok' if not different else 'FAILED'} {title}: {len(ours)} compared, {different} differ "
              f"({time.monotonic() - began:.1f} s)", flush=True)


def assigned(code):
    return unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")


# Letters with a lower case that came after Python's Unicode, and others with no name of their own.
NEWER = [*range(0x1C80, 0x1C90), *range(0xA7C0, 0xA7E0), *range(0x10D40, 0x10D90), *range(0x16EA0, 0x16EE0),
         0xFFFD, 0xFFFF, 0xE000, 0x10FFFF]


def code_point_lines(full):
    """Code points in several contexts, 64 of them in a line; a quarter of the lines in the last contexts, unless full."""
    contexts = ["a{}b", "{}", "A{}\u0301\u0323z", "{}{}", "a\u0345{}", "a{}\u0334\u302e", "\uac00{}1",
                "{}\u200d\u4e2d"]
    codes = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    if not full:
        codes = [c for c in codes if assigned(c) or c % 61 == 0 or c in NEWER]
    for number, context in enumerate(contexts):
        for i in range(0, len(codes), 64 if full or number < 3 else 256):
            yield " ".join(context.replace("{}", chr(c)) for c in codes[i:i + 64]).encode()


WORDS = ("the movie was unaffable, don't! 3.14 [SEP] [MASK][CLS] [PAD]x [UNK] [sep] [ MASK] ##ing # naïve café "
         "Ångström İstanbul ﬁne ǅ ß ẞ Σίσυφος ὈΔΥΣΣΕΎΣ 中文字符 日本語テキスト がぎぐ ガギグ 한국어 각 ไทย हिन्दी தமிழ் "
         "עִבְרִית العَرَبِيَّة ру́сский ЁЖ 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ 🏳️‍🌈 ½ ² ™ € ¢ £ “quoted” ‘single’ … — – ‐ · • 。、「」 ١٢٣ "
         "①② 𝒜𝔅 𐐀 𠀀 \u202eright\u202c "
         "e\u0301\u0323\u0302 \u0301\u0301 a\u0315\u0300\u05ae\u0301b z̷̢̧a̴l̶g̸o̵ "
         "x\u00ady \u200bz w\ufeffv \ufffd \u0000 "
         "supercalifragilisticexpialidocious http://example.com/a_b?c=d&e#f @user #tag :-) <3 C++ $100 ^_^ `code` "
         "~").split(" ")
SPACES = [" ", " ", " ", "", "\t", "\n", "\r\n", "  ", "\u00a0", "\u3000", "\u2028", "\u2009", "\u0085", "\u000b",
          "\u000c", "\u1680", "\u200b", "\u180e", "\u001c", "\u2060"]
BROKEN = [b"\xff", b"\xc0\xaf", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xc3",
          b"\xe0\x80", b"\xf0\x9f\xe2\x82\xac", b"\xf8\x88\x80\x80\x80", b"\xfe"]


def hostile_lines(count, rng):
    texts = ["", " ", "\t\r", "\x00", "\ufffd", "[SEP]", "[SEP][SEP]", "[[SEP]]", "[SEP", "SEP]", "[MASK] ", " [MASK]",
             "[\x00MASK]", "[MASK\u0301]", "a" * 99, "a" * 100, "a" * 101, "a" * 5000, "a" * 100 + " " + "b" * 101,
             "é" * 100, "é" * 101, "e\u0301" * 100, "e\u0301" * 101, "中" * 300, "각" * 33, "각" * 34, "\u0301" * 500,
             "İ" * 60, "🙂" * 100, "🙂" * 101, "." * 600, "un" * 49, "\\n \\\\ \\"]
    yield from (text.encode() for text in texts)
    yield from (b"\xe4\xb8", b"\xe4\xb8\xe4\xb8\xad", b"[MASK]\xe4[SEP]\xb8[CLS]")
    for broken in BROKEN:
        yield from (broken, b"a" + broken, broken + b"a", b"a" + broken + b"b", broken * 3,
                    b"[MASK]" + broken + b"[SEP]", broken + "é".encode())
    for _ in range(count):
        kind = rng.randrange(5)
        if kind == 0:  # words and spaces
            line = "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randrange(1, 40))).encode()
        elif kind == 1:  # glued pieces of words
            some = rng.choices(WORDS, k=rng.randrange(1, 30))
            line = "".join(word[:rng.randrange(len(word) + 1)] for word in some).encode()
        elif kind == 2:  # code points from everywhere
            blocks = [0, 0x80, 0x300, 0x590, 0x900, 0xE00, 0x1100, 0x1E00, 0x2000, 0x3000, 0xA800, 0xFE00, 0x11000,
                      0x1D100, 0x1E000, 0x1F300]
            line = "".join(chr(rng.choice(blocks) + rng.randrange(0x200)) for _ in range(rng.randrange(60))).encode()
        elif kind == 3:  # marks in every order
            marks = ("\u0300\u0301\u0315\u031b\u0323\u0327\u0334\u0345\u035c\u05b0\u05b4\u064b\u0651\u093c\u094d\u302a"
                     "\u302e\u302f\u3099\u1b44\ua953\U0001d165\U0001d16d\U0001d172\U0001e000\U00011070\U0001133b\u1715"
                     "\U00016ff0\u200d\ufe0f")
            line = "".join(rng.choice("aé가\u4e2d \u3042E") + "".join(rng.choices(marks, k=rng.randrange(6)))
                           for _ in range(12)).encode()
        else:  # bytes: a line with damage
            line = bytearray("".join(rng.choice(WORDS) + " " for _ in range(rng.randrange(1, 20))).encode())
            for _ in range(rng.randrange(1, 8)):
                at = rng.randrange(len(line) + 1)
                line[at:at + rng.randrange(3)] = rng.choice(BROKEN + [bytes([rng.randrange(256)])])
            line = bytes(line)
        yield line


def tokenizer_json(vocab, normalizer, added=(), **model):
    """A tokenizer.json as Hugging Face writes it for BERT."""
    def template(parts):
        for part in parts.split():
            name, kind = part.split(":")
            yield {"SpecialToken" if name[0] == "[" else "Sequence": {"id": name, "type_id": int(kind)}}

    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = [{"id": vocab[name], "content": name, **base} for name in SPECIALS]
    tokens += [{**base, **token} for token in added]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
        "normalizer": normalizer and {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": list(template("[CLS]:0 A:0 [SEP]:0")),
                           "pair": list(template("[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1")), "special_tokens": special},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab, **model}}


def options(clean=True, chinese=True, accents=None, lower=True):
    return {"clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": lower}


def folder_with(parent, name, **files):
    folder = parent / name
    folder.mkdir()
    for file, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / file.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


def every_character(rng):
    """A vocabulary that knows each character, so that no difference hides in [UNK]."""
    vocab = list(SPECIALS) + ["un", "##aff", "##able", "movie", "the"]
    characters = sorted({c for c in range(0x21, 0x110000) if assigned(c)} | set(NEWER))
    for c in characters:
        vocab += [chr(c), "##" + chr(c)]
    return {token: i for i, token in enumerate(dict.fromkeys(vocab))}


def character_tests(peer, parent, full, rng):
    vocab = every_character(rng)
    hostile = list(hostile_lines(4000, rng))
    lines = list(code_point_lines(full)) + hostile
    fewer = lines if full else lines[:-len(hostile):4] + hostile
    size = len(vocab)
    extra = [
        {"id": vocab["the"], "content": "the", "single_word": True, "normalized": True, "special": False},
        {"id": size, "content": "Café", "normalized": True, "special": False},
        {"id": size + 1, "content": "<x>", "lstrip": True, "rstrip": True},
        {"id": size + 2, "content": "<x>y", "single_word": True},
        {"id": size + 3, "content": "中文", "single_word": True, "special": False},
        {"id": vocab["#"], "content": "#", "rstrip": True, "normalized": True, "special": False},
    ]
    around = [" ", "", "a", "é", "_", "\u0301", "①", "Ⓐ", "🙂", ".", "中", "\u00a0 ", "\t\n", "1", "\u200d", "<x>", "the"]
    contents = ["the", "The", "CAFÉ", "cafe\u0301", "<x>", "<x>y", "<x><x>y", "中文", "#", "[MASK]"]
    added_lines = [(a + token + b).encode() for token in contents for a in around for b in around]
    variants = [
        ("lower", options(), lines, ()),
        ("cased", options(lower=False), fewer, ()),
        ("no cleaning, accents kept, lower", options(clean=False, accents=False), fewer, ()),
        ("accents stripped, cased, no ideographs", options(chinese=False, accents=True, lower=False), fewer, ()),
        ("no normalizer", None, hostile, ()),
        ("added tokens", options(), added_lines + hostile, extra),
        ("added tokens, cased", options(clean=False, lower=False), added_lines + hostile, extra),
    ]
    for name, normalizer, some, added in variants:
        content = tokenizer_json(vocab, normalizer, added)
        folder = folder_with(parent, name.replace(" ", "_"), tokenizer__json=content)
        peer.compare(f"every character: {name}", folder, tokenizers.Tokenizer.from_str(json.dumps(content)), some,
                     whole=some is lines)


def small_vocab_tests(peer, parent, rng):
    tokens = SPECIALS + ["a", "b", "ab", "@@b", "@@ab", "@@a", "é", "@@é", "中", ".", "@@", "abab"]
    vocab = {token: i for i, token in enumerate(tokens)}
    lines = ["".join(rng.choices("abé中. ", k=rng.randrange(14))).encode() for _ in range(2000)]
    for prefix, longest in (("@@", 100), ("@@", 3), ("", 7), ("#", 100)):
        content = tokenizer_json(vocab, options(accents=False), continuing_subword_prefix=prefix,
                                 max_input_chars_per_word=longest)
        folder = folder_with(parent, f"small_{ord((prefix + ' ')[0])}_{longest}", tokenizer__json=content)
        oracle = tokenizers.Tokenizer.from_str(json.dumps(content))
        peer.compare(f"small vocabulary, prefix '{prefix}', at most {longest} characters", folder, oracle, lines)


def model_tests(peer, parent, model, real, rng, full):
    oracle = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    hostile = list(hostile_lines(4000, rng))
    peer.compare("model: real lines", model, oracle, real)
    peer.compare("model: hostile lines", model, oracle, hostile)
    peer.compare("model: every code point", model, oracle, list(code_point_lines(full))[::1 if full else 4])
    mixed = rng.sample(real, min(len(real), 3000)) + hostile
    rng.shuffle(mixed)
    long = [b" ".join(rng.choices(mixed, k=rng.randrange(1, 12))) for _ in range(600)]
    for max_length in (2, 3, 4, 7, 16, 128, 512):
        peer.compare(f"model: max length {max_length}", model, oracle, mixed + long, max_length)
    pairs = rng.sample(mixed, len(mixed) // 2 * 2)
    long = long[:len(long) // 2 * 2]
    for max_length in (3, 4, 5, 8, 9, 16, 33, 64, 127, 128, 512):
        # tokenizers also keeps every combination of the parts cut off, so a short maximum gets shorter lines.
        short = [line[:8 + rng.randrange(4 * max_length)] for line in pairs + long]
        peer.compare(f"model: pairs, max length {max_length}", model, oracle, short, max_length, pair=True)

    text = (model / "vocab.txt").read_text(encoding="utf-8")
    vocab = {token: i for i, token in enumerate(text.split("\n")[:-1])}
    some = mixed[:5000]
    kept = {"strip_accents": False, "tokenize_chinese_chars": False, "mask_token": {"content": "[MASK]"}}
    for name, config, normalizer in [("alone", None, options()),
                                     ("cased", {"do_lower_case": False}, options(lower=False)),
                                     ("accents kept", kept, options(accents=False, chinese=False))]:
        files = {"vocab__txt": text}
        if config is not None:
            files = {"vocab__txt": text.replace("\n", "\r\n"), "tokenizer_config__json": config}
        folder = folder_with(parent, "vocab_" + name.replace(" ", "_"), **files)
        content = json.dumps(tokenizer_json(vocab, normalizer))
        peer.compare(f"vocab.txt: {name}", folder, tokenizers.Tokenizer.from_str(content), some)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?")
    parser.add_argument("--binary")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--lines", type=pathlib.Path, nargs="+")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    binary = arguments.binary or arguments.program
    if not binary:
        parser.error("--binary PROGRAM is missing")
    model = arguments.model or ASSETS / "minilm"
    files = arguments.lines or sorted(ASSETS.glob("*.txt"))
    if tokenizers.__version__ != TESTED_WITH:
        print(f"note: tokenizers {tokenizers.__version__}; meft follows the character tables of {TESTED_WITH}")
    rng = random.Random(0)
    peer = Peer(binary, arguments.full)
    with tempfile.TemporaryDirectory() as parent:
        parent = pathlib.Path(parent)
        small_vocab_tests(peer, parent, rng)
        character_tests(peer, parent, arguments.full, rng)
        if arguments.model or (model / "tokenizer.json").is_file():
            real = [line for file in files for line in file.read_bytes().split(b"\n")]
            if not real:
                print("skipped: tokenizer_peer: real lines (tests/fetch.py fetches them)")
            model_tests(peer, parent, model, real, rng, arguments.full)
        else:
            print(f"skipped: tokenizer_peer: a real model and real lines: no {model} (tests/fetch.py fetches it)")
    print(f"{peer.compared} encodings compared with tokenizers {tokenizers.__version__}, {peer.failures} differ")
    return 1 if peer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
