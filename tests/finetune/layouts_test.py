"""Opens old and odd layouts of checkpoints with the fine-tuner: layouts_test.py FINETUNE [NAME...]

Each is made here, with the standard library alone, from the small models of golden/cases, and opens, giving the loss of
the plain layout to the last bit, or ends naming what is missing. golden/cases has random models with what transformers
5.24 gives for them. NAMEs pick tests.
"""
import json
import math
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import zipfile

FINETUNE = pathlib.Path(sys.argv[1]).absolute()  # its name says what it is
CASES = pathlib.Path(__file__).resolve().parents[1] / "golden" / "cases"
UNIT = {"F32": "f", "F64": "d", "F16": "e", "I64": "q"}


# Checkpoints are {name: (dtype, shape, bytes)}.

def read(path):
    raw = path.read_bytes()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (i["dtype"], i["shape"], raw[8 + size:][slice(*i["data_offsets"])]) for name, i in header.items()}


def write(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def values(tensor):
    dtype, _, raw = tensor
    return struct.unpack(f"<{len(raw) // struct.calcsize(UNIT[dtype])}{UNIT[dtype]}", raw)


def cast(tensor, dtype):
    numbers = values(tensor)
    if dtype == "BF16":  # of numbers that are bfloat16 already
        return dtype, tensor[1], b"".join(struct.pack("<f", x)[2:] for x in numbers)
    return dtype, tensor[1], struct.pack(f"<{len(numbers)}{UNIT[dtype]}", *numbers)


def renamed(tensors, change):
    return {change(name): tensor for name, tensor in tensors.items()}


# Pickles of torch.save: the classes that they name, and objects that pickle as its tensors do.

def module(name):
    sys.modules[name] = types.ModuleType(name)
    return sys.modules[name]


def named(where, name):
    made = type(name, (), {"__module__": where.__name__, "__qualname__": name})
    setattr(where, name, made)
    return made


TORCH, UTILS = module("torch"), module("torch._utils")
STORAGE = {d: named(TORCH, n) for d, n in
           {"F32": "FloatStorage", "F64": "DoubleStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
            "I64": "LongStorage"}.items()}


def _rebuild_tensor_v2(*_): pass


_rebuild_tensor_v2.__module__ = "torch._utils"
UTILS._rebuild_tensor_v2 = _rebuild_tensor_v2


class Storage:
    def __init__(self, key, dtype, raw):
        self.key, self.dtype, self.raw = key, dtype, raw
        self.count = len(raw) // {"F32": 4, "F64": 8, "I64": 8}.get(dtype, 2)


class Tensor:
    def __init__(self, storage, shape):
        self.storage, self.shape = storage, shape

    def __reduce__(self):
        import collections
        strides = [math.prod(self.shape[i + 1:]) for i in range(len(self.shape))]
        return UTILS._rebuild_tensor_v2, (self.storage, 0, tuple(self.shape), tuple(strides), False, collections.OrderedDict())


def dumped(what, legacy):
    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not isinstance(x, Storage): return None
            return ("storage", STORAGE[x.dtype], x.key, "cpu", x.count) + ((None,) if legacy else ())
    import io
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(what)
    return out.getvalue()


def pickled(tensors, around=lambda dict: dict):
    """-> the object to pickle, its storages."""
    storages = {name: Storage(str(i), dtype, raw) for i, (name, (dtype, _, raw)) in enumerate(tensors.items())}
    return around({name: Tensor(storages[name], tensors[name][1]) for name in tensors}), list(storages.values())


def write_zip(path, tensors, around=lambda dict: dict, more=()):
    what, storages = pickled(tensors, around)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", dumped(what, False))
        out.writestr("archive/byteorder", "little")
        for s in storages: out.writestr("archive/data/" + s.key, s.raw)
        out.writestr("archive/version", "3\n")
        for name in more: out.writestr("archive/" + name, "x")


def write_legacy(path, tensors, around=lambda dict: dict):
    what, storages = pickled(tensors, around)
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = b"".join(pickle.dumps(x, protocol=2) for x in (0x1950a86a20f9469cfc6c, 1001, machine)) + dumped(what, True)
    order = sorted(storages, key=lambda s: s.key)
    out += pickle.dumps([s.key for s in order], protocol=2)
    path.write_bytes(out + b"".join(struct.pack("<q", s.count) + s.raw for s in order))


# Running.

class Folder:
    """A copy of a case's model without weights, to be filled."""

    def __init__(self, case="label-order", keep=False):
        self.case = CASES / case
        self.path = pathlib.Path(tempfile.mkdtemp(dir=WORK))
        shutil.copytree(self.case / "model", self.path / "model")
        self.model, self.data = self.path / "model", self.path / "data"
        self.data.mkdir()
        for file in (self.case / "data").iterdir():
            for split in ("train", "dev"): shutil.copy(file, self.data / (split + file.suffix))
        self.weights = read(self.model / "model.safetensors") if (self.model / "model.safetensors").exists() else None
        if not keep:
            for file in self.model.glob("*.safetensors"): file.unlink()

    def config(self, **changes):
        at = self.model / "config.json"
        config = json.loads(at.read_text())
        config.update(changes)
        at.write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))

    def run(self, *options, language=False):
        """With other options than those of a step that changes nothing."""
        options = options or ["--method", "full", "--lr", "1e-12", "--weight-decay", "0", "--max-steps", "1"]
        task = ["--task", "lm"] if language else ["--task", "tsv", "--text", "text", "--label", "label"]
        command = [FINETUNE, "--model", self.model, *task, "--data", self.data, "--output", self.path / "run",
                   "--log-every", "1", *options]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True)

    def loss(self, **options):
        done = self.run(**options)
        assert done.returncode == 0, (done.stdout, done.stderr)
        lines = [json.loads(line) for line in (self.path / "run" / "log.jsonl").read_text().splitlines()]
        return next(line["loss"] for line in lines if "loss" in line), done.stdout

    def error(self, *parts, **options):
        done = self.run(**options)
        text = done.stdout + done.stderr
        assert done.returncode != 0, text
        for part in parts: assert part in text, (part, text)


def plain():
    folder = Folder(keep=True)
    return folder.loss()[0]


def same(write_it, *said, config=None):
    """A layout of label-order's model gives its loss, and the program says these parts."""
    folder = Folder()
    write_it(folder)
    if config: folder.config(**config)
    loss, text = folder.loss()
    assert loss == plain(), (loss, plain(), text)
    for part in said: assert part in text, (part, text)
    return text


def put(change=lambda name: name, name="model.safetensors", writer=write, **options):
    return lambda f: writer(f.model / name, renamed(f.weights, change), **options)


def modern_to_old(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def inside(lead):
    return lambda name: lead + name


def bare(name):
    return name.removeprefix("bert.")


def test_gamma_and_beta():
    same(put(modern_to_old))
    same(put(modern_to_old, "pytorch_model.bin", write_legacy))


def test_without_prefix():
    same(put(bare))
    same(put(lambda n: bare(modern_to_old(n)), "pytorch_model.bin", write_zip))


def test_data_parallel():
    same(put(inside("module.")), "under `module.bert.`")
    same(put(lambda n: "module." + bare(n), "pytorch_model.bin", write_legacy), "under `module.`")


def test_lightning():
    around = lambda d: {"epoch": 3, "global_step": 7, "state_dict": d, "loops": {}, "optimizer_states": []}
    same(put(inside("model."), "pytorch_model.bin", write_zip, around=around), "under `model.bert.`")
    same(put(inside("transformer."), "pytorch_model.bin", write_legacy, around=around), "under `transformer.bert.`")


def test_nested():
    for name in ("model", "model_state_dict", "state_dict"):
        same(put(name="pytorch_model.bin", writer=write_zip, around=lambda d: {"step": 1, name: d}))


def test_legacy_bin():
    same(put(name="pytorch_model.bin", writer=write_legacy))
    folder = Folder()
    put(name="pytorch_model.bin", writer=write_legacy)(folder)
    at = folder.model / "pytorch_model.bin"
    at.write_bytes(at.read_bytes()[:-5])
    folder.error("pytorch_model.bin", "ends too early")


def test_shards():
    def shards(folder, leave_out=()):
        names = list(folder.weights)
        half = len(names) // 2
        files = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
        for file, inside in files.items():
            if file not in leave_out: write(folder.model / file, {n: folder.weights[n] for n in inside})
        (folder.model / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {n: f for f, names in files.items() for n in names}}))
    same(shards)
    folder = Folder()
    shards(folder, ["model-00002-of-00002.safetensors"])
    folder.error("model-00002-of-00002.safetensors", "No such file")
    (folder.model / "model-00002-of-00002.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 17032\n")
    folder.error("model-00002-of-00002.safetensors", "Git LFS pointer to 17032 bytes")


def test_mixed_types():
    folder = Folder()
    short = {n: (d, s, b"".join(b"\0\0" + raw[i + 2:i + 4] for i in range(0, len(raw), 4)))
             for n, (d, s, raw) in folder.weights.items()}  # cut to bfloat16
    write(folder.model / "model.safetensors", short)
    expected = folder.loss()[0]
    assert abs(expected - plain()) < 0.05
    for writer, name in ((write, "model.safetensors"), (write_zip, "pytorch_model.bin"), (write_legacy, "pytorch_model.bin")):
        other = Folder()
        kinds = ["BF16", "F32", "F64"]
        mixed = {n: cast(t, kinds[i % 3]) for i, (n, t) in enumerate(short.items())}
        writer(other.model / name, mixed)
        assert other.loss()[0] == expected
    halves = {n: cast(t, "F16") for n, t in folder.weights.items()}
    back = {n: cast(t, "F32") for n, t in halves.items()}
    one, two = Folder(), Folder()
    write(one.model / "model.safetensors", halves)
    write_legacy(two.model / "pytorch_model.bin", back)
    assert one.loss()[0] == two.loss()[0]


def test_buffers_and_unused_heads():
    def more(folder):
        positions = ("I64", [1, 40], struct.pack("<40q", *range(40)))
        write(folder.model / "model.safetensors",
              {**folder.weights, "bert.embeddings.position_ids": positions,
               "cls.seq_relationship.weight": ("F32", [2, 16], bytes(128)), "qa_outputs.bias": ("F32", [2], bytes(8))})
    text = same(more, "in the checkpoint, not used: cls.seq_relationship.weight, qa_outputs.bias\n")
    assert "position_ids" not in text


def test_torchscript():
    folder = Folder()
    put(name="pytorch_model.bin", writer=write_zip, more=["constants.pkl", "code/__torch__.py"])(folder)
    folder.error("pytorch_model.bin", "TorchScript")


def test_code():
    folder = Folder()
    with zipfile.ZipFile(folder.model / "pytorch_model.bin", "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.")
    folder.error("pytorch_model.bin", "os.system", "refused")


def test_others_only():
    for name, part in (("flax_model.msgpack", "Flax"), ("tf_model.h5", "TensorFlow"), ("model-q4.gguf", "llama.cpp"),
                       ("consolidated.00.pth", "under a name that is not looked for"),
                       ("model.safetensors.crdownload", "a download that did not end"),
                       ("adapter_model.safetensors", "PEFT")):
        folder = Folder()
        (folder.model / name).write_bytes(b"x" * 100)
        folder.error("expected model.safetensors", name, part)


def test_what_is_no_checkpoint():
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 17032\n"
    for name in ("model.safetensors", "pytorch_model.bin"):
        for text, part in ((pointer, "Git LFS pointer"), ("<!DOCTYPE html><html></html>", "a web page"), ("", "is empty"),
                           ('{"error": "Repository not found"}', "a text that begins with")):
            folder = Folder()
            (folder.model / name).write_text(text)
            folder.error(name, part)
    for name in ("tokenizer.json", "config.json", "vocab.txt"):
        folder = Folder(keep=True)
        if name == "vocab.txt": (folder.model / "tokenizer.json").unlink()
        (folder.model / name).write_text(pointer)
        folder.error(name, "Git LFS pointer")


def test_missing_tensors():
    folder = Folder()
    write(folder.model / "model.safetensors", {n: t for n, t in folder.weights.items() if "attention.self" not in n})
    folder.error("tensors are missing", "attention.self.query.weight, ", "attention.self.key.weight and 3 more",
                 "such as '")


def test_no_folder():
    folder = Folder()
    folder.model = "bert-base-uncased"
    folder.error("expected a folder with config.json", "bert-base-uncased", "not looked up")


def test_nan_and_infinity():
    for value in (math.nan, math.inf):
        folder = Folder()
        name = "bert.encoder.layer.0.attention.self.query.weight"
        dtype, shape, raw = folder.weights[name]
        write(folder.model / "model.safetensors", {**folder.weights, name: (dtype, shape, struct.pack("<f", value) + raw[4:])})
        folder.error(name, "element 0 is " + ("NaN" if math.isnan(value) else "infinite"))


def test_label_order():
    """The right accuracy is 1: the labels are what transformers predicts."""
    def accuracy(**config):
        folder = Folder(keep=True)
        folder.config(**config)
        loss, text = folder.loss()
        return text
    assert "accuracy 1.0000" in accuracy()
    assert "accuracy 1.0000" in accuracy(id2label={"0": "POSITIVE", "1": "Negative"}, label2id={"POSITIVE": 0, "Negative": 1})
    assert "accuracy 1.0000" in accuracy(id2label="gone")  # label2id is left
    turned = accuracy(id2label={"0": "neg", "1": "pos"}, label2id={"neg": 0, "pos": 1})
    assert "accuracy 0.0000" in turned
    unnamed = accuracy(id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert "accuracy 0.0000" in unnamed and "the order of its labels is assumed: 'neg' = 'LABEL_0' (row 0)" in unnamed


def test_mnli():
    """A head of MNLI in three orders says the same of task mnli, whose classes have an order of their own."""
    losses = set()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):  # the row of entailment, neutral, contradiction
        folder = Folder()
        names = [None] * 3
        rows = [None] * 3
        for row, name, value in zip(order, ("entailment", "NEUTRAL", "contradiction"), (0.1, 0.7, -0.4)):
            names[row], rows[row] = name, struct.pack("<16f", *(value * (i % 5 - 2) for i in range(16)))
        bias = b"".join(struct.pack("<f", len(n) / 10) for n in names)
        write(folder.model / "model.safetensors", {**folder.weights, "classifier.weight": ("F32", [3, 16], b"".join(rows)),
                                                  "classifier.bias": ("F32", [3], bias)})
        folder.config(id2label={str(i): n for i, n in enumerate(names)}, label2id={n: i for i, n in enumerate(names)})
        data = folder.path / "mnli"
        data.mkdir()
        header = "sentence1\tsentence2\tgold_label\n"
        for split in ("train", "dev_matched"):
            (data / f"{split}.tsv").write_text(header + "".join(
                f"the film is good\ta bad book\t{l}\n" for l in ("entailment", "neutral", "contradiction", "neutral")))
        command = [FINETUNE, "--model", folder.model, "--task", "mnli", "--data", data, "--output", folder.path / "run",
                   "--method", "full", "--lr", "1e-12", "--max-steps", "1", "--log-every", "1"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        line = json.loads((folder.path / "run" / "log.jsonl").read_text().splitlines()[0])
        losses.add(round(line["loss"], 6))
    assert len(losses) == 1, losses


def test_heads_of_other_tasks():
    for config, part in (({"problem_type": "multi_label_classification"}, "its problem_type is 'multi_label_classification'"),
                         ({"problem_type": "regression"}, "its problem_type is 'regression'")):
        folder = Folder(keep=True)
        folder.config(**config)
        text = folder.loss()[1]
        assert part in text and "newly made: classifier.weight, classifier.bias" in text, text
    folder = Folder()
    weight, bias = folder.weights["classifier.weight"], folder.weights["classifier.bias"]
    write(folder.model / "model.safetensors", {**folder.weights, "classifier.weight": ("F32", [1, 16], weight[2][:64]),
                                              "classifier.bias": ("F32", [1], bias[2][:4])})
    text = folder.loss()[1]
    assert "has 1 row, 2 are needed: made anew" in text, text


def likelihood(folder):
    text = folder.loss(language=True)[1]
    assert "not used" not in text, text
    return text.split("dev log_likelihood ")[1].split(",")[0]


def test_untied_head():
    folder = Folder("untied-head", keep=True)
    assert likelihood(folder) == "-7.6154"
    for rename in (lambda n: n.removeprefix("model."), inside("module."), inside("_orig_mod.")):
        folder = Folder("untied-head")
        put(rename)(folder)
        assert likelihood(folder) == "-7.6154"
    # transformers does not tie what differs, whatever the config says; without a head the embeddings are taken
    folder = Folder("untied-head", keep=True)
    folder.config(tie_word_embeddings=True)
    assert likelihood(folder) == "-7.6154"
    folder = Folder("untied-head")
    write(folder.model / "model.safetensors", {n: t for n, t in folder.weights.items() if n != "lm_head.weight"})
    loss, text = folder.loss(language=True)
    assert "dev log_likelihood -7.2808" in text and "the output is the word embeddings" in text, text


def test_untied_head_is_saved_and_resumed():
    for method in ("full", "lora"):
        folder = Folder("untied-head", keep=True)
        options = ["--method", method, "--lr", "1e-3", "--max-steps", "4", "--epochs", "4"]
        done = folder.run(*options, language=True)
        assert done.returncode == 0, done.stderr
        saved = read(folder.path / "run" / "adapter.safetensors")
        assert ("lm_head.weight" in saved) == (method == "full")
        if method == "full": assert saved["lm_head.weight"][2] != folder.weights["lm_head.weight"][2]
        scored = subprocess.run(list(map(str, [FINETUNE, "--model", folder.model, "--task", "lm", "--data",
                                               folder.data, "--output", folder.path / "run",
                                               "--eval-only"])), capture_output=True, text=True)
        assert scored.returncode == 0, scored.stderr
        best = next(line for line in done.stdout.splitlines() if line.startswith("best:"))
        value = best.split("log_likelihood ")[1].split(",")[0]
        assert "log_likelihood " + value in scored.stdout, (best, scored.stdout)


def test_lm_head_only():
    folder = Folder("lm-head-only", keep=True)
    assert likelihood(folder) == "-8.4313"
    for rename in (inside("module."), lambda n: n.removeprefix("model.")):
        folder = Folder("lm-head-only")
        put(rename)(folder)
        assert likelihood(folder) == "-8.4313"
    folder = Folder("lm-head-only")
    put(name="pytorch_model.bin", writer=write_legacy)(folder)
    assert likelihood(folder) == "-8.4313"


def test_real_legacy_bin():
    folder = Folder("legacy-bin", keep=True)
    assert folder.run().returncode == 0
    command = [FINETUNE, "--model", folder.model, "--output", folder.path / "run", "--predict", folder.case / "in.tsv"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split("\t") for line in (folder.path / "run" / "predictions.tsv").read_text().splitlines()]
    assert [row[header.index("p(neg)")] for row in rows] == ["0.403109", "0.669095"], rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as WORK:
        for name, test in list(globals().items()):
            if not name.startswith("test_") or (sys.argv[2:] and name not in sys.argv[2:]): continue
            test()
            print("ok", name, flush=True)
