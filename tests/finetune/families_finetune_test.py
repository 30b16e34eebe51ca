"""Tests examples/finetune on tiny random checkpoints of every family and on every kind of task: families_finetune_test.py
FINETUNE [NAME...]

Every method trains, a killed run goes on to the same bits, and what was trained scores the same when it is read back.
"""
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from place import GOOD, BAD, PLAIN, check, killed, make_data, read_safetensors, results, write_safetensors

FINETUNE = sys.argv[1]
DEVICE = os.environ.get("MEFT_FINETUNE_DEVICE", FINETUNE)  # the program for --device cuda
SANITIZED = "MEFT_SANITIZED" in os.environ
LIMIT = 30000 if SANITIZED else 3000  # seconds a run, against a hang
METHODS = ["full", "lora", "ia3", "speft", "unipt", "lst", "qst", "sherl", "losa", "meft1", "meft2", "meft3", "mezo", "mezo-lora", "zofo"]
INSIDE = ["meft1+lora", "meft3+ia3"]
VIRTUAL = 4  # tokens
MORE = ["prefix", "prompt", "alore", "sparsegrad"]
# By losses alone 16 steps tell a fresh classifier nothing where its gradient is this small.
TOO_FEW_STEPS = [(model, "sst2", method) for model in ("roberta", "bart") for method in ("mezo", "mezo-lora", "zofo")]
WIDTH, INNER, HEADS, LAYERS, PLACES = 16, 24, 2, 2, 48


class Tensors(dict):
    def __init__(self, seed):
        super().__init__()
        self.rng = random.Random(seed)

    def array(self, name, *shape):
        size = 1
        for extent in shape: size *= extent
        self[name] = (list(shape), [self.rng.gauss(0, 0.15) for _ in range(size)])

    def linear(self, name, columns, rows):
        self.array(name + ".weight", rows, columns)
        self[name + ".bias"] = ([rows], [0.0] * rows)

    def scale(self, name, width=WIDTH, one=1.0):
        self[name + ".weight"] = ([width], [one] * width)

    def norm(self, name):
        self.scale(name)
        self[name + ".bias"] = ([WIDTH], [0.0] * WIDTH)


def byte_characters():
    """GPT-2's character for each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return {b: chr(b if b in kept else next(moved)) for b in range(256)}


def write_tokenizer(folder, kind):
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = specials + [byte_characters()[b] for b in range(256)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    start = "</s>" if kind == "GPT2Tokenizer" else "<s>"
    config = {"tokenizer_class": kind, "bos_token": start, "eos_token": "</s>", "unk_token": "<unk>" if start == "<s>" else "</s>",
              "pad_token": "<pad>"}
    if start == "<s>": config |= {"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    else: config["add_bos_token"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def write_model(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)


def bert_layers(t, encoder):
    for i in range(LAYERS):
        at = f"{encoder}.{i}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            t.linear(at + part, WIDTH, WIDTH)
        t.norm(at + "attention.output.LayerNorm")
        t.linear(at + "intermediate.dense", WIDTH, INNER)
        t.linear(at + "output.dense", INNER, WIDTH)
        t.norm(at + "output.LayerNorm")


def fairseq_layers(t, stack, cross):
    for i in range(LAYERS):
        at = f"{stack}.layers.{i}."
        for block in ["self_attn"] + ["encoder_attn"] * cross:
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"): t.linear(f"{at}{block}.{part}", WIDTH, WIDTH)
            t.norm(f"{at}{block}_layer_norm")
        t.linear(at + "fc1", WIDTH, INNER)
        t.linear(at + "fc2", INNER, WIDTH)
        t.norm(at + "final_layer_norm")


def roberta(folder):
    words, t = write_tokenizer(folder, "RobertaTokenizer"), Tensors(1)
    t.array("roberta.embeddings.word_embeddings.weight", words, WIDTH)
    t.array("roberta.embeddings.position_embeddings.weight", PLACES + 2, WIDTH)
    t.array("roberta.embeddings.token_type_embeddings.weight", 1, WIDTH)
    t.norm("roberta.embeddings.LayerNorm")
    bert_layers(t, "roberta.encoder.layer")
    t.linear("lm_head.dense", WIDTH, WIDTH)
    t.norm("lm_head.layer_norm")
    write_model(folder, {"model_type": "roberta", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                         "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": PLACES + 2,
                         "type_vocab_size": 1, "pad_token_id": 1}, t)


def opt(folder):
    words, t = write_tokenizer(folder, "GPT2Tokenizer"), Tensors(2)
    t.array("model.decoder.embed_tokens.weight", words, WIDTH)
    t.array("model.decoder.embed_positions.weight", PLACES + 2, WIDTH)
    t.norm("model.decoder.final_layer_norm")
    fairseq_layers(t, "model.decoder", False)
    write_model(folder, {"model_type": "opt", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                         "num_attention_heads": HEADS, "ffn_dim": INNER, "max_position_embeddings": PLACES,
                         "word_embed_proj_dim": WIDTH, "do_layer_norm_before": True}, t)


def bart(folder):
    words, t = write_tokenizer(folder, "BartTokenizer"), Tensors(3)
    t.array("model.shared.weight", words, WIDTH)
    for stack, cross in (("encoder", False), ("decoder", True)):
        t.array(f"model.{stack}.embed_positions.weight", PLACES + 2, WIDTH)
        t.norm(f"model.{stack}.layernorm_embedding")
        fairseq_layers(t, f"model.{stack}", cross)
    write_model(folder, {"model_type": "bart", "vocab_size": words, "d_model": WIDTH, "max_position_embeddings": PLACES,
                         "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": HEADS,
                         "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER}, t)


def llama(path):
    """A GGUF file, whole: config, tokenizer and weights."""
    t = Tensors(5)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [byte_characters()[b] for b in range(256)]
    t.array("token_embd.weight", len(tokens), WIDTH)
    t["output_norm.weight"] = ([WIDTH], [1.0] * WIDTH)
    for i in range(LAYERS):
        at = f"blk.{i}."
        for norm in ("attn_norm", "ffn_norm"): t[f"{at}{norm}.weight"] = ([WIDTH], [1.0] * WIDTH)
        for part, rows, columns in (("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH // 2, WIDTH), ("attn_v", WIDTH // 2, WIDTH),
                                    ("attn_output", WIDTH, WIDTH), ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH),
                                    ("ffn_down", WIDTH, INNER)):
            t.array(f"{at}{part}.weight", rows, columns)
    text = lambda x: struct.pack("<Q", len(x.encode())) + x.encode()
    value = lambda x: (struct.pack("<I", 8) + text(x) if isinstance(x, str) else struct.pack("<If", 6, x) if isinstance(x, float)
                       else struct.pack("<II", 4, x))
    texts = lambda xs: struct.pack("<IIQ", 9, 8, len(xs)) + b"".join(map(text, xs))
    numbers = lambda xs: struct.pack("<IIQ", 9, 5, len(xs)) + struct.pack(f"<{len(xs)}i", *xs)
    sizes = {"block_count": LAYERS, "context_length": PLACES, "embedding_length": WIDTH, "feed_forward_length": INNER,
             "attention.head_count": HEADS, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5}
    said = {"general.architecture": value("llama"), **{"llama." + key: value(x) for key, x in sizes.items()},
            "tokenizer.ggml.model": value("gpt2"), "tokenizer.ggml.pre": value("smollm"), "tokenizer.ggml.tokens": texts(tokens),
            "tokenizer.ggml.token_type": numbers([3] * 3 + [1] * 256), "tokenizer.ggml.merges": texts([]),
            "tokenizer.ggml.bos_token_id": value(1), "tokenizer.ggml.eos_token_id": value(2)}
    out = b"GGUF" + struct.pack("<IQQ", 3, len(t), len(said)) + b"".join(text(key) + x for key, x in said.items())
    data = b""
    for name, (shape, values) in t.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % 32)
    path.write_bytes(out + bytes(-len(out) % 32) + data)


def mpnet(folder):
    words, t = write_tokenizer(folder, "RobertaTokenizer"), Tensors(6)
    t.array("embeddings.word_embeddings.weight", words, WIDTH)
    t.array("embeddings.position_embeddings.weight", PLACES + 2, WIDTH)
    t.norm("embeddings.LayerNorm")
    t.array("encoder.relative_attention_bias.weight", 32, HEADS)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        for part in "qkvo": t.linear(f"{at}attention.attn.{part}", WIDTH, WIDTH)
        for norm in ("attention", "output"): t.norm(f"{at}{norm}.LayerNorm")
        t.linear(at + "intermediate.dense", WIDTH, INNER)
        t.linear(at + "output.dense", INNER, WIDTH)
    write_model(folder, {"model_type": "mpnet", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                         "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": PLACES + 2}, t)


def modernbert(folder):
    words, t = write_tokenizer(folder, "RobertaTokenizer"), Tensors(7)
    t.array("model.embeddings.tok_embeddings.weight", words, WIDTH)
    for norm in ("model.embeddings.norm", "model.final_norm", "head.norm"): t.scale(norm)
    t.array("head.dense.weight", WIDTH, WIDTH)
    t["decoder.bias"] = ([words], [0.0] * words)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for norm in ("attn_norm",) * (i > 0) + ("mlp_norm",): t.scale(at + norm)
        for part, rows, columns in (("attn.Wqkv", 3 * WIDTH, WIDTH), ("attn.Wo", WIDTH, WIDTH), ("mlp.Wi", 2 * INNER, WIDTH),
                                    ("mlp.Wo", WIDTH, INNER)):
            t.array(f"{at}{part}.weight", rows, columns)
    write_model(folder, {"model_type": "modernbert", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                         "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": PLACES,
                         "local_attention": 8}, t)


def gemma3(folder):
    words, t = write_tokenizer(folder, "GPT2Tokenizer"), Tensors(8)
    t.array("model.embed_tokens.weight", words, WIDTH)
    t.scale("model.norm", one=0.0)
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"): t.scale(f"{at}{norm}_layernorm", one=0.0)
        for norm in "qk": t.scale(f"{at}self_attn.{norm}_norm", WIDTH // HEADS, 0.0)
        for part, rows, columns in (("self_attn.q_proj", WIDTH, WIDTH), ("self_attn.k_proj", WIDTH // 2, WIDTH),
                                    ("self_attn.v_proj", WIDTH // 2, WIDTH), ("self_attn.o_proj", WIDTH, WIDTH),
                                    ("mlp.gate_proj", INNER, WIDTH), ("mlp.up_proj", INNER, WIDTH), ("mlp.down_proj", WIDTH, INNER)):
            t.array(f"{at}{part}.weight", rows, columns)
    write_model(folder, {"model_type": "gemma3_text", "vocab_size": words, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
                         "num_attention_heads": HEADS, "num_key_value_heads": 1, "head_dim": WIDTH // HEADS, "intermediate_size": INNER,
                         "max_position_embeddings": PLACES, "sliding_window": 8, "sliding_window_pattern": 2}, t)


def t5(folder, more=0):
    """With so many words more than its tokenizer has."""
    words, t = write_tokenizer(folder, "RobertaTokenizer") + more, Tensors(9)
    t.array("shared.weight", words, WIDTH)
    for stack, blocks in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        t.scale(stack + ".final_layer_norm")
        t.array(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32, HEADS)
        for i in range(LAYERS):
            at = f"{stack}.block.{i}.layer."
            for number in range(len(blocks) + 1): t.scale(f"{at}{number}.layer_norm")
            for number, block in enumerate(blocks):
                for part in "qkvo": t.array(f"{at}{number}.{block}.{part}.weight", WIDTH, WIDTH)
            for part, rows, columns in (("wi_0", INNER, WIDTH), ("wi_1", INNER, WIDTH), ("wo", WIDTH, INNER)):
                t.array(f"{at}{len(blocks)}.DenseReluDense.{part}.weight", rows, columns)
    write_model(folder, {"model_type": "t5", "vocab_size": words, "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": INNER,
                         "num_layers": LAYERS, "num_heads": HEADS, "feed_forward_proj": "gated-gelu", "pad_token_id": 1}, t)


def vit(folder, dino=False):
    """DINOv2 reads smaller images than it was trained on, as those that are published do."""
    t, name = Tensors(4), "dinov2" if dino else "vit"
    t.array(name + ".embeddings.cls_token", 1, 1, WIDTH)
    t.array(name + ".embeddings.position_embeddings", 1, 17, WIDTH)
    t.array(name + ".embeddings.patch_embeddings.projection.weight", WIDTH, 3, 8, 8)
    t[name + ".embeddings.patch_embeddings.projection.bias"] = ([WIDTH], [0.0] * WIDTH)
    t.norm(name + ".layernorm")
    for i in range(LAYERS):
        at = f"{name}.encoder.layer.{i}."
        for part in ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"):
            t.linear(at + part, WIDTH, WIDTH)
        for norm in (("norm1", "norm2") if dino else ("layernorm_before", "layernorm_after")): t.norm(at + norm)
        t.linear(at + ("mlp.fc1" if dino else "intermediate.dense"), WIDTH, 2 * WIDTH)
        t.linear(at + ("mlp.fc2" if dino else "output.dense"), 2 * WIDTH, WIDTH)
        if dino:
            for scale in ("layer_scale1.lambda1", "layer_scale2.lambda1"): t[at + scale] = ([WIDTH], [1.0] * WIDTH)
    config = {"model_type": name, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "image_size": 32, "patch_size": 8, "num_channels": 3}
    write_model(folder, config | ({"mlp_ratio": 2} if dino else {"intermediate_size": 2 * WIDTH}), t)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": dict.fromkeys(("height", "width"), 24 if dino else 32), "resample": 2,
        "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))


def make_questions(folder):
    rng = random.Random(7)
    folder.mkdir()
    for name, count in (("train.jsonl", 40), ("dev.jsonl", 12)):
        rows = []
        for i in range(count):
            right, options = rng.choice(GOOD), rng.sample(BAD, rng.randint(2, 3))
            options.insert(rng.randint(0, len(options)), right)
            rows.append({"id": str(i), "question": {"stem": "which one is it?", "choices": [
                {"text": text, "label": "ABCDE"[k]} for k, text in enumerate(options)]}, "answerKey": "ABCDE"[options.index(right)]})
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_lines(folder):
    rng = random.Random(8)
    folder.mkdir()
    for name, count in (("train.txt", 60), ("dev.txt", 15)):
        (folder / name).write_text("".join(" ".join(rng.choice(PLAIN + GOOD) for _ in range(rng.randint(2, 9))) + "\n" for _ in range(count)))


def make_pairs(folder):
    """A word, and whether it is a good one."""
    folder.mkdir()
    for name, count in (("train.tsv", 48), ("dev.tsv", 12)):
        rng = random.Random(name)
        words = [rng.choice(GOOD + BAD) for _ in range(count)]
        (folder / name).write_text("".join(f"{word}\t{'good' if word in GOOD else 'bad'}\n" for word in ["source", *words]).replace("source\tbad", "source\ttarget"))


def make_images(folder):
    """Class k of CIFAR-10 is a shade of its own."""
    rng = random.Random(9)
    folder.mkdir()
    for name, count in (("train_60.bin", 60), ("val_20.bin", 20)):
        data = bytearray()
        for i in range(count):
            label = i % 10
            data.append(label)
            for channel in range(3):
                shade = 25 * label if channel else 255 - 25 * label
                data += bytes(min(255, max(0, shade + rng.randint(-9, 9))) for _ in range(1024))
        (folder / name).write_bytes(bytes(data))


class Place:
    def __init__(self, root):
        self.root, self.number = pathlib.Path(root), 0
        for name, make in (("roberta", roberta), ("opt", opt), ("bart", bart), ("vit", vit), ("mpnet", mpnet),
                           ("modernbert", modernbert), ("gemma3", gemma3), ("t5", t5),
                           ("dinov2", lambda folder: vit(folder, True))):
            (self.root / name).mkdir()
            make(self.root / name)
        llama(self.root / "llama.gguf")
        make_data(self.root / "sst2", 60, 20)
        make_questions(self.root / "arc_easy")
        make_lines(self.root / "lm")
        make_pairs(self.root / "text2text")
        make_images(self.root / "images")

    def folder(self):
        self.number += 1
        return self.root / f"run{self.number}"

    def command(self, model, task, method, output, *more, rate=0.01):
        method, *inside = method.split("+")
        more = (*more, *(x for name in inside for x in ("--inside", name)))
        out = [DEVICE if "cuda" in more else FINETUNE, "--model", self.root / model, "--task", task, "--data", self.root / task, "--method", method, "--output",
               output, "--batch", 8, "--epochs", 2, "--lr", rate, *(["--max-length", PLACES - VIRTUAL * method.endswith("prompt")] if task != "images" else []), *more]
        return [str(x) for x in out]

    def run(self, *what, **more):
        command = self.command(*what, **more)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        check(done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def narrow(method):
    if method.startswith("meft") and "+" not in method: return ["--bottleneck", 4]
    if method in ("prefix", "prompt"): return ["--virtual-tokens", VIRTUAL]
    if method.startswith("zofo"):
        return ["--zofo-inner", 2, "--zofo-rate", 0.01, "--zofo-lambda", 1] + ["--virtual-tokens", VIRTUAL] * method.endswith("prompt")
    return {"unipt": ["--projection", 8], "sherl": ["--projection", 8], "lst": ["--reduction", 2], "qst": ["--reduction", 2], "speft": ["--density", 0.05, "--score-examples", 24], "sparsegrad": ["--score-examples", 24],
            "fpt": ["--side-image", 8, "--reduction", 2, "--virtual-tokens", 2]}.get(method, [])


def last_number(text):
    return text.strip().splitlines()[-1].split(": ")[-1]


def try_all(place, model, task, methods=METHODS, *, more=()):
    also = more
    for method in methods:
        whole, cut = place.folder(), place.folder()
        more = [*narrow(method), *also]
        costs = [line for line in place.run(model, task, method, whole, *more).splitlines() if line.startswith(f"{method}: ")]
        nothing = "gradients and moments 0.0 MiB" in costs[0]
        if method in ("full", "mezo"):
            check(nothing == (method == "mezo"), f"{model} {task}: {costs[0]}")
        check(("mapped from the checkpoint" in costs[0]) == ("as-stored" in more), f"{model} {task}: {costs[0]}")
        metrics = json.loads((whole / "metrics.json").read_text())
        losses = [e["train_loss"] for e in metrics["epochs"]]
        falls = losses[1] < losses[0] or (model, task, method) in TOO_FEW_STEPS
        check(metrics["finished"] and falls, f"{model} {task} {method}: losses {losses}")
        # The same again, by one thread, gives the same bits.
        place.run(model, task, method, cut, "--threads", 1, *more)
        check(results(cut) == results(whole), f"{model} {task} {method}: another thread count gives other bits")
        # Read back, it scores what it scored.
        said = last_number(place.run(model, task, method, whole, "--eval-only", *more))
        for name, value in metrics["dev"].items():
            check(f"{name} {value:.4f}" in said, f"{model} {task} {method}: {name} {value}, read back: {said}")


def test_roberta(place):
    try_all(place, "roberta", "sst2")
    try_all(place, "roberta", "arc_easy", ["full", "unipt", "meft1"])
    try_all(place, "roberta", "lm", ["full", "meft1", "mezo"])


def test_opt(place):
    try_all(place, "opt", "sst2")
    try_all(place, "opt", "arc_easy")
    try_all(place, "opt", "lm", ["full", "unipt", "meft1", *INSIDE, *MORE])


def test_bart(place):
    try_all(place, "bart", "sst2", METHODS + INSIDE + MORE)
    try_all(place, "bart", "arc_easy", ["meft1"])


def test_llama(place):
    try_all(place, "llama.gguf", "sst2", ["full", "lora", "meft1", "meft3"])
    try_all(place, "llama.gguf", "arc_easy", ["meft2"])
    try_all(place, "llama.gguf", "lm", ["full", "unipt"])
    # A tokenizer that puts nothing around a text: an empty one has a class too.
    empty = place.root / "empty.tsv"
    empty.write_text("sentence\tlabel\n" + "film\t1\n\t0\n" * 8)
    run = place.folder()
    for more in (["--model", place.root / "llama.gguf", "--task", "sst2", "--data", empty, "--method", "lora", "--epochs", "1"], ["--predict", empty]):
        done = subprocess.run([FINETUNE, "--output", run, *more], capture_output=True, text=True, timeout=LIMIT)
        check(done.returncode == 0, done.stderr)
    check("16 predictions" in done.stdout, done.stdout)
    try_all(place, "llama.gguf", "lm", ["meft1"], more=("--weights", "as-stored"))


def test_ranked(place):
    """Classes as words at a mask, behind the text, from a decoder; options; the three losses."""
    letters = ("--losses", "tfew", "--template", "{text}: it is{label}.", "--label-words", "g,b")
    try_all(place, "roberta", "sst2", ["lora", "meft1", "mezo-lora"], more=letters)
    try_all(place, "opt", "sst2", ["full"], more=("--losses", "ranking"))
    try_all(place, "opt", "arc_easy", ["ia3"], more=("--losses", "tfew"))
    try_all(place, "bart", "sst2", ["full"], more=("--losses", "tfew"))
    try_all(place, "bart", "arc_easy", ["ia3", "zofo"], more=("--losses", "tfew"))
    run, table, merged = place.folder(), place.folder(), place.folder()
    place.run("bart", "sst2", "lora", run, "--losses", "likelihood")
    invoke = lambda *more: subprocess.run([str(x) for x in (FINETUNE, "--output", run, *more)], capture_output=True, text=True, timeout=LIMIT)
    check(invoke("--predict", place.root / "sst2" / "dev.tsv", "--predictions", table).returncode == 0, "--predict")
    lines = table.read_text().splitlines()
    check(lines[0] == "label\tp(negative)\tp(positive)\ttext" and len(lines) == 21, str(lines[:2]))
    check(invoke("--merge", merged).returncode == 0, "--merge")
    config = json.loads((merged / "config.json").read_text())
    check(config["architectures"] == ["BartForConditionalGeneration"], str(config))
    for model, task, more, words in (("roberta", "arc_easy", ["--losses", "tfew"], "--losses: expected a model that can go on"),
                                     ("roberta", "sst2", ["--losses", "tfew"], "expected one token"),
                                     ("roberta", "sst2", [*letters[:5], "g,b,c"], "--label-words: expected a word for each class"),
                                     ("roberta", "sst2", ["--label-words", "g,b"], "--label-words: expected --losses"),
                                     ("opt", "lm", ["--losses", "tfew"], "--losses: expected a task of texts"),
                                     ("opt", "sst2", ["--losses", "tfew", "--template", "{text}"], "{label} once")):
        done = subprocess.run([str(x) for x in (FINETUNE, "--model", place.root / model, "--task", task, "--data", place.root / task, "--output",
                                                place.folder(), *more)], capture_output=True, text=True)
        check(done.returncode in (1, 2) and words in done.stderr, f"{model} {task} {more}: {done.returncode}: {done.stderr}")


def test_written(place):
    """Texts for texts: trained, scored, written."""
    columns = ("--text", "source", "--label", "target")
    try_all(place, "t5", "text2text", ["meft1"], more=columns)
    try_all(place, "llama.gguf", "text2text", ["lora"], more=columns)
    run, table = place.folder(), place.folder()
    (place.root / "text2text" / "test.tsv").write_text((place.root / "text2text" / "dev.tsv").read_text())
    invoke = lambda *more: subprocess.run([str(x) for x in (FINETUNE, "--output", run, *more)], capture_output=True, text=True, timeout=LIMIT)
    done = invoke("--model", place.root / "bart", "--task", "text2text", "--data", place.root / "text2text", *columns, "--method", "full",
                  "--batch", 8, "--epochs", 20, "--lr", 0.003, "--max-length", PLACES)
    check(done.returncode == 0 and "12 test examples: log_likelihood" in done.stdout, done.stdout + done.stderr)
    metrics = results(run)["metrics"]
    check(metrics["dev"]["exact_match"] == 1, f"{metrics}")
    done = invoke("--predict", place.root / "text2text" / "dev.tsv", "--predictions", table)
    check(done.returncode == 0, done.stderr)
    wanted = [line.split("\t")[::-1] for line in (place.root / "text2text" / "dev.tsv").read_text().splitlines()[1:]]
    check([line.split("\t") for line in table.read_text().splitlines()] == [["written", "text"], *wanted], table.read_text())
    for model, kind in (("t5", "SEQ_2_SEQ_LM"), ("llama.gguf", "CAUSAL_LM")):
        place.run(model, "text2text", "lora", run := place.folder(), *columns, "--max-steps", 1)
        config = json.loads((run / "adapter_config.json").read_text())
        check(config["task_type"] == kind and not any(name.startswith("transformer.") for name in config["target_modules"]), f"{model}: {config}")
    # A word that the tokenizer does not have is written as nothing.
    (larger := place.folder()).mkdir()
    t5(larger, 5000)
    place.run(larger, "text2text", "lora", run := place.folder(), *columns, "--max-steps", 1)
    done = invoke("--predict", place.root / "text2text" / "dev.tsv", "--predictions", table := place.folder())
    check(done.returncode == 0 and len(table.read_text().splitlines()) == 13, done.stderr)
    # A causal model's text is cut to half of a sequence, or to what --max-target-length leaves.
    (long := place.root / "long").mkdir()
    (long / "train.tsv").write_text("source\ttarget\n" + "".join(f"{(word * 3)[:12]}\t{word[:4]}\n" for word in GOOD))  # tokens are bytes
    for more, cut in (((), True), (("--max-target-length", 4), False)):
        done = invoke("--model", place.root / "llama.gguf", "--task", "text2text", "--data", long, "--text", "1", "--label", "target", "--method", "lora",
                      "--max-steps", 1, "--max-length", 20, "--overwrite", *more)
        check(done.returncode == 0 and ("training examples are cut" in done.stdout) == cut, done.stdout + done.stderr)
    done = invoke("--predict", long / "train.tsv", "--predictions", place.folder())
    check(done.returncode == 0 and "are cut" not in done.stdout, done.stdout + done.stderr)
    done = invoke("--predict", long / "train.tsv", "--max-target-length", 5)
    check(done.returncode == 2 and "--max-target-length: expected 4, as in" in done.stderr, done.stderr)
    # A text of which the end was cut is never written exactly.
    done = invoke("--model", place.root / "bart", "--task", "text2text", "--data", place.root / "text2text", *columns, "--method", "full",
                  "--batch", 8, "--epochs", 20, "--lr", 0.003, "--max-target-length", 1, "--overwrite")
    check(done.returncode == 0 and "texts to be written of dev examples are cut to 1 tokens (--max-target-length)" in done.stdout, done.stdout + done.stderr)
    check((dev := results(run)["metrics"]["dev"])["exact_match"] == 0 and dev["perplexity"] < 1.5, f"{dev}")
    # A token that the tokenizer has, but puts in front of no text, is in front of none.
    losses = []
    for named in ("<s>", "none"):
        copy = place.folder()
        shutil.copytree(place.root / "t5", copy)
        (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "bos_token": named, "eos_token": "</s>", "unk_token": "<unk>"}))
        place.run(copy, "text2text", "full", run := place.folder(), *columns, "--max-steps", 1)
        losses.append(results(run)["metrics"]["epochs"])
    check(losses[0] == losses[1], f"{losses}")
    for model, more, words in (("roberta", columns, "--task: expected another task: an encoder writes no text"),
                               ("t5", columns[:2], "--label: expected a column's name"),
                               ("t5", (*columns, "--text-pair", "2"), "--text-pair: expected --task tsv, found --task text2text"),
                               ("llama.gguf", (*columns, "--max-length", 8, "--max-target-length", 8), "--max-target-length of at most 5, found 8"),
                               ("t5", (*columns, "--losses", "tfew"), "--losses: expected a task of texts")):
        done = subprocess.run([str(x) for x in (FINETUNE, "--model", place.root / model, "--task", "text2text", "--data", place.root / "text2text",
                                                "--output", place.folder(), *more)], capture_output=True, text=True)
        check(done.returncode in (1, 2) and words in done.stderr, f"{model} {more}: {done.returncode}: {done.stderr}")


def test_links(place):
    """A GGUF file behind a link, as the hub's cache has it, is found again by its link; by peft's files too."""
    blob, link = place.root / "blobs" / "0123abcd", place.root / "snapshot" / "tiny.gguf"
    for path in (blob, link): path.parent.mkdir()
    shutil.copy(place.root / "llama.gguf", blob)
    link.symlink_to(blob)
    place.run(link, "lm", "lora", run := place.folder(), "--max-steps", 1)
    lines = place.root / "lm" / "dev.txt"
    (alone := place.folder()).mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"): shutil.copy(run / name, alone)
    found = []
    for folder, more in ((run, []), (alone, ["--task", "lm"])):
        done = subprocess.run([str(x) for x in (FINETUNE, "--output", folder, "--predict", lines, *more)], capture_output=True, text=True)
        check(done.returncode == 0, done.stderr)
        found.append((folder / "predictions.tsv").read_text())
    check(found[0] == found[1], "peft's files predict otherwise")


def test_pruned(place):
    """--prune-embeddings changes nothing that is learned; rows that are not used are the checkpoint's."""
    plain = ("--weight-decay", 0, "--clip", 0)
    test = place.root / "sst2" / "test.tsv"
    test.write_text("sentence\tlabel\n0123 456\t0\n@ # +\t1\n")  # words of no other file
    for model, method in (("roberta", "full"), ("opt", "mezo"), ("bart", "lora")):
        whole, pruned = place.folder(), place.folder()
        place.run(model, "sst2", method, whole, *plain)
        said = place.run(model, "sst2", method, pruned, *plain, "--prune-embeddings")
        check("word embeddings: " in said and "test examples: " in said and results(pruned)["metrics"]["epochs"] == results(whole)["metrics"]["epochs"], said)
        metrics = results(pruned)["metrics"]
        read = place.run(model, "sst2", method, pruned, *plain, "--prune-embeddings", "--eval-only")
        check(all(f"accuracy {metrics[name]['accuracy']:.4f}" in read for name in ("dev", "test")), f"{metrics}: {read}")
        if method != "full": continue
        out = place.folder()
        done = subprocess.run([FINETUNE, "--output", pruned, "--merge", out], capture_output=True, text=True, timeout=LIMIT)
        check(done.returncode == 0, done.stderr)
        table = lambda folder, name: read_safetensors(folder / "model.safetensors")[0][name]
        name = "roberta.embeddings.word_embeddings.weight"
        before, after = table(place.root / model, name), table(out, name)
        changed = [i for i in range(len(before) // (4 * WIDTH)) if before[4 * WIDTH * i:4 * WIDTH * (i + 1)] != after[4 * WIDTH * i:4 * WIDTH * (i + 1)]]
        check(10 < len(changed) < 60, f"{len(changed)} rows of the words changed")
    done = subprocess.run([FINETUNE, "--model", place.root / "opt", "--task", "arc_easy", "--data", place.root / "arc_easy", "--output",
                           place.folder(), "--prune-embeddings"], capture_output=True, text=True)
    check(done.returncode == 2 and "--prune-embeddings: expected a task with a head of its own" in done.stderr, done.stderr)
    test.unlink()


def test_other_data(place):
    """A run goes on with its own data alone; the seed orders them."""
    def first_of(pattern, to): return lambda data: re.sub(pattern, to, data, count=1)

    answer = first_of(rb'"answerKey": "(.)"', lambda found: b'"answerKey": "' + (b"B" if found[1] == b"A" else b"A") + b'"')
    for model, task, file, change in (("opt", "arc_easy", "dev.jsonl", answer), ("opt", "lm", "dev.txt", first_of(rb"film", b"plot")),
                                      ("bart", "text2text", "dev.tsv", first_of(rb"\t(?=good|bad)", rb" \t")),
                                      ("vit", "images", "val_20.bin", lambda data: b"\1" + data[1:])):
        run, path = place.folder(), place.root / task / file
        more = ("--text", "source", "--label", "target") if task == "text2text" else ()
        place.run(model, task, "lora", run, "--max-steps", 1, *more)
        before = path.read_bytes()
        path.write_bytes(change(before))
        check(path.read_bytes() != before, file)
        done = subprocess.run(place.command(model, task, "lora", run, "--max-steps", 1, *more, "--resume"), capture_output=True, text=True)
        check(done.returncode == 2 and "--data" in done.stderr, f"{task}: {done.stderr}")
        path.write_bytes(before)
    losses = []
    for seed in (0, 1, 1):
        place.run("opt", "lm", "full", run := place.folder(), "--max-steps", 1, "--log-every", 1, "--seed", seed)
        losses.append(json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"])
    check(losses[0] != losses[1] == losses[2], f"batches do not go by --seed: {losses}")


def test_others(place):
    try_all(place, "mpnet", "sst2", ["full", "lst", "meft1"])
    try_all(place, "modernbert", "sst2", ["lora", "meft3"])
    try_all(place, "modernbert", "lm", ["meft1"])
    try_all(place, "gemma3", "lm", ["full", "meft1"])
    try_all(place, "t5", "sst2", ["full", "head", "meft1", "zofo-meft1"])


def test_images(place):
    try_all(place, "vit", "images", METHODS + MORE + ["head", "fpt"])
    try_all(place, "vit", "images", ["lora"], more=["--augment"])
    plain, varied = place.folder(), place.folder()
    place.run("vit", "images", "lora", plain, "--max-steps", 2)
    place.run("vit", "images", "lora", varied, "--max-steps", 2, "--augment")
    check(results(plain)["adapter"] != results(varied)["adapter"], "--augment changes nothing")
    whole, cut = place.folder(), place.folder()  # finetune_test kills the other methods
    flags = lambda folder: ("vit", "images", "fpt", folder, *narrow("fpt"), "--max-steps", 6)
    place.run(*flags(whole))
    killed(place.command(*flags(cut), "--save-every", 1), cut)
    place.run(*flags(cut), "--resume")
    check(results(cut) == results(whole), "fpt: a kill changed the bits")
    try_all(place, "dinov2", "images", ["full", "losa", "meft3", *INSIDE])


def has_device(place, program=DEVICE, built="MEFT_FINETUNE_DEVICE" in os.environ):
    """Whether `program` has the Cuda backend, as one has that was `built` for it, and a device, emulated or real. Every other failure
    is one.
    """
    done = subprocess.run([program, "--model", place.root / "roberta", "--task", "sst2", "--data", place.root / "sst2", "--output",
                           place.folder(), "--device", "cuda", "--epochs", "1"], capture_output=True, text=True, timeout=LIMIT)
    if done.returncode == 0: return True
    none = ["cudaErrorNoDevice", "cudaErrorInsufficientDriver"] + ["target meft::cuda"] * (not built)
    check(done.returncode == 1 and any(words in done.stderr for words in none), f"--device cuda: {done.returncode}: {done.stderr}")
    print("skipped: finetune --device cuda:", done.stderr.strip())
    return False


def test_without_device(place):
    """Where there is no device test_device skips; where one fails, or a program that was built for one has none, it does not."""
    program = place.root / "finetune"
    for words, built, skips in (("cuda: cudaStreamCreate: cudaErrorNoDevice (100): none", True, True),
                                ("cuda: cudaStreamCreate: cudaErrorInsufficientDriver (35): old", True, True),
                                ("cuda: cudaStreamSynchronize: cudaErrorIllegalAddress (700): an illegal access", True, False),
                                ("device: cuda needs a program that was built with the target meft::cuda", True, False),
                                ("device: cuda needs a program that was built with the target meft::cuda", False, True)):
        program.write_text(f"#!/bin/sh\necho 'finetune: {words}' >&2\nexit 1\n")
        program.chmod(0o755)
        try:
            with contextlib.redirect_stdout(None):  # what is skipped here is told nowhere
                found = not has_device(place, program, built)
        except AssertionError:
            found = False
        check(found == skips, f"{words}: built {built}, skips {found}")


def test_device(place):
    """--device cuda learns what the CPU learns, to the same bits each time, and either reads what the other wrote."""
    if not has_device(place): return
    worst = 0
    # One family a kind of task: cuda_models_test has every family and method.
    runs = (("roberta", "sst2", ["lora", "meft1"]), ("roberta", "lm", ["mezo"]), ("opt", "arc_easy", ["meft2"]),
            ("bart", "sst2", ["full"]), ("vit", "images", ["meft3"]))
    if SANITIZED:  # the emulator takes minutes a run there, and cuda_models_test has the other models
        runs = (("roberta", "sst2", ["meft1"]), ("vit", "images", ["meft3"]))
    for model, task, methods in runs:
        for method in methods:
            host, device, again = place.folder(), place.folder(), place.folder()
            more = narrow(method)
            place.run(model, task, method, host, *more, rate=1e-3)
            place.run(model, task, method, device, *more, "--device", "cuda", rate=1e-3)
            losses = [[e["train_loss"] for e in json.loads((folder / "metrics.json").read_text())["epochs"]] for folder in (host, device)]
            apart = max(abs(a - b) / a for a, b in zip(*losses))
            check(apart < 1e-4, f"{model} {task} {method}: losses {losses}")
            worst = max(worst, apart)
            if (model, method) not in (("roberta", "meft1"), ("bart", "full")): continue
            place.run(model, task, method, again, *more, "--device", "cuda", rate=1e-3)
            check(results(again) == results(device), f"{model} {task} {method}: the device gives other bits the second time")
            scores = [last_number(place.run(model, task, method, folder, "--eval-only", *more, "--device", name, rate=1e-3))
                      for folder, name in ((device, "cuda"), (device, "cpu"), (host, "cuda"))]
            check(scores[0] == scores[1], f"{model} {task} {method}: read back by the device and by the CPU: {scores}")
    # Blocks are decoded on the device: as they lie in a file, and made. Both sides are rounded to bf16 there and here.
    runs = (("llama.gguf", "lm", "meft1", "as-stored"), ("roberta", "sst2", "lora", "q4"))
    for model, task, method, weights in runs[:0] if SANITIZED else runs:
        losses, more = [], (*narrow(method), "--weights", weights)
        for name in ("cpu", "cuda"):
            folder = place.folder()
            place.run(model, task, method, folder, *more, "--device", name, rate=1e-3)
            losses.append([e["train_loss"] for e in json.loads((folder / "metrics.json").read_text())["epochs"]])
        apart = max(abs(a - b) / a for a, b in zip(*losses))
        check(apart < 1e-3, f"{model} {task} {method} --weights {weights}: losses {losses}")
    print(f"cuda against cpu: losses differ by at most {worst:.1e}")


def test_refuses(place):
    for model, task, expected in (("vit", "sst2", "--task: expected images"), ("opt", "images", "--task: expected a task on texts"),
                                  ("bart", "lm", "no --task lm")):
        done = subprocess.run([FINETUNE, "--model", place.root / model, "--task", task, "--data", place.root / task, "--output",
                               place.folder()], capture_output=True, text=True)
        check(done.returncode == 2 and expected in done.stderr, f"{model} {task}: {done.returncode}: {done.stderr}")
    for model, method in (("roberta", "head"), ("t5", "bitfit")):  # the head is the model's; it has no biases
        task = "lm" if method == "head" else "text2text"
        more = () if method == "head" else ("--text", "source", "--label", "target")
        done = subprocess.run(place.command(model, task, method, place.folder(), *more), capture_output=True, text=True)
        check(done.returncode == 2 and "--method: expected one that trains something" in done.stderr, f"{model} {method}: {done.stderr}")


def main():
    tests = {name: f for name, f in globals().items() if name.startswith("test_")}
    chosen = ["test_" + name for name in sys.argv[2:]] or list(tests)
    with tempfile.TemporaryDirectory() as root:
        place = Place(root)
        for name in chosen:
            tests[name](place)
            print(name, "ok", flush=True)


if __name__ == "__main__":
    main()
