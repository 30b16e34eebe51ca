"""Tests examples/finetune as a user runs it, on a tiny random BERT and made-up reviews: finetune_test.py FINETUNE [NAME...]

Training, every method, other thread counts; prediction; flags and files that are wrong. NAMEs pick tests.
"""
import json
import math
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
from finetune_methods import methods_of

from place import (BAD, FINETUNE, GOOD, LIMIT, check, check_log, execute, killed, log_of, main, make_model, read_safetensors, results,
                   run, set_config)


def test_trains(place):
    folder, more = place.folder(), ("--log-every", 7, "--epochs", 8, "--pooling", "mean", "--lr", 0.03)
    done = execute(place.command(folder, *more, "--threads", 1))
    for word in ("parameters train", "activation", "full", "240 examples", "40 to score on"):
        check(word in done.stdout, f"no `{word}` in\n{done.stdout}")
    metrics = json.loads((folder / "metrics.json").read_text())
    check(metrics["finished"] and metrics["steps"] == 240 and len(metrics["epochs"]) == 8 and metrics["metric"] == "accuracy", str(metrics))
    check(metrics["value"] == max(e["dev"]["accuracy"] for e in metrics["epochs"]) and metrics["value"] >= 0.75, f"it did not learn: {metrics}")
    check(metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"], str(metrics))
    lines = check_log(folder)
    check(sum("loss" in line for line in lines) == 34, "a line every 7 of 240 steps")
    for key in ("rate", "gradient_norm", "sequences_per_second", "speed_of_light", "activation_bytes", "seconds"):
        check(all(line[key] > 0 for line in lines if "loss" in line), key)
    tensors, metadata = read_safetensors(folder / "adapter.safetensors")
    for name in ("encoder.layer.1.mlp_adapter.down.weight", "encoder.layer.0.reversible_adapter.up.bias", "classifier.weight"):
        check(name in tensors, f"{name} is not among {sorted(tensors)}")
    check(not any("query" in name for name in tensors), "a frozen tensor was saved")
    check(sum(map(len, tensors.values())) == 4 * metrics["trained_parameters"], "trained_parameters")
    config = json.loads(metadata["config"])
    check(config["method"] == "meft1" and config["lambda"] == "1/10" and config["labels"] == ["negative", "positive"], str(config))
    check(results(folder) == results(run(place, *more, "--threads", 2)), "two threads give other bits than one")
    check(not list(folder.glob("*.partial")), "a partial file is left")


def test_methods(place):
    for method in methods_of(FINETUNE):
        if method == "fpt":
            error = execute(place.command(place.folder(), method=method), 1).stderr
            check("fpt: expected a model that reads images, found: bert" in error, error)
            continue
        folder = run(place, "--max-steps", 6, method=method)
        tensors, _ = read_safetensors(folder / "adapter.safetensors")
        check("classifier.bias" in tensors, method)
        if method == "head":
            check(sorted(tensors) == ["classifier.bias", "classifier.weight", "pooler.dense.bias", "pooler.dense.weight"], str(sorted(tensors)))
        scored = execute(place.command(folder, "--eval-only", "--data", place.data, task=False)).stdout
        value = json.loads((folder / "metrics.json").read_text())["value"]
        check(f"accuracy {value:.4f}" in scored, f"{method}: {scored}, expected {value}")
        cut = place.folder()
        killed(place.command(cut, "--max-steps", 6, "--save-every", 1, method=method), cut)
        execute(place.command(cut, "--max-steps", 6, "--resume", method=method))
        check(results(cut) == results(folder), f"{method}: a kill changed the bits")
    for method in ("meft1", "meft2", "meft3"):
        exact, stored, one = (read_safetensors(run(place, "--max-steps", 6, *more, method=method) / "adapter.safetensors")[0]
                              for more in (["--streams", "exact"], ["--streams", "stored"], ["--stored-layers", 1]))
        check(exact == stored == one, f"{method}: exact, stored, and one layer stored differ")
    plain, again = (read_safetensors(run(place, "--max-steps", 6, *more, method="full") / "adapter.safetensors")[0] for more in ((), ("--recompute",)))
    check(plain == again, "recomputing changes the bits")
    ladder = {kept: run(place, "--max-steps", 6, "--feature-cache", kept, method="lst") for kept in (0, 8)}
    check(results(ladder[0]) == results(ladder[8]), "features of before change the bits")
    held = {kept: json.loads((folder / "metrics.json").read_text())["memory"]["feature_bytes"] for kept, folder in ladder.items()}
    check(held[0] == 0 < held[8], str(held))
    some = read_safetensors(run(place, "--max-steps", 2, "--reversible-layers", 1) / "adapter.safetensors")[0]
    check(not any("layer.0" in name for name in some), "an adapter below the reversible layers")


def test_options_reach_steps(place):
    def rates(*more, **which):
        return [line["rate"] / 0.001 for line in log_of(run(place, "--log-every", 1, "--lr", 0.001, *more, **which)) if "loss" in line]

    def near(found, expected): return len(found) == len(expected) and all(abs(a - b) < 1e-9 for a, b in zip(found, expected))

    for found, expected in ((rates("--warmup", 0.5, "--max-steps", 4), [0.5, 1, 1, 0.5]), (rates("--max-steps", 20, method="mezo"), [1] * 20)):
        check(near(found, expected), f"rates {found}, expected {expected}")
    name = "encoder.layer.1.mlp_adapter.down.weight"
    first, other, again = (read_safetensors(run(place, "--max-steps", 1, "--lr", 1e-30, *more) / "adapter.safetensors")[0][name]
                           for more in ((), ("--seed", 1), ("--seed", 1)))
    check(first != other == again, "new weights do not go by --seed")


def test_predicts(place):
    folder = run(place)
    value = json.loads((folder / "metrics.json").read_text())["value"]
    rows = [line.split("\t") for line in (place.data / "dev.tsv").read_text().splitlines()[1:]]
    texts = place.root / "texts.tsv"
    texts.write_text("\n".join(["sentence"] + [row[0] for row in rows]) + "\n")
    execute(place.command(folder, "--predict", texts, task=False))
    table = [line.split("\t") for line in (folder / "predictions.tsv").read_text().splitlines()]
    check(table[0] == ["label", "p(negative)", "p(positive)", "text"] and len(table) == len(rows) + 1, str(table[:2]))
    check([row[3] for row in table[1:]] == [row[0] for row in rows], "not the texts of the file")
    hits = sum(row[0] == ("negative", "positive")[int(wanted[1])] for row, wanted in zip(table[1:], rows))
    check(abs(hits / len(rows) - value) < 1e-9, f"{hits} of {len(rows)}, metrics.json says {value}")
    for label, negative, positive, _ in table[1:]:
        check(abs(float(negative) + float(positive) - 1) < 2e-6, "probabilities do not add up")
        check((label == "positive") == (float(positive) > float(negative)) or negative == positive, "label and probabilities differ")
    other = place.root / "other"
    make_model(other)
    raw = bytearray((other / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (other / "model.safetensors").write_bytes(raw)
    command = place.command(folder, "--predict", texts, task=False)
    command[command.index("--model") + 1] = str(other)
    check("--model: expected the checkpoint that" in execute(command, 2).stderr, "another checkpoint was taken")
    error = execute(place.command(folder, "--predict", texts, "--method", "lora", task=False), 2).stderr
    check("--method: expected meft1" in error and "found lora" in error, error)
    error = execute(place.command(folder, "--predict", texts, "--lora-rank", 4, task=False), 2).stderr
    check("--lora-rank: expected --inside lora, found --inside none" in error, error)
    error = execute(place.command(place.folder(), "--predict", texts, task=False), 1).stderr
    check("holds no adapter.safetensors" in error, error)


def test_tsv(place):
    data = place.root / "pairs.tsv"
    rng = random.Random(3)
    rows = []
    for _ in range(60):
        word = rng.choice(GOOD + BAD)
        rows.append(f"{rng.uniform(0.1, 3) * (1 if word in GOOD else -1):.2f}\tthe film was {word}\tvery {word}")
    data.write_text("\n".join(rows) + "\n")
    base = [FINETUNE, "--model", str(place.model), "--task", "tsv", "--data", str(data), "--text", "2", "--text-pair", "3", "--label", "1", "--epochs", "1"]
    folder = place.folder()
    out = execute(base + ["--threshold", "0.5", "--output", str(folder)]).stdout
    low = sum(abs(float(row.split("\t")[0])) < 0.5 for row in rows)
    check("held out" in out and f"{low} rows below the threshold, or cut in two, are left out" in out, out)
    value = json.loads((folder / "metrics.json").read_text())["value"]
    scored = execute([FINETUNE, "--model", str(place.model), "--output", str(folder), "--eval-only", "--data", str(data)]).stdout
    check(f"accuracy {value:.4f}" in scored and " held-out examples: accuracy" in scored, scored)
    other = place.root / "other.tsv"  # of which nothing was trained on: all is scored
    other.write_text("\n".join(rows[10:]) + "\n")
    scored = execute([FINETUNE, "--output", str(folder), "--eval-only", "--data", str(other)]).stdout
    count = sum(abs(float(row.split("\t")[0])) >= 0.5 for row in rows[10:])
    check(f"{count} dev examples: accuracy" in scored and "dev `other.tsv`" in scored, scored)
    folder = place.folder()
    execute(base + ["--regression", "--output", str(folder)])
    check("pearson" in json.loads((folder / "metrics.json").read_text())["dev"], "no correlation")
    execute([FINETUNE, "--model", str(place.model), "--output", str(folder), "--predict", str(data)])
    table = (folder / "predictions.tsv").read_text().splitlines()
    check(table[0] == "value\ttext\ttext_pair" and len(table) == 61 and all(math.isfinite(float(x.split("\t")[0])) for x in table[1:]), str(table[:3]))
    data.write_text("\n".join(rows[:5] + ["1.0\tonly two"] + rows[5:]) + "\n")
    error = execute(base + ["--threshold", "0.5", "--output", str(place.folder())], 1).stderr
    check("pairs.tsv:6: expected 3 columns" in error and "found 2" in error and "only two" in error, error)
    data.write_text("\n".join(rows[:5] + ["x\ta\tb"] + rows[5:]) + "\n")
    error = execute(base + ["--threshold", "0.5", "--output", str(place.folder())], 1).stderr
    check("pairs.tsv:6: expected a number as label, found `x`" in error, error)


def test_tokenizer(place):
    """What the files beside the vocabulary change."""
    model = place.root / "told"
    shutil.copytree(place.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    pairs = place.root / "two.tsv"
    pairs.write_text("".join(f"{i % 2}\tthe film\twas good\n" for i in range(20)))
    base = [FINETUNE, "--model", str(model), "--task", "tsv", "--data", str(pairs), "--text", "2", "--label", "1", "--max-steps", "1"]
    error = execute(base + ["--text-pair", "3", "--output", str(place.folder())], 2).stderr
    check("--text-pair" in error and "type_vocab_size is 1" in error and "2 token types" in error, error)
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 3, "tokenizer_class": "DistilBertTokenizer"}))
    out = execute(base + ["--text-pair", "3", "--max-length", "4", "--output", str(place.folder())]).stdout
    check("--max-length 4 is more than the tokenizer's model_max_length, 3" in " ".join(out.split()), out)
    out = " ".join(execute(base + ["--output", str(place.folder())]).stdout.split())
    check("more than" not in out and "training texts are cut to 3 tokens" in out, out)


def test_flags(place):
    wrong = [  # arguments, what the message must hold
        (["--batch", "0"], ["--batch: expected an integer from 1 to", "found `0`"]),
        (["--batch", "many"], ["--batch", "found `many`"]),
        (["--batch"], ["--batch"]),
        (["--accumulate", "-1"], ["--accumulate", "found `-1`"]),
        (["--epochs", "1.5"], ["--epochs", "found `1.5`"]),
        (["--lr", "0"], ["--lr: expected a positive number", "found `0`"]),
        (["--lr", "nan"], ["--lr", "found `nan`"]),
        (["--warmup", "1"], ["--warmup: expected a share of the steps in [0, 1)", "found `1`"]),
        (["--weight-decay", "-0.1"], ["--weight-decay", "found `-0.1`"]),
        (["--clip", "x"], ["--clip", "found `x`"]),
        (["--max-length", "2"], ["--max-length", "found `2`"]),
        (["--max-length", "41"], ["--max-length: expected at most 40", "found 41"]),
        (["--seed", "-1"], ["--seed", "found `-1`"]),
        (["--threads", "-2"], ["--threads", "found `-2`"]),
        (["--max-steps", "-2"], ["--max-steps", "found `-2`"]),
        (["--log-every", "0"], ["--log-every", "found `0`"]),
        (["--save-every", "0"], ["--save-every", "found `0`"]),
        (["--save-every", "2m"], ["--save-every", "found `2m`"]),
        (["--task", "cats"], ["--task: expected cola|sst2|mrpc|rte|stsb|qqp|mnli|qnli|tsv|lm|text2text|openbookqa|", "found `cats`"]),
        (["--method", "meft4"], ["--method: expected full|head", "found `meft4`"]),
        (["--streams", "float"], ["--streams: expected exact|rounded|stored", "found `float`"]),
        (["--lambda", "0"], ["--lambda: expected n, n/d or 2^-k", "found `0`"]),
        (["--lambda", "1/0"], ["--lambda", "found `1/0`"]),
        (["--beta", "2^-20"], ["--beta", "found `2^-20`"]),
        (["--readout", "sum"], ["--readout: expected average|plm|learned", "found `sum`"]),
        (["--bottleneck", "0"], ["--bottleneck", "found `0`"]),
        (["--reversible-layers", "0"], ["--reversible-layers", "found `0`"]),
        (["--reversible-layers", "3"], ["--reversible-layers: expected at most 2", "found 3"]),
        (["--pooling", "max"], ["--pooling: expected model|first|mean", "found `max`"]),
        (["--lora-rank", "4"], ["--lora-rank: expected --inside lora", "found --inside none"]),
        (["--recompute"], ["--recompute: expected a method that keeps activations", "found --method meft1"]),
        (["--feature-cache", "8"], ["--feature-cache: expected a method that trains beside frozen layers: head, ", "found --method meft1"]),
        (["--method", "lora", "--streams", "exact"], ["--streams: expected --method meft1, meft2, meft3 or zofo-meft1", "found --method lora"]),
        (["--method", "full", "--lambda", "1/2"], ["--lambda: expected --method meft1", "found --method full"]),
        (["--weights", "q3"], ["--weights: expected f32|bf16|q8|q4|nf4|as-stored", "found `q3`"]),
        (["--method", "full", "--weights", "q4"], ["--weights: expected a method that freezes weights beside q4", "found --method full"]),
        (["--method", "mezo", "--weights", "bf16"], ["--weights: expected a method that freezes weights beside bf16", "found --method mezo"]),
        (["--inside", "speft", "--weights", "nf4"], ["--weights: expected f32 or bf16", "trains elements", "found --method meft1"]),
        (["--method", "head", "--bottleneck", "4"], ["--bottleneck: expected --method adapter", "found --method head"]),
        (["--text", "1"], ["--text: expected --task tsv", "found --task sst2"]),
        (["--threshold", "0.5"], ["--threshold: expected --task tsv"]),
        (["--task", "tsv"], ["--text: expected a column's name or its number", "found nothing"]),
        (["--task", "tsv", "--text", "1"], ["--label: expected a column's name or its number", "found nothing"]),
        (["--task", "tsv", "--text", "1", "--label", "2", "--threshold", "-1"], ["--threshold: expected a number of at least 0", "found `-1`"]),
        (["--task", "tsv", "--text", "1", "--label", "2", "--threshold", "1", "--regression"], ["--regression: expected no --threshold beside it", "found both"]),
        (["--task", "tsv", "--text", "1", "--label", "2", "--label-names", "a,b", "--regression"], ["--label-names: expected classes, not --regression", "found both"]),
        (["--predictions", "x"], ["--predictions: expected --predict beside it", "found none"]),
        (["--task", "lm", "--pooling", "mean"], ["--pooling: expected a task that classifies", "found --task lm"]),
        (["--task", "stsb", "--losses", "tfew"], ["--losses: expected a task with classes", "found --task stsb"]),
        (["--losses", "tfew", "--pooling", "mean"], ["--pooling: expected no --losses beside it", "found both"]),
        (["--augment"], ["--augment: expected --task images", "found --task sst2"]),
        (["--encoding", "utf-16"], ["--encoding: expected utf-8|latin1|windows-1252", "found `utf-16`"]),
        (["--task", "sciq", "--encoding", "latin1"], ["--encoding: expected a task that reads tables or lines", "found --task sciq"]),
        (["--task", "images", "--max-length", "9"], ["--max-length: expected a task of texts", "found --task images"]),
        (["--eval-only", "--resume"], ["--resume: expected a run that trains", "found --eval-only"]),
        (["--colour", "red"], ["--colour"]),
    ]
    for more, words in wrong:
        error = execute(place.command(place.folder(), *more), 2).stderr
        for word in words:
            check(word in error, f"{more}: no `{word}` in {error}")
    base = [FINETUNE, "--model", str(place.model)]
    check("--task: expected cola" in execute(base, 2).stderr, "no task")
    check("--data: expected a folder or file" in execute(base + ["--task", "sst2"], 2).stderr, "no data")
    check("--data" in execute(base + ["--eval-only"], 2).stderr, "nothing to score")
    check("--model" in execute([FINETUNE], 2).stderr, "no model")
    check("--reversible-layers" in execute([FINETUNE, "--help"]).stdout, "help")
    missing = [FINETUNE, "--model", str(place.root / "none"), "--task", "sst2", "--data", str(place.data), "--output", str(place.folder())]
    check("none" in execute(missing, 1).stderr, "a missing model is not named")


def test_streams(place):
    """The fraction bits of the streams are the run's, and its predictions have them from there."""
    usual, wide = place.model, place.root / "wide"
    make_model(wide, embedded=1500.0)
    place.model = wide
    folder = run(place, "--max-steps", 2, "--fraction-bits", 16)
    config = json.loads(read_safetensors(folder / "adapter.safetensors")[1]["config"])
    check(config["fraction-bits"] == 16, f"the adapter does not say its fraction bits: {config}")
    execute(place.command(folder, "--predict", place.data / "dev.tsv", task=False))
    said = execute(place.command(folder, "--predict", place.data / "dev.tsv", "--fraction-bits", 15, task=False), status=2).stderr
    check("--fraction-bits: expected 16" in said, said)
    # What earlier versions wrote had no fraction bits: the default, and a wider range where it is needed. Without its
    # factors it is none of the program's.
    for lacks, status, word in (("fraction-bits", 0, ""), ("lambda", 1, 'no member "lambda"')):
        config.pop(lacks)
        set_config(folder / "adapter.safetensors", config)
        said = execute(place.command(folder, "--predict", place.data / "dev.tsv", "--overwrite", task=False), status=status).stderr
        check(word in said, said)
    place.model = usual
    for wrong, found in ((["--fraction-bits", 0], "--fraction-bits: expected an integer from 1 to 29"),
                         (["--fraction-bits", 30], "--fraction-bits: expected an integer from 1 to 29"),
                         (["--fraction-bits", 18, "--streams", "rounded"], "--fraction-bits: expected --streams exact or stored"),
                         (["--stored-layers", 1, "--streams", "stored"], "--stored-layers: expected --streams exact"),
                         (["--fraction-bits", 18, "--method", "lora"], "--fraction-bits: expected --method meft1")):
        said = execute(place.command(place.folder(), *wrong), status=2).stderr
        check(found in said, f"`{found}` is not in {said}")


def test_odd_files(place):
    """A FIFO, a device, a socket, a link to itself or to nothing, or a folder in a file's place: named, never waited for."""
    run_folder = run(place, "--max-steps", 2)
    texts = place.root / "texts.tsv"
    train = place.command(place.folder(), "--max-steps", 1)
    predict = place.command(run_folder, "--predict", texts, task=False)
    resume = place.command(run_folder, "--max-steps", 2, "--resume")
    alone = place.command(place.folder(), "--data", place.root / "all.tsv", "--max-steps", 1)

    def fifo(path):
        os.mkfifo(path)

    def sock(path):
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)

    kinds = ((fifo, "a FIFO"), (sock, "a socket"), (lambda path: path.symlink_to("/dev/zero"), "a device"),
             (lambda path: path.symlink_to(path), "symbolic link"), (lambda path: path.symlink_to(str(path) + ".gone"), "No such file"),
             (pathlib.Path.mkdir, "directory"))
    for path, command in ((place.data / "train.tsv", train), (place.data / "dev.tsv", train), (place.root / "all.tsv", alone), (texts, predict),
                          (place.model / "config.json", train), (place.model / "model.safetensors", train), (place.model / "vocab.txt", train),
                          (place.model / "tokenizer_config.json", train), (run_folder / "state.safetensors", resume), (run_folder / "adapter.safetensors", predict)):
        kept = path.read_bytes() if path.exists() else None
        for make, words in kinds:
            if make is pathlib.Path.mkdir and path == place.root / "all.tsv":
                continue  # a folder of data is an input
            path.unlink(missing_ok=True)
            make(path)
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
            check(done.returncode in (1, 2) and path.name in done.stderr, f"{path} as {words}: status {done.returncode}: {done.stderr}")
            if make is fifo:
                check("not a regular file" in done.stderr, done.stderr)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if kept is not None:
            path.write_bytes(kept)
    name = place.root / "a\nb\x1b[31m.tsv"
    error = execute(place.command(place.folder(), "--data", name, "--max-steps", 1), 1).stderr
    check("a\\nb\\x1b[31m.tsv" in error and error.count("\n") == 1, repr(error))


if __name__ == "__main__":
    sys.exit(main(globals()))
