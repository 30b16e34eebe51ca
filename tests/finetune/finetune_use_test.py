"""Tests what the user of examples/finetune sees and gets: terminals, what is said, rows of predictions, folders of runs,
flags: finetune_use_test.py FINETUNE [NAME...]
"""
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib

import families_finetune_test as families
from place import FINETUNE, check, execute, main, make_model, read_safetensors, run
from screen import Screen, run_on_screen


def table_of(path):
    """The header, and the rows as dictionaries, cells unescaped."""
    def plain(cell):
        return cell.replace("\\\\", "\0").replace("\\t", "\t").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")

    header, *rows = [line.split("\t") for line in path.read_text().split("\n")[:-1]]
    check(all(len(row) == len(header) for row in rows), f"{path}: ragged")
    return header, [dict(zip(header, map(plain, row))) for row in rows]


def test_screen(_):
    """The terminal of these tests sees what it is to see."""
    for width, data, wraps, shown in ((10, b"1234567890\n", [], ["1234567890"]), (10, b"12345678901\n", ["12345678901"], ["1"]),
                                      (4, "日本\n".encode(), [], ["日本"]), (3, "日本\n".encode(), ["日本"], ["本"]),
                                      (9, b"\rlong line\rshort\x1b[K\n", [], ["", "long line", "short"])):
        screen = Screen(width)
        for byte in data: screen.feed(bytes([byte]))
        check(screen.wraps == wraps and screen.shown == shown, f"{data}: {screen.wraps} {screen.shown}")


def test_terminals(place):
    """The progress line is never wrapped, loses the least important fields first, and follows a new width."""
    for width, fields, absent in ((200, ("epoch ", "step ", "loss ", "sequences/s", "activation ", "peak ", "left "), ()),
                                  (80, ("epoch ", "step ", "loss ", "sequences/s", "left "), ("peak ",)),
                                  (40, ("step ", "loss "), ("sequences/s", "activation ")),
                                  (16, ("step ",), ("epoch ", "loss ", "sequences/s"))):
        screen, status = run_on_screen(place.command(place.folder(), "--epochs", 4), width)
        check(status == 0, f"status {status}: {screen.shown}")
        if width >= 40: check(not screen.wraps, f"{width} columns: wrapped: {screen.wraps}")
        lines = [text for text in screen.shown if "step " in text and " done at " not in text and "/120" in text]
        check(len(lines) >= 2, f"{width} columns: {screen.shown}")  # of the first and the last step at least
        for line in lines:
            check(all(field in line for field in fields) and not any(field in line for field in absent), f"{width} columns: {line}")
        check(not any("step " in wrap for wrap in screen.wraps), f"{width} columns: wrapped: {screen.wraps}")
        if width >= 80: check(any(text.startswith("scoring dev examples 0/40") for text in screen.shown), f"no scoring: {screen.shown}")
    for epochs in (20, 100, 500):  # until it is not done before the new width is there
        screen, status = run_on_screen(place.command(place.folder(), "--epochs", epochs), 100, resize=(f"epoch 1/{epochs} done", 30))
        lines = [text for text in screen.shown if "step " in text and " done at " not in text]
        check(status == 0 and len(lines[0]) >= 30, str(lines))
        if len(lines[-1]) < 30: return
    check(False, f"the old width stays: {lines[-1]}")


def test_dumb(place):
    """A terminal without escapes gets blanks, none of a known size 80 columns."""
    for width, kind in ((60, "dumb"), (0, "xterm")):
        screen = Screen(width or 80)
        feed, screen.feed = screen.feed, None
        shown, status = run_on_screen(place.command(place.folder()), width or 80, env={**os.environ, "TERM": kind})
        check(status == 0 and not shown.wraps, str(shown.wraps))


def test_help(place):
    known = ["--model", "--task", "--reversible-layers", "--overwrite", "--predictions", "--version"]
    plain = execute([FINETUNE, "--help"]).stdout
    for name, lines in [("no terminal", plain.split("\n"))] + [(width, None) for width in (132, 80, 40)]:
        if lines is None:
            screen, status = run_on_screen([FINETUNE, "--help"], name)
            check(status == 0 and not screen.wraps, f"{name}: {screen.wraps}")
            lines = screen.shown
        check(max(map(len, lines)) <= (80 if name == "no terminal" else name), f"{name}: {max(lines, key=len)}")
        for flag in known: check(any(line.strip().startswith(flag) for line in lines), f"{name}: no {flag}")
    for type in ("bert", "t5", "gemma3_text"): check(f"{type}," in plain.split(), f"no {type}")
    for flags in (["--batch"], ["--batch", 8, "--task", "lm", "--batch", 4]):
        check("--batch: expected once, and a value behind it" in execute([FINETUNE, *flags], 2).stderr, f"{flags}")
    words = "".join(plain.split())
    check(words == "".join("".join(run_on_screen([FINETUNE, "--help"], 132)[0].shown).split()), "the width changes the words")


def test_said(place):
    """Classes with their counts, whose f1 it is, texts that are cut."""
    rows = ["the film was fine\tpos"] * 7 + ["a dull plot\tneg"] * 5 + ["it was a very very very very very very long film\tpos"] * 3
    data = place.root / "said"
    data.mkdir()
    for name in ("train.tsv", "dev.tsv"): (data / name).write_text("\n".join(["text\tlabel"] + rows) + "\n")
    more = ["--task", "tsv", "--text", "text", "--label", "label", "--data", data, "--epochs", 1]
    out = execute(place.command(place.folder(), *more, "--max-length", 8)).stdout
    check("neg 5, pos 10" in out and "f1 is that of pos" in out, out)
    check("3 of 15 training texts are cut to 8 tokens (--max-length)" in out and "3 of 15 dev texts are cut" in out, out)
    out = execute(place.command(folder := place.folder(), *more)).stdout
    check("are cut" not in out, out)
    alone = execute(place.command(place.folder(), *more, "--batch", 1)).stdout
    check("(largest batch: 1 sequences, 13 tokens, the longest 13)" in alone, alone)
    metrics = json.loads((folder / "metrics.json").read_text())
    epoch, = metrics["epochs"]
    scores = ", ".join(f"{name} {value:.4f}" for name, value in epoch["dev"].items())
    for words in ("15 examples to train on, 15 to score on; task tsv, 2 steps", "(largest batch: 7 sequences, 63 tokens, the longest 13)",
                  f"epoch 1/1 done at step 2: train loss {epoch['train_loss']:.4f}; dev {scores}  (best)", f"best: epoch 1, dev {scores}; "):
        check(words in out, f"no `{words}` in {out}")
    names, start = (next(line.split() for line in out.splitlines() if line.startswith(word)) for word in ("MiB ", "start "))
    check(float(start[names.index("weights")]) <= 0.2, f"what products are measured with is not the model's: {start}")
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text("text\tlabel\n" + "".join(f"film {i}\tclass{i % 3}\n" for i in range(9)))
    out = execute(place.command(place.folder(), *more)).stdout
    check("3 classes" in out and "class0 3, class1 3, class2 3" in out and "f1" not in out, out)


def test_controls(place):
    """Control characters of names and labels do not reach the terminal."""
    data = place.root / "odd\x1b[2J\rname"
    data.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text("text\tlabel\n" + "the film\tgo\x1b[31mod\x07\na plot\tb\u009bad\u202e\n" * 6)
    more = ["--task", "tsv", "--text", "text", "--label", "label", "--data", data, "--epochs", 1]
    done = execute(place.command(place.folder(), *more))
    check("`go\\x1b[31mod\\x07` 6" in done.stdout and "`b\\u009bad\\u202e` 6" in done.stdout, done.stdout)
    wrong = execute(place.command(place.folder(), *more[:4], "--label", "lab\x1bel\n", *more[6:]), 1)
    wrong_model = execute(place.command(place.folder(), "--model", place.root / "no\rmodel\x1b[31m"), 1)
    for text in (done.stdout, done.stderr, wrong.stderr, wrong_model.stderr):
        check(not any(ord(c) < 32 and c != "\n" or 127 <= ord(c) < 160 or c == "\u202e" for c in text), repr(text))
    check("no\\rmodel\\x1b[31m" in wrong_model.stderr, wrong_model.stderr)


def test_rows(place):
    """A prediction for each row, in order, beside its text: header or none, empty rows, tabs and quotes."""
    folder = place.folder()
    (place.root / "rows").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (place.root / "rows" / name).write_text("text\tlabel\n" + "the film was fine\tpos\nthe cast was dull\tneg\n" * 20)
    execute(place.command(folder, "--task", "tsv", "--text", "text", "--label", "label", "--data", place.root / "rows", "--epochs", 1))
    alone = {}
    for number, (lines, texts) in enumerate((
            ("text\nfine film\ndull cast\n", ["fine film", "dull cast"]),
            ("Fine film.\ndull cast\n", ["Fine film.", "dull cast"]),
            ("label\ttext\npos\tfine film\nneg\tdull cast\n", ["fine film", "dull cast"]),
            ("text\n\nfine film\n\ndull cast\n\n", ["", "fine film", "", "dull cast", ""]),
            ("text\na \\t back\\slash\n", ["a \\t back\\slash"]))):
        path, out = place.root / f"in{number}.tsv", place.root / f"out{number}.tsv"
        path.write_text(lines)
        said = execute([FINETUNE, "--output", folder, "--predict", path, "--predictions", out]).stdout
        header, rows = table_of(out)
        check(header == ["label", "p(neg)", "p(pos)", "text"], str(header))
        check([row["text"] for row in rows] == texts, f"{lines!r}: {rows}")
        check(f"{len(texts)} predictions in {out}" in said, said)
        for row in rows:  # whichever file a text stands in
            values = (row["label"], row["p(neg)"], row["p(pos)"])
            check(alone.setdefault(row["text"], values) == values, f"{row}, elsewhere {alone}")
    check(not (folder / "predictions.tsv").exists(), "--predictions also wrote into the folder")
    (place.root / "unclear.tsv").write_text("review\nfine film\ndull cast\n")
    unclear = [FINETUNE, "--output", folder, "--predict", place.root / "unclear.tsv", "--predictions"]
    error = execute(unclear + [place.root / "unclear"], 2).stderr
    check("--predict: expected" in error and "unclear.tsv:1" in error and "--header" in error, error)
    for answer, texts in (("yes", ["fine film", "dull cast"]), ("no", ["review", "fine film", "dull cast"])):
        execute(unclear + [place.root / answer, "--header", answer])
        check([row["text"] for row in table_of(place.root / answer)[1]] == texts, answer)
    out = place.root / "kept.tsv"
    out.write_text("mine\n")
    command = [FINETUNE, "--output", folder, "--predict", place.root / "in0.tsv", "--predictions", out]
    error = execute(command, 2).stderr
    check("--predictions: expected a file that is not there yet, or --overwrite" in error and out.read_text() == "mine\n", error)
    execute(command + ["--overwrite"])
    check(len(table_of(out)[1]) == 2 and (folder / "adapter.safetensors").exists(), "--overwrite")
    execute(command[:-2])
    check("--overwrite" in execute(command[:-2], 2).stderr, "predictions.tsv was overwritten")
    for where, words in ((place.root / "none" / "out.tsv", "in a folder that is there"), (place.root, "expected a file")):
        check(words in execute(command[:-1] + [where], 2).stderr, str(where))


def test_folder(place):
    """--overwrite removes a run's files and nothing else; --resume of nothing says so."""
    folder = place.folder()
    said = execute(place.command(folder, "--max-steps", 4, "--resume")).stdout
    check(f"nothing to resume in {folder}" in said, said)
    check("nothing to resume" not in execute(place.command(folder, "--max-steps", 4, "--resume")).stdout, "it was there")
    (folder / "notes.txt").write_text("mine")
    (folder / "inner").mkdir()
    (folder / "inner" / "state.safetensors").write_text("mine too")
    texts = place.root / "some.tsv"
    texts.write_text("sentence\na film\n")
    execute([FINETUNE, "--output", folder, "--predict", texts])
    before = (folder / "adapter.safetensors").read_bytes()
    error = execute(place.command(folder, "--max-steps", 6), 2).stderr
    check("--output: expected a folder without a run" in error and "--overwrite" in error, error)
    # What goes wrong before the first step loses nothing.
    execute(place.command(folder, "--max-steps", 6, "--overwrite", "--data", place.root / "none"), 1)
    check((folder / "adapter.safetensors").read_bytes() == before, "a run that did not start removed the other")
    execute(place.command(folder, "--max-steps", 6, "--overwrite", "--log-every", 1))
    check(sorted(path.name for path in folder.iterdir()) ==
          ["adapter.safetensors", "inner", "log.jsonl", "metrics.json", "notes.txt", "state.safetensors"], str(list(folder.iterdir())))
    check((folder / "notes.txt").read_text() == "mine" and (folder / "inner" / "state.safetensors").exists(), "not a run's")
    fresh = place.folder()
    execute(place.command(fresh, "--max-steps", 6, "--log-every", 1))
    check((folder / "adapter.safetensors").read_bytes() == (fresh / "adapter.safetensors").read_bytes(), "other bits")
    check(len((folder / "log.jsonl").read_text().splitlines()) == len((fresh / "log.jsonl").read_text().splitlines()), "the old log")
    check("--overwrite: expected no --resume" in execute(place.command(folder, "--resume", "--overwrite"), 2).stderr, "both")
    # A state that is gone is not a run that has not begun.
    (folder / "state.safetensors").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    error = execute(place.command(folder, "--max-steps", 6, "--resume"), 2).stderr
    check("--resume: expected" in error and "state.safetensors" in error and "--overwrite" in error, error)
    check(before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, "files changed")


def with_values(model, folder, name, value, first=0, last=None):
    """A copy of a checkpoint, the values of one tensor replaced, all or those from `first` to `last`."""
    shutil.copytree(model, folder)
    raw = bytearray((folder / "model.safetensors").read_bytes())
    size, = struct.unpack("<Q", raw[:8])
    begin, end = json.loads(raw[8:8 + size])[name]["data_offsets"]
    if last is not None: end = begin + 4 * last
    begin += 4 * first
    raw[8 + size + begin:8 + size + end] = struct.pack("<f", value) * ((end - begin) // 4)
    (folder / "model.safetensors").write_bytes(raw)
    return folder


def test_out_of_range(place):
    """Streams that are large have a wider range where they need it; divergence is told apart."""
    large = with_values(place.model, place.root / "large", "embeddings.LayerNorm.weight", 3000.0)
    for method in ("meft1", "meft2", "meft3"):
        for more in ([], ["--streams", "stored"]):
            folder = place.folder()
            said = execute(place.command(folder, "--model", large, "--max-steps", 1, *more, method=method)).stdout
            check("features have a wider range" in said and "fraction bits)" in said, said)
            bits, = json.loads(read_safetensors(folder / "adapter.safetensors")[1]["fraction_bits"])
            check(0 < min(bits) < 20, bits)
        execute(place.command(folder, "--model", large, "--predict", place.data / "dev.tsv", task=False))
        said = execute(place.command(place.folder(), "--model", large, "--max-steps", 1, "--streams", "rounded", method=method)).stdout
        check("wider range" not in said, said)
    make_model(place.root / "edge", width=128, embedded=220.0)  # within range, but for a word that only the text to predict has
    folder, texts = place.folder(), place.root / "unknown.tsv"
    texts.write_text("sentence\nthe film was strange\n")
    edge = with_values(place.root / "edge", place.root / "over", "embeddings.word_embeddings.weight", 100.0, 128, 129)
    said = execute(place.command(folder, "--model", edge, "--max-steps", 1)).stdout
    check("wider range" not in said, said)
    execute(place.command(folder, "--model", edge, "--predict", texts, task=False))
    folder = place.folder()
    far = ("--model", with_values(place.model, place.root / "far", "embeddings.LayerNorm.weight", 1e7),  # little room above
           "--coupling", "paper", "--readout", "average")
    failed = execute(place.command(folder, *far, "--lr", 9, "--clip", 0, "--epochs", 30, "--save-every", 1), 1).stderr
    check("diverged" in failed and "A lower --lr may help" in failed and "--resume" in failed and "--overwrite" in failed, failed)
    error = execute(place.command(folder, "--epochs", 30, *far, "--resume", "--lr", 9, "--clip", 1), 2).stderr
    check("--clip" in error, error)
    # Whether the kept step can still be saved by it is not said here.
    done = subprocess.run(place.command(folder, *far, "--lr", 0.001, "--clip", 0, "--epochs", 3, "--resume"), capture_output=True, text=True, timeout=3000)
    check("--lr was 9.0 and is 0.001" in done.stdout and "resumed at step" in done.stdout, done.stdout + done.stderr)
    execute(place.command(folder, "--max-steps", 2, "--overwrite"))


def test_more_epochs(place):
    """A run that is done goes on when more epochs are asked for."""
    folder = place.folder()
    execute(place.command(folder, "--epochs", 1))
    said = execute(place.command(folder, "--epochs", 2, "--resume")).stdout
    check("--epochs was 1 and is 2" in said and "resumed at step 30 of 60" in said and "epoch 2/2 done" in said, said)
    metrics = json.loads((folder / "metrics.json").read_text())
    check([e["epoch"] for e in metrics["epochs"]] == [1, 2] and metrics["steps"] == 60, str(metrics))


def test_files_said(place):
    """Which files are used, and which not; a test set is scored at the end and does not pick the epoch."""
    data = place.root / "split"
    data.mkdir()
    rows = "the film was fine\tpos\nthe cast was dull\tneg\n"
    (data / "train.tsv").write_text("text\tlabel\n" + rows * 10 + "a plot\t\n")
    (data / "valid.tsv").write_text("text\tlabel\n" + rows * 3)
    (data / "test.tsv").write_text("text\tlabel\n" + rows * 2)
    (data / "notes.csv").write_text("a,b\n1,2\n")
    out = execute(place.command(place.folder(), "--task", "tsv", "--text", "text", "--label", "label", "--data", data)).stdout
    for words in ("train.tsv", "valid.tsv", "not used: `notes.csv`", "1 row without a label left out", "20 examples to train on, 6 to score on",
                  "4 test examples: accuracy", "neg 10, pos 10"):
        check(words in out, f"no `{words}` in\n{out}")
    (data / "test.tsv").write_text("text\tlabel\n" + rows + "a plot\t-1\n")
    out = execute(place.command(place.folder(), "--task", "tsv", "--text", "text", "--label", "label", "--data", data, "--epochs", 1)).stdout
    check("test is not scored: 1 of its 3 rows have no label" in out and "test examples: accuracy" not in out, out)


def test_flags_of_run(place):
    """A flag that the run did not have, or had otherwise, is refused where the run is used."""
    data = place.root / "rated.tsv"
    data.write_text("text\tlabel\n" + "the film was fine\t1\nthe cast was dull\t-1\n" * 10)
    table = ("--task", "tsv", "--text", "text", "--label", "label", "--data", data, "--max-steps", 2)
    classes, values, plain = (run(place, *more) for more in (table, (*table, "--regression"), ("--max-steps", 2, "--schedule", "constant")))
    for folder, more, words in (
            (classes, ["--threshold", 3], "--threshold: expected none, as in"), (classes, ["--text-pair", "label"], "--text-pair: expected none, as in"),
            (classes, ["--regression"], "--regression: expected false, as in"), (classes, ["--label-names", "1,-1"], "--label-names: expected -1,1, as in"),
            (classes, ["--losses", "tfew"], "--losses: expected none, as in"), (classes, ["--schedule", "constant"], "--schedule: expected none, as in"),
            (classes, ["--max-target-length", 4], "--max-target-length: expected --task text2text"), (classes, ["--task", "sst2"], "--task: expected tsv"),
            (values, ["--label-names", "-1,1"], "--label-names: expected none, as in"), (values, ["--threshold", 0], "--threshold: expected none, as in"),
            (plain, ["--regression"], "--regression: expected --task tsv"), (plain, ["--text", "1"], "--text: expected --task tsv"),
            (plain, ["--augment"], "--augment: expected --task images"), (plain, ["--schedule", "linear"], "--schedule: expected constant, as in"),
            (plain, ["--prune-embeddings"], "--prune-embeddings: expected none, as in")):
        for use in (["--eval-only", "--data", data], ["--predict", data]):
            error = execute([FINETUNE, "--output", folder, *use, *more], 2).stderr
            check(words in error and (" as in" not in words or "adapter.safetensors" in error), f"{more}: {error}")
    more = ["--label-names", "-1,1", "--text", "text", "--schedule", "linear", "--batch", 4, "--weights", "f32"]
    check("accuracy" in execute([FINETUNE, "--output", classes, "--eval-only", "--data", data, *more]).stdout, "the run's own flags")


def test_model_found(place):
    """--predict and --eval-only know their model; a moved one is said; another is refused."""
    model = place.root / "moving"
    shutil.copytree(place.model, model)
    folder = place.folder()
    execute(place.command(folder, "--model", model, "--max-steps", 4))
    check(json.loads(read_safetensors(folder / "adapter.safetensors")[1]["config"])["model_path"] == str(model.resolve()), "model_path")
    texts = place.root / "some.tsv"
    texts.write_text("sentence\na film\nfine\n")
    predict = [FINETUNE, "--output", folder, "--predict", texts, "--overwrite"]
    execute(predict, cwd="/")
    found = (folder / "predictions.tsv").read_bytes()
    scored = execute([FINETUNE, "--output", folder, "--eval-only", "--data", place.data]).stdout
    check("40 dev examples: accuracy" in scored, scored)
    model.rename(place.root / "moved")
    error = execute(predict, 1).stderr
    check(f"it is no longer at {model}" in error and "--model" in error, error)
    execute(predict + ["--model", place.root / "moved"])
    check((folder / "predictions.tsv").read_bytes() == found, "other predictions")
    shutil.copytree(place.root / "moved", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}))
    check("--model: expected the checkpoint that" in execute(predict, 2).stderr, "another model was taken")


def close(a, b, limit=2e-5):
    """Whether two tables of predictions agree."""
    (names, rows), (others, more) = table_of(a), table_of(b)
    numbers = [name for name in names if name.startswith("p(") or name == "value"]
    check(names == others and numbers and len(rows) == len(more), f"{names} and {others}")
    return all(abs(float(x[n]) - float(y[n])) <= limit for x, y in zip(rows, more) for n in numbers)


def limited(size):
    """For a process whose files may have so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_merge(place):
    """--merge writes a checkpoint that predicts what the run does."""
    texts = place.root / "some.tsv"
    texts.write_text("sentence\n" + "the film was fine\ndull and cold\nit was a very warm plot\n")
    for method in ("full", "lora", "ia3"):
        trained, merged, again = run(place, "--max-steps", 30, method=method), place.folder(), place.folder()
        execute([FINETUNE, "--output", trained, "--predict", texts])
        said = execute([FINETUNE, "--output", trained, "--merge", merged]).stdout
        check(sorted(path.name for path in merged.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"], f"{method}: {said}")
        check(all(path.name in said for path in merged.iterdir()), said)
        config = json.loads((merged / "config.json").read_text())
        check(config["architectures"] == ["BertForSequenceClassification"] and config["id2label"] == {"0": "negative", "1": "positive"}
              and config["label2id"] == {"negative": 0, "positive": 1} and config["problem_type"] == "single_label_classification"
              and config["hidden_size"] == 16, str(config))
        names = set(read_safetensors(merged / "model.safetensors")[0])
        own = set(read_safetensors(place.model / "model.safetensors")[0])
        check(names == {f"bert.{name}" for name in own} | {"classifier.weight", "classifier.bias"}, f"{names}")
        # Its head is taken over; a rate this small does not move it.
        execute(place.command(again, "--model", merged, "--max-steps", 1, "--lr", 1e-12, method="head"))
        execute([FINETUNE, "--output", again, "--predict", texts])
        check(close(trained / "predictions.tsv", again / "predictions.tsv"), f"{method}: merged, it predicts otherwise")
    # Of weights in a narrow format it is the checkpoint's that are written, and changed where they were trained.
    wide, packed = place.root / "wide", place.folder()
    make_model(wide, width=32, inner=64)
    folder = run(place, "--model", wide, "--weights", "q4", "--max-steps", 4, method="lora")
    execute([FINETUNE, "--output", folder, "--merge", packed])
    theirs, ours, adapter = (read_safetensors(path)[0] for path in (wide / "model.safetensors", packed / "model.safetensors",
                                                                    folder / "adapter_model.safetensors"))
    scale = (config := json.loads((folder / "adapter_config.json").read_text()))["lora_alpha"] / config["r"]
    floats = lambda raw: struct.unpack(f"<{len(raw) // 4}f", raw)
    for name, whole in theirs.items():
        lead = "base_model.model.bert." + name.removesuffix(".weight")
        if lead + ".lora_A.weight" in adapter:
            a, b = (floats(adapter[f"{lead}.lora_{x}.weight"]) for x in "AB")
            rank = len(a) // 32
            sums = [x + scale * sum(b[i // 32 * rank + k] * a[k * 32 + i % 32] for k in range(rank)) for i, x in enumerate(floats(whole))]
            check(all(abs(x - y) < 1e-6 for x, y in zip(sums, floats(ours["bert." + name]))) and ours["bert." + name] != whole, name)
        elif "pooler" not in name: check(ours.get("bert." + name) == whole, f"{name}: not the checkpoint's")
    before = {path.name: path.read_bytes() for path in merged.iterdir()}
    merge = [FINETUNE, "--output", trained, "--merge"]
    for folder, words in ((merged, "model.safetensors: is there already"), (place.model, "is the checkpoint itself")):
        check(words in execute(merge + [folder], 1).stderr, words)
    execute(merge + [merged, "--overwrite"])
    # A disk that is full leaves what was there, and no config.json where nothing was.
    error = execute(merge + [merged, "--overwrite"], 1, preexec_fn=limited(4000)).stderr
    check("model.safetensors" in error and "too large" in error, error)
    check(before == {path.name: path.read_bytes() for path in merged.iterdir()}, "merging again, or onto a full disk, changed the files")
    fresh = place.folder()
    execute(merge + [fresh], 1, preexec_fn=limited(4000))
    check(list(fresh.iterdir()) == [], str(list(fresh.iterdir())))
    for more, words in ((["--predict", texts], "--merge: expected neither --eval-only nor --predict"), (["--resume"], "--resume: expected a run that trains")):
        check(words in execute(merge + [fresh, *more], 2).stderr, words)
    check("--merge: expected another folder than the run's" in execute(merge + [trained], 2).stderr, "the run's folder")
    other = place.folder()
    execute(place.command(other, "--max-steps", 1, "--pooling", "mean", method="lora"))
    check("--merge: expected a run with the pooling" in execute([FINETUNE, "--output", other, "--merge", fresh], 2).stderr, "pooling")
    for method, more, why in (("meft1", ["--inside", "lora"], "meft1+lora: its layers run as two coupled streams"),
                              ("adapter", [], "adapters are layers of their own"), ("unipt", ["--projection", 8], "stands beside the layers")):
        other = place.folder()
        execute(place.command(other, "--max-steps", 1, *more, method=method))
        error = execute([FINETUNE, "--output", other, "--merge", fresh], 2).stderr
        check("--merge: expected a run of --method full" in error and why in error, error)


def test_peft(place):
    """What peft reads is written beside our own file, and what peft writes is taken in its place."""
    texts = place.root / "some.tsv"
    texts.write_text("sentence\n" + "the film was fine\ndull and cold\n")
    for method, more in (("lora", ["--lora-rank", 3]), ("lora", ["--lora-rank", 3, "--lora-targets", "linear"]), ("ia3", [])):
        folder, alone = run(place, "--max-steps", 20, *more, method=method), place.folder()
        ours, theirs = (read_safetensors(folder / name)[0] for name in ("adapter.safetensors", "adapter_model.safetensors"))
        check(sorted(ours.values()) == sorted(theirs.values()) and all(name.startswith("base_model.model.") for name in theirs), f"{sorted(theirs)}")
        config = json.loads((folder / "adapter_config.json").read_text())
        check(config["base_model_name_or_path"] == str(place.model.resolve()) and config["task_type"] == "SEQ_CLS"
              and config["modules_to_save"] == ["classifier", "pooler"], str(config))
        if method == "lora": check(config["r"] == 3 and config["lora_alpha"] == 16 and len(config["target_modules"]) == (12 if "linear" in more else 4), str(config))
        alone.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"): shutil.copy(folder / name, alone)
        execute([FINETUNE, "--output", folder, "--predict", texts])
        execute([FINETUNE, "--output", alone, "--task", "sst2", "--predict", texts])
        check((folder / "predictions.tsv").read_bytes() == (alone / "predictions.tsv").read_bytes(), f"{method}: peft's files predict otherwise")
        scored = [execute([FINETUNE, "--output", where, "--task", "sst2", "--eval-only", "--data", place.data]).stdout.splitlines()[-1]
                  for where in (folder, alone)]
        check(scored[0] == scored[1], str(scored))
        execute([FINETUNE, "--output", alone, "--task", "sst2", "--merge", place.folder()])
        predict = [FINETUNE, "--output", alone, "--predict", texts, "--overwrite"]
        check("--task: expected what was trained" in execute(predict, 2).stderr, "no task")
        check("--output: expected a folder without a run" in execute(place.command(alone, "--max-steps", 1), 2).stderr, "peft's files were written over")
        check(f"--method: expected {method}" in execute(predict + ["--task", "sst2", "--method", "full"], 2).stderr, "another method")
        kept = (alone / "adapter_config.json").read_text()
        for change, words in (({"peft_type": "LOHA"}, "expected LORA or IA3"), ({"fan_in_fan_out": True}, "fan_in_fan_out"),
                              ({"base_model_name_or_path": "gone"}, "--model: expected the checkpoint"),
                              ({"task_type": "TOKEN_CLS"}, "'task_type': expected SEQ_CLS, for --task sst2"), ({"peft_type": None}, "peft_type")):
            (alone / "adapter_config.json").write_text(json.dumps(json.loads(kept) | change))
            done = subprocess.run([str(x) for x in predict + ["--task", "sst2"]], capture_output=True, text=True)
            check(done.returncode in (1, 2) and words in done.stderr, f"{change}: {done.returncode}: {done.stderr}")
        (alone / "adapter_config.json").write_text("{")
        check("adapter_config.json" in execute(predict + ["--task", "sst2"], 1).stderr, "no JSON")
    execute(place.command(folder, "--max-steps", 1, "--overwrite", method="meft1"))
    check(not (folder / "adapter_config.json").exists() and not (folder / "adapter_model.safetensors").exists(), "peft's files of the run before are left")
    out = execute(place.command(folder := place.folder(), "--max-steps", 1, "--pooling", "mean", method="lora")).stdout
    check("no adapter_config.json" in out and not (folder / "adapter_config.json").exists(), out)
    # As long a text fits without --max-length as one does behind the prompt.
    folder, alone = run(place, "--max-steps", 2, "--virtual-tokens", 5, method="prompt"), place.folder()
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"): shutil.copy(folder / name, alone)
    texts.write_text("sentence\n" + "the film was fine " * 20 + "\n")
    for where in (folder, alone): execute([FINETUNE, "--output", where, "--task", "sst2", "--predict", texts])
    check((folder / "predictions.tsv").read_bytes() == (alone / "predictions.tsv").read_bytes(), "prompt: peft's files predict otherwise")


def test_head_rate(place):
    """--head-lr is the head's rate alone."""
    def trained(*more, method="lora"):
        return read_safetensors(run(place, "--max-steps", 2, *more, method=method) / "adapter.safetensors")[0]
    plain, other = trained("--clip", 0), trained("--clip", 0, "--head-lr", 2e-3)
    check(set(plain) == set(other), str(set(other)))
    head = {name for name in plain if "classifier" in name or "pooler" in name}
    check(head and all(plain[name] != other[name] for name in head), "the head's rate is the others'")
    one = trained("--lr", 2e-3, method="head")
    check(one == trained("--lr", 1e-3, "--head-lr", 2e-3, method="head"), "the head has another rate than --head-lr")
    check(one != trained("--lr", 1e-3, method="head"), "--lr is not the head's where nothing else is given")
    first = [read_safetensors(run(place, "--max-steps", 1, *more, method="lora") / "adapter.safetensors")[0] for more in ((), ("--head-lr", 2e-3))]
    check(all(first[0][name] == first[1][name] for name in plain if name not in head), "the adapters took the head's rate")
    for more, words in ((["--method", "mezo"], "--head-lr: expected a method that trains by gradients alone, found --method mezo"),
                        (["--task", "lm"], "--head-lr: expected a task with a head of its own, found --task lm")):
        error = execute(place.command(place.folder(), "--head-lr", 1e-3, *more), 2).stderr
        check(words in error, f"{more}: {error}")


def test_two_levels(place):
    """A method of two levels refuses what its optimizer has not."""
    for flag in ("--weight-decay", "--clip"):
        error = execute(place.command(place.folder(), flag, 0.1, method="zofo-prefix"), 2).stderr
        check(f"{flag}: expected 0 beside a method of two levels, found --method zofo-prefix" in error, error)


def test_inside(place):
    """A method inside MEFT's layers: what trains is that method's, to the bits of stored activations."""
    plain = read_safetensors(run(place, "--max-steps", 6, method="lora") / "adapter.safetensors")[0]
    for method in ("meft1", "meft2", "meft3"):
        more = ("--max-steps", 6, "--inside", "lora", "--lora-rank", 8)
        folder = run(place, *more, method=method)
        exact, metadata = read_safetensors(folder / "adapter.safetensors")
        check(set(exact) == set(plain), f"{method}: trains {sorted(exact)}")
        check(exact == read_safetensors(run(place, *more, "--streams", "stored", method=method) / "adapter.safetensors")[0], f"{method}: other bits")
        config = json.loads(metadata["config"])
        check(config["inside"] == "lora" and config["lora-rank"] == 8 and "bottleneck" not in config, str(config))
        scored = execute(place.command(folder, "--eval-only", "--data", place.data, task=False)).stdout
        check(f"accuracy {json.loads((folder / 'metrics.json').read_text())['value']:.4f}" in scored, scored)
        check(not (folder / "adapter_config.json").exists(), "peft has no streams")
    tensors = read_safetensors(run(place, "--max-steps", 4, "--inside", "speft", "--density", 0.05, "--score-examples", 24) / "adapter.safetensors")[0]
    check(any(name.endswith("sparse.values") for name in tensors) and not any("adapter" in name for name in tensors), str(sorted(tensors)))
    check("inside" not in json.loads(read_safetensors(run(place, "--max-steps", 1) / "adapter.safetensors")[1]["config"]), "stated where nothing is inside")
    for more, words in ((["--inside", "meft1"], "--inside: expected none|lora|ia3"), (["--lora-rank", 4], "--lora-rank: expected --inside lora, found --inside none"),
                        (["--inside", "ia3", "--lora-rank", 4], "found --inside ia3"), (["--inside", "ia3", "--bottleneck", 4], "--bottleneck: expected --inside none"),
                        (["--inside", "ia3", "--beta", "1/2"], "--beta: expected --inside none"), (["--inside", "lora", "--method", "full"], "--inside: expected --method meft1")):
        error = execute(place.command(place.folder(), *more), 2).stderr
        check(words in error, f"{more}: {error}")
    error = execute(place.command(folder, "--predict", place.data / "dev.tsv", "--inside", "ia3", task=False), 2).stderr
    check("--inside: expected lora" in error, error)


def test_model_wrong(place):
    for name, words in (("bert-base-uncased", ("hf download bert-base-uncased", "Hugging Face hub")), ("google/electra-small", ("hf download google/electra-small",)),
                        (place.model / "config.json", ("is a file",)), ("/none/at/all", ("which is not there",)), ("", ("--model",))):
        error = execute(place.command(place.folder(), "--model", name), 2 if name == "" else 1).stderr
        check(error.startswith("finetune: --model: expected") and all(word in error for word in words), error)
    check("hf download" not in execute(place.command(place.folder(), "--model", "/none/at/all"), 1).stderr, "a path is no name")


def test_unknown(place):
    check(execute([FINETUNE, "--version"]).stdout.startswith("finetune "), "version")
    for written, ours in (("--learning-rate", "--lr"), ("--learning_rate", "--lr"), ("--num_train_epochs", "--epochs"), ("--epoch", "--epochs"),
                          ("--per_device_train_batch_size", "--batch"), ("--batch-size", "--batch"), ("--model_name_or_path", "--model"),
                          ("--output_dir", "--output"), ("--lora_r", "--lora-rank"), ("--weight_decay", "--weight-decay"), ("--LR", "--lr"),
                          ("--max_seq_length", "--max-length"), ("--gradient_accumulation_steps", "--accumulate"), ("--warmup_ratio", "--warmup"),
                          ("--max_grad_norm", "--clip"), ("--gradient_checkpointing", "--recompute"), ("--do_predict", "--predict"),
                          ("--bottelneck", "--bottleneck"), ("--reversible", "--reversible-layers"), ("-lr", "--lr"), ("--seeds", "--seed")):
        for more in ([written, "3"], [f"{written}=3"]):
            error = execute(place.command(place.folder(), *more), 2).stderr
            check(error.startswith(f"finetune: {written}: unknown; did you mean {ours}?"), f"{more}: {error}")
    for written in ("--colour", "--xyzzy", "--lora_alpha_pattern"):
        error = execute(place.command(place.folder(), written, "red"), 2).stderr
        check(f"{written}: unknown" in error and "did you mean" not in error, error)
    check("unexpected `3`" in execute(place.command(place.folder(), "3"), 2).stderr, "a value without a flag")
    for flag in ("--data", "--output", "--predict"):
        error = execute(place.command(place.folder(), flag, ""), 2).stderr
        check(f"{flag}: expected" in error, error)


def png(width, height, colour):
    raw = b"".join(b"\0" + bytes(colour) * width for _ in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(raw)) +
            chunk(b"IEND", b""))


class Kinds:
    """A run of each kind of task, made once."""

    def __init__(self, place):
        self.root, self.number = place.root, 0
        self.runs = {}
        for name in ("opt", "roberta", "vit"): (self.root / name).mkdir()
        families.opt(self.root / "opt")
        families.roberta(self.root / "roberta")
        families.vit(self.root / "vit")
        families.make_questions(self.root / "arc_easy")
        families.make_lines(self.root / "lm")
        shades = self.root / "images"
        for split, count in (("train", 6), ("val", 3)):
            for name, colour in (("dark", (20, 20, 30)), ("light", (230, 220, 225))):
                (shades / split / name).mkdir(parents=True)
                for i in range(count): (shades / split / name / f"{i}.png").write_bytes(png(20 + i, 17, colour))

    def run(self, model, task):
        folder = self.root / f"{model}_{task}"
        if not folder.exists():
            execute([FINETUNE, "--model", self.root / model, "--task", task, "--data", self.root / task, "--output", folder, "--epochs", 1, "--batch", 4,
                     "--lr", 0.01] + (["--max-length", 48] if task != "images" else []))
        return folder

    def predict(self, folder, path, status=0):
        self.number += 1
        out = self.root / f"predicted{self.number}.tsv"
        done = execute([FINETUNE, "--output", folder, "--predict", path, "--predictions", out], status)
        return table_of(out) if status == 0 else done.stderr


def test_predict_images(place):
    kinds = Kinds(place)
    folder, images = kinds.run("vit", "images"), place.root / "images"
    header, rows = kinds.predict(folder, images / "val")
    check(header == ["label", "p(dark)", "p(light)", "image"], str(header))
    check([row["image"] for row in rows] == [f"{name}/{i}.png" for name in ("dark", "light") for i in range(3)], str(rows))
    value = json.loads((folder / "metrics.json").read_text())["value"]
    check(abs(sum(row["label"] == row["image"].split("/")[0] for row in rows) / 6 - value) < 1e-9, f"{rows}, metrics.json says {value}")
    by_name = {row["image"]: (row["label"], row["p(dark)"]) for row in rows}
    (images / "val" / "dark" / "Thumbs.db").write_text("no image")
    for path, prefix in ((images / "val" / "dark", "dark/"), (images / "val" / "light", "light/")):
        rows = kinds.predict(folder, path)[1]
        check([row["image"] for row in rows] == ["0.png", "1.png", "2.png"], str(rows))
        check(all(by_name[prefix + row["image"]][0] == row["label"] for row in rows), str(rows))
    rows = kinds.predict(folder, images / "val" / "light" / "1.png")[1]
    check(len(rows) == 1 and rows[0]["label"] == by_name["light/1.png"][0], str(rows))
    check(len(kinds.predict(folder, images)[1]) == 18, "a data set's folder")
    records = b"".join(bytes([i]) + bytes([20 if i % 2 else 225]) * 3072 for i in range(5))
    (place.root / "some.bin").write_bytes(records)
    rows = kinds.predict(folder, place.root / "some.bin")[1]
    check([row["image"] for row in rows] == ["1", "2", "3", "4", "5"], str(rows))
    (place.root / "some.csv").write_text("".join(",".join(["3"] + ["200"] * 784) + "\n" for _ in range(3)))
    check(len(kinds.predict(folder, place.root / "some.csv")[1]) == 3, "csv")
    (place.root / "empty").mkdir()
    for path in (place.root / "empty", place.root / "none", place.root / "lm" / "dev.txt"):
        error = kinds.predict(folder, path, 2)
        check("--predict: expected a folder of images" in error and str(path) in error, error)


def test_predict_questions(place):
    kinds = Kinds(place)
    for model in ("opt", "roberta"):
        folder = kinds.run(model, "arc_easy")
        header, rows = kinds.predict(folder, place.root / "arc_easy" / "dev.jsonl")
        asked = [json.loads(line) for line in (place.root / "arc_easy" / "dev.jsonl").read_text().splitlines()]
        check(header[:2] == ["answer", "option"] and header[-2:] == ["id", "question"] and len(rows) == len(asked), str(header))
        hits = 0
        for row, question in zip(rows, asked):
            options = [c["text"] for c in question["question"]["choices"]]
            scores = [float(row[f"score({i})"]) for i in range(len(options))]
            check(row["id"] == question["id"] and "which one is it?" in row["question"], str(row))
            check(row["option"] == options[int(row["answer"])] and max(scores) == scores[int(row["answer"])], str(row))
            check(all(row[f"score({i})"] == "" for i in range(len(options), len(header) - 4)), str(row))
            hits += "ABCDE"[int(row["answer"])] == question["answerKey"]
        value = json.loads((folder / "metrics.json").read_text())["dev"]["accuracy"]
        check(abs(hits / len(rows) - value) < 1e-9, f"{model}: {hits} of {len(rows)}, metrics.json says {value}")
        for question in asked: del question["answerKey"]
        (place.root / "asked.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
        check(kinds.predict(folder, place.root / "asked.jsonl")[1] == rows, "answers were looked at")
        for path in (place.root / "images", place.root / "images" / "val" / "dark" / "0.png", place.root / "lm" / "dev.txt"):
            error = kinds.predict(folder, path, 2)
            check("--predict: expected a file of questions" in error and str(path) in error, error)


def test_predict_lines(place):
    kinds = Kinds(place)
    lines = place.root / "lines.txt"
    for model in ("opt", "roberta"):
        folder = kinds.run(model, "lm")
        text = (place.root / "lm" / "dev.txt").read_text()
        lines.write_text("\n" + text + "\n\n")
        header, rows = kinds.predict(folder, lines)
        check(header == ["log_likelihood", "tokens", "perplexity", "text"], str(header))
        check([row["text"] for row in rows] == [""] + text.splitlines() + ["", ""], "not the lines of the file")
        sums = [(float(row["log_likelihood"]), int(row["tokens"])) for row in rows]
        check(sums[0] == (0, 0) and sums[-1] == (0, 0) and rows[0]["perplexity"] == "nan", str(rows[0]))
        for row, (total, count) in zip(rows[1:-2], sums[1:-2]):
            check(count == len(row["text"].encode()), f"tokens: {row}")  # a byte each
            check(abs(float(row["perplexity"]) - math.exp(-total / count)) < 1e-6 * float(row["perplexity"]), str(row))
        mean = sum(total for total, _ in sums) / sum(count for _, count in sums)
        dev = json.loads((folder / "metrics.json").read_text())["dev"]["log_likelihood"]
        # A causal model's score counts the same tokens; a masked one's some of them, several masked at once.
        check(abs(mean - dev) < (1e-5 if model == "opt" else 0.5), f"{model}: {mean}, metrics.json says {dev}")
        rows2 = [row for row in rows if row["text"]]
        lines.write_text("".join(row["text"] + "\n" for row in reversed(rows2)))
        again = kinds.predict(folder, lines)[1][::-1]
        check(all(abs(float(a["log_likelihood"]) - float(b["log_likelihood"])) < 1e-3 for a, b in zip(rows2, again)), "order matters")
        long = " ".join(["the film was fine"] * 40)  # a masked model scores more sequences of it than wait at once
        lines.write_text(long + "\n")
        alone = kinds.predict(folder, lines)[1][0]
        lines.write_text("a film\n" + long + "\nfine\n")
        among = kinds.predict(folder, lines)[1][1]
        check(int(alone["tokens"]) == len(long) == int(among["tokens"]), f"{alone} {among}")
        check(abs(float(alone["log_likelihood"]) - float(among["log_likelihood"])) < 1e-2, f"{alone} {among}")
        for path in (place.root / "images", place.root / "images" / "val" / "dark" / "0.png"):
            error = kinds.predict(folder, path, 2)
            check("--predict: expected a file of lines of text" in error and str(path) in error, error)


def test_predict_alone(place):
    """Texts alone have no header because the run's files had one, and are UTF-8 unless it is said here."""
    kinds, folder = Kinds(place), place.folder()
    data, texts = place.root / "told.tsv", place.root / "alone.txt"
    data.write_bytes("text\tlabel\n".encode() + "the film w\u00e4s fine\tpos\ndull and cold\tneg\n".encode("latin1") * 10)
    execute(place.command(folder, "--task", "tsv", "--text", 1, "--label", 2, "--header", "yes", "--encoding", "latin1", "--data", data, "--max-steps", 2))
    lines = ["a film, and a cold one.", "the c\u00e4st was dull", "fine"]
    texts.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    check([row["text"] for row in kinds.predict(folder, texts)[1]] == lines, "not the lines of the file")
    texts.write_text("review\n" + "".join(line + "\n" for line in lines), encoding="utf-8")
    error = kinds.predict(folder, texts, 2)
    check("is this line a text or the name of a column?" in error and "say with --header (yes or no)" in error, error)
    texts.write_bytes("".join(line + "\n" for line in lines).encode("latin1"))
    error = kinds.predict(folder, texts, 2)
    check("not UTF-8" in error and "latin1" in error, error)


def test_predict_texts_wrong(place):
    kinds = Kinds(place)
    folder = place.folder()
    execute(place.command(folder, "--max-steps", 2))
    for path in (place.root / "images", place.root / "images" / "val" / "dark" / "0.png", place.root / "none.tsv", place.root / "arc_easy" / "dev.jsonl"):
        error = kinds.predict(folder, path, 2)
        check("--predict: expected a file of texts" in error and str(path) in error and "finetune: :" not in error, error)


if __name__ == "__main__":
    sys.exit(main(globals()))
