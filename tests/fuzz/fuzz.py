"""Fuzzes harnesses of tests/fuzz, all at the same time: fuzz.py PROGRAM HARNESS...

Starts from the seeds below and from regressions/HARNESS, each, and runs for MEFT_FUZZ_SECONDS (default 20; 0: the seeds alone).
An input that crashes, hangs, leaks or takes more than 2 GiB is kept beside PROGRAM and fails the test; mend the cause
and add the input to regressions/HARNESS. The time decides how much is tried, never the verdict on what was tried.
`planted` is a bug that the fuzzer must find.
"""
import base64
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE.parent / "golden"
LARGEST = 16384  # bytes of a seed

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "hello", ",", "w", "##orld", "中", "ab", "b"]
BPE = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "c", "Ġ", "ab", "Ġab", "abc"]
MERGES = ["a b", "Ġ ab", "ab c"]
ADDED = [{"id": 4, "content": "[MASK]", "special": True, "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}]


def template(first, last):
    piece = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": last, "type_id": 0}}]
    pair = piece + [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": last, "type_id": 1}}]
    return piece, pair


PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizers():
    """Parts as tokenizer.hpp reads them."""
    def join(**parts):
        return b"\xff".join(name[1:].encode() + (part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)).encode()
                            for name, part in parts.items())
    vocab = {word: i for i, word in enumerate(WORDS)}
    single, pair = template("[CLS]", "[SEP]")
    special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    wordpiece = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": ADDED,
                 "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
                 "pre_tokenizer": {"type": "BertPreTokenizer"},
                 "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special},
                 "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
                 "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}}
    config = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False, "cls_token": "[CLS]", "model_max_length": 8,
              "truncation_side": "left", "tokenizer_class": "BertTokenizer",
              "added_tokens_decoder": {"4": {"content": "[MASK]", "special": True, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}}}
    pieces = {piece: i for i, piece in enumerate(BPE)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bpe = {"version": "1.0", "added_tokens": [{**ADDED[0], "content": "<mask>"}], "normalizer": None, "pre_tokenizer": level,
           "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False},
           "decoder": level, "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
                                       "fuse_unk": False, "vocab": pieces, "merges": MERGES}}
    bert = {**bpe, "post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>", "lstrip": False}, "pad_token": "<pad>", "mask_token": "<mask>"}
    lines = "\n".join(WORDS) + "\n"
    merges = "#version: 0.2\n" + "\n".join(MERGES) + "\n"
    yield join(_2=lines)
    yield join(_2=lines, _1=config, _8="Unaffable [MASK] wörld 中")
    yield join(_0=wordpiece, _8="hello, [MASK] un")
    yield join(_0=wordpiece, _1=config, _6={"cls_token": "[CLS]", "mask_token": {"content": "[MASK]", "lstrip": True}})
    yield join(_3=pieces, _4=merges, _1={**names, "add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"})
    yield join(_3=pieces, _4=merges, _6=names, _5={"<new>": 12}, _8="ab abc<new><mask> ab")
    yield join(_0=bpe, _1={"add_prefix_space": True, "add_bos_token": True})
    yield join(_0=bert, _6=names)
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    for first, normalizer in ((split, {"type": "NFC"}), ({"type": "Digits", "individual_digits": True}, None)):
        words = {"type": "Sequence", "pretokenizers": [first, {**level, "use_regex": normalizer is None}]}
        yield join(_0={**bpe, "normalizer": normalizer, "pre_tokenizer": words, "model": {**bpe["model"], "ignore_merges": True}},
                   _1={"tokenizer_class": "PreTrainedTokenizerFast"})
    # A trie of one: "a" to "b".
    units = {0: 1 << 10, 1 ^ ord("a"): 1 << 11 | 1 << 8 | ord("a"), 1 ^ ord("a") ^ 2: 1 << 31}
    trie = b"".join(units.get(i, 0).to_bytes(4, "little") for i in range(256))
    charsmap = base64.b64encode(len(trie).to_bytes(4, "little") + trie + b"b\0").decode()
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    steps = [{"type": "Precompiled", "precompiled_charsmap": charsmap}, {"type": "Strip", "strip_left": False, "strip_right": True},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    scored = [["</s>", 0], ["<unk>", 0], ["\u2581", -2.5], ["b", -3], ["bb", -4.5], ["\u2581b", -3.5], ["<0x61>", -9]]
    unigram = {"added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": meta, "decoder": meta,
               "model": {"type": "Unigram", "unk_id": 1, "byte_fallback": False, "vocab": scored}}
    yield join(_0=unigram, _7={"model_type": "t5"}, _8="ab  abba  x")
    two = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]}
    yield join(_0={**unigram, "pre_tokenizer": two, "model": {**unigram["model"], "byte_fallback": True}}, _8="a\nbb b")


def data():
    """The first byte as data.hpp reads it."""
    openbook = {"question": {"stem": "S", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]}, "answerKey": "A"}
    sciq = {"question": "q", "support": "s", "correct_answer": "a", "distractor1": "b", "distractor2": "c", "distractor3": "d"}
    digit = ",".join(["5"] + ["0"] * 784) + "\n"
    texts = ["gj04\t1\t\tOur friends\ngj04\t0\t*\tOne more\n", "sentence\tlabel\nfine\t1\nbad\t0\n", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\ta\tb\n0\t3\t4\tc\td\n",
             "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n0\tn\tf\t1\t1\ta\tb\tx\ty\t2.500\n1\tn\tf\t1\t1\ta\tb\tx\ty\t5\n",
             "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t1\t2\ta\tb\t0\n2\t3\t4\tc\td\t1\n",
             "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
             "0\t1\t2\tg\tb\tb\tp\tp\tx\ty\tn\tneutral\n1\t1\t2\tg\tb\tb\tp\tp\tx\ty\tn\tentailment\n",
             "index\tquestion\tsentence\tlabel\n0\tq\ts\tentailment\n1\tq\ts\tnot_entailment\n", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tnot_entailment\n",
             json.dumps(openbook) + "\n" + json.dumps(openbook) + "\n", '{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n' * 2,
             json.dumps({"question": openbook["question"], "answerKey": "1"}) + "\n", json.dumps([sciq, sciq]),
             "a\tx\nb\ty\n", "text\tlabel\tpair\na\tx\tb\nb\ty\tc\n", "a\t0.5\nb\t-1e3\n", "1\t0.7\tcaf\xe9\n2\t0.1\tb\n", "one line\n\nand one\r\n", digit * 2, None,
             "a\n", "a\tb\n\nc\td\n", "a\tb\tc\r\n", "a\tb\tc\td\n", "\ufeffa\tb\tc\td\te\n"]
    for kind, text in enumerate(texts):
        for base in range(kind, 256, 24 if kind >= 19 else 256):  # the further multiples of 24 are other endings
            yield bytes([base]) + (bytes([3]) + bytes(3072) + bytes([9]) + bytes(3072) if text is None else text.encode("latin1" if kind == 15 else "utf-8"))


def more_data():
    """Rows by another ending: 24 for .csv, 48 for .jsonl, 72 for .json, 96 for .txt."""
    rows = [{"sentence": "a, \"b\"", "label": 0}, {"sentence": "c\nd", "label": 1}]
    for base, text in ((24, 'sentence,label\r\n"a, ""b""",0\r\n"c\nd",1\r\n'), (48, "\n".join(json.dumps(row) for row in rows)), (72, json.dumps(rows))):
        yield bytes([1 + base]) + text.encode()
        yield bytes([13 + base]) + text.replace("sentence", "text").encode()
        yield bytes([16 + base]) + text.replace("sentence", "text").encode()
    yield bytes([1]) + b"sentence\tlabel\rit\x92s fine\t1\rbad\t0\r"
    yield bytes([13]) + b"text\tlabel\tpair\na\t-1\tx\nb\t\ty\nc\t 1 \tz\nd\t0\tz\n"


def files(*patterns, largest=LARGEST):
    return (path.read_bytes() for pattern in patterns for path in sorted(GOLDEN.glob(pattern)) if path.stat().st_size <= largest)


def pytorch():
    for path in sorted(GOLDEN.glob("pytorch/**/*.bin")):
        yield b"\0" + path.read_bytes()
        if zipfile.is_zipfile(path) and path.stem != "unchecked":  # whose CRCs are wrong
            with zipfile.ZipFile(path) as archive:
                yield from (b"\1" + archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


SEEDS = {"config": lambda: files("*/config.json", "*/peft_*/adapter_config.json", "images/processors/*/*.json"), "data": lambda: [*data(), *more_data()], "image": lambda: files("images/*.*"),
         "gguf": lambda: files("gguf/*.gguf", largest=65536),
         "pytorch": pytorch, "safetensors": lambda: files("*/*.safetensors"), "state": lambda: (), "tokenizer": tokenizers, "planted": lambda: ()}


def fuzz(program, name, folder, *more):
    """Runs a harness on the seeds in `folder`/seeds and on; returns (exit status, its output)."""
    command = [program, "-timeout=600", "-rss_limit_mb=2048", "-max_len=65536", f"-dict={HERE / 'fuzz.dict'}",
               f"-artifact_prefix={pathlib.Path(program).parent}/{name}-", "-print_final_stats=1", *more, folder / "seeds"]
    environment = {**os.environ, "MEFT_FUZZ": name, "TMPDIR": str(folder), "ASAN_OPTIONS": "allocator_may_return_null=0",
                   "UBSAN_OPTIONS": "print_stacktrace=1"}
    if name == "state":
        environment["MEFT_FUZZ_SEEDS"] = str(folder / "seeds")
    done = subprocess.run([str(x) for x in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def run(program, name):
    """Exit status."""
    seconds = int(os.environ.get("MEFT_FUZZ_SECONDS", "20"))
    memory = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        folder = pathlib.Path(folder)
        (folder / "seeds").mkdir()
        regressions = [path.read_bytes() for path in sorted((HERE / "regressions" / name).glob("*"))]
        for number, seed in enumerate([*SEEDS[name](), *regressions]):
            (folder / "seeds" / f"seed{number}").write_bytes(seed)
        seeds = len(list((folder / "seeds").iterdir()))
        if name == "planted":
            status, out = fuzz(program, name, folder, "-runs=3000000", "-seed=1", f"-artifact_prefix={folder}/")
            found = status != 0 and "heap-buffer-overflow" in out
            print("the planted bug was found" if found else f"the planted bug was not found\n{out[-3000:]}")
            return 0 if found else 1
        status, out = fuzz(program, name, folder, *([f"-max_total_time={seconds}"] if seconds else ["-runs=0"]))
        if status:
            print(out[-20000:])
            print(f"{name}: found something (status {status}); again by: MEFT_FUZZ={name} {program} FILE")
            return 1
        executed = int(re.search(r"stat::number_of_executed_units: *(\d+)", out)[1])
        coverage = re.findall(r"cov: (\d+) ft: (\d+)", out)[-1]
        print(f"{name}: {executed} inputs in {seconds} s, {coverage[0]} edges, nothing found")
        if executed < seeds:
            print(f"{name}: fewer inputs ran than there are seeds, {seeds}")
            return 1
    return 0


if __name__ == "__main__":
    PROGRAM, NAMES = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:]
    with concurrent.futures.ThreadPoolExecutor(len(NAMES)) as pool:
        sys.exit(max(pool.map(lambda name: run(PROGRAM, name), NAMES)))
