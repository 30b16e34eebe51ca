"""Owns: what the tests of the fine-tuner share: a tiny random BERT, made-up reviews, the program's command, and checks of what a
run leaves. The first argument is the program.
"""
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

FINETUNE = sys.argv[1]
LIMIT = 3000  # seconds a run, against a hang
GOOD, BAD, PLAIN = ["fine", "great", "warm", "clever"], ["dull", "awful", "cold", "stale"], ["the", "film", "plot", "cast", "was", "a", "very", "it"]


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    """Returns tensors as bytes by name, and the metadata."""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    metadata = header.pop("__metadata__", {})
    body = raw[8 + size:]
    return {name: body[slice(*info["data_offsets"])] for name, info in header.items()}, metadata


def set_config(path, config):
    """Writes what an adapter says of its run anew, and leaves the tensors."""
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    header["__metadata__"]["config"] = json.dumps(config)
    header["__metadata__"].pop("checksum", None)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])


def make_model(folder, width=16, layers=2, heads=2, inner=32, embedded=1.0, positions=40):
    folder.mkdir()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + GOOD + BAD + PLAIN
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    (folder / "config.json").write_text(json.dumps({
        "model_type": "bert", "vocab_size": len(vocab), "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner, "max_position_embeddings": positions, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1}))
    rng = random.Random(5)
    tensors = {}

    def matrix(name, rows, columns):
        tensors[name] = ([rows, columns], [rng.gauss(0, 0.15) for _ in range(rows * columns)])

    def vector(name, size, value):
        tensors[name] = ([size], [value] * size)

    def norm(name):
        vector(name + ".weight", width, 1.0)
        vector(name + ".bias", width, 0.0)

    def linear(name, columns, rows):
        matrix(name + ".weight", rows, columns)
        vector(name + ".bias", rows, 0.0)

    matrix("embeddings.word_embeddings.weight", len(vocab), width)
    matrix("embeddings.position_embeddings.weight", positions, width)
    matrix("embeddings.token_type_embeddings.weight", 2, width)
    norm("embeddings.LayerNorm")
    vector("embeddings.LayerNorm.weight", width, embedded)
    for i in range(layers):
        at = f"encoder.layer.{i}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(at + part, width, width)
        norm(at + "attention.output.LayerNorm")
        linear(at + "intermediate.dense", width, inner)
        linear(at + "output.dense", inner, width)
        norm(at + "output.LayerNorm")
    linear("pooler.dense", width, width)
    write_safetensors(folder / "model.safetensors", tensors)


def make_data(folder, train=240, dev=40):
    folder.mkdir()
    rng = random.Random(6)
    for name, count in (("train.tsv", train), ("dev.tsv", dev)):
        rows = ["sentence\tlabel"]
        for _ in range(count):
            good = rng.random() < 0.5
            words = [rng.choice(PLAIN) for _ in range(rng.randint(2, 12))]
            words.insert(rng.randint(0, len(words)), rng.choice(GOOD if good else BAD))
            rows.append(" ".join(words) + f"\t{int(good)}")
        (folder / name).write_text("\n".join(rows) + "\n")


class Place:
    """A folder with a model and data, and the command on them."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.model, self.data = self.root / "model", self.root / "data"
        make_model(self.model)
        make_data(self.data)
        self.number = 0

    def folder(self):
        self.number += 1
        return self.root / f"run{self.number}"

    def command(self, output, *more, method="meft1", task=True):
        out = [FINETUNE]
        for flag, value in (("--model", self.model), ("--output", output)):
            if flag not in more: out += [flag, str(value)]
        if task:
            usual = {"--task": "sst2", "--data": self.data, "--method": method, "--batch": 8, "--epochs": 2, "--lr": 0.01}
            out += [str(x) for flag, value in usual.items() if flag not in more for x in (flag, value)]
        return out + [str(x) for x in more]


def execute(command, status=0, **more):
    command = [str(x) for x in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=LIMIT, **more)
    check(done.returncode == status, f"{' '.join(command)}: status {done.returncode}, expected {status}\n{done.stdout}{done.stderr}")
    return done


def killed(command, folder):
    """Kills a run when its first state is there; begins anew where it was done before that was seen."""
    for _ in range(20):
        process = subprocess.Popen([str(x) for x in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (folder / "state.safetensors").exists(): time.sleep(0.0005)
        process.kill()
        if process.wait() < 0: return
        shutil.rmtree(folder)
    check(False, f"{' '.join(map(str, command))}: was done each time")


def check(ok, message):
    if not ok:
        raise AssertionError(message)


def results(folder):
    """What the same options give again, bit for bit."""
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["memory"]
    return {"adapter": (folder / "adapter.safetensors").read_bytes(), "metrics": metrics}


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def check_log(folder):
    """Step lines in ascending order, an evaluation at each epoch's end, nothing twice."""
    lines = log_of(folder)
    steps = [line["step"] for line in lines if "loss" in line]
    epochs = [line["epoch"] for line in lines if "dev" in line]
    check(steps == sorted(set(steps)), f"log: steps {steps}")
    check(epochs == list(range(1, len(epochs) + 1)), f"log: epochs {epochs}")
    check([line["step"] for line in lines] == sorted(line["step"] for line in lines), "log: out of order")
    return lines


def run(place, *more, method="meft1"):
    folder = place.folder()
    execute(place.command(folder, *more, method=method))
    return folder


def lines_of(folder):
    return (folder / "log.jsonl").read_text().splitlines()


def main(scope):
    """Runs the functions test_NAME of `scope` whose names are on the command line, or all."""
    tests = {name[5:]: f for name, f in scope.items() if name.startswith("test_")}
    status = 0
    for name in sys.argv[2:] or tests:
        with tempfile.TemporaryDirectory() as root:
            began = time.time()
            try:
                tests[name](Place(root))
                print(f"{name}: passed in {time.time() - began:.1f} s", flush=True)
            except AssertionError as error:
                print(f"{name}: FAILED: {error}", flush=True)
                status = 1
    return status
