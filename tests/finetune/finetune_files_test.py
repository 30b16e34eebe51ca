"""Tests what examples/finetune does with files that are there: names of classes in the checkpoint, in peft's files and in the data;
data that looks like the run's; files that would be written over: finetune_files_test.py FINETUNE [NAME...]
"""
import json
import os
import re
import shutil
import subprocess
import sys

import families_finetune_test as families
from finetune_use_test import png, table_of
from place import FINETUNE, check, execute, main, read_safetensors, run


def test_peft_classes(place):
    """The rows of a head in peft's files are the checkpoint's by its id2label, and read back so."""
    model = place.root / "named"
    shutil.copytree(place.model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}))
    texts = place.root / "some.tsv"
    texts.write_text("sentence\n" + "the film was fine\ndull and cold\n")
    folder, alone = run(place, "--model", model, "--max-steps", 40, method="lora"), place.folder()
    name, lead = "classifier.weight", "base_model.model."
    ours, theirs = read_safetensors(folder / "adapter.safetensors")[0][name], read_safetensors(folder / "adapter_model.safetensors")[0][lead + name]
    half = len(ours) // 2
    check(ours[:half] == theirs[half:] and ours[half:] == theirs[:half] and ours != theirs, "the rows of peft's file are not the checkpoint's")
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"): shutil.copy(folder / name, alone)
    more = ["--task", "sst2"]
    execute([FINETUNE, "--output", folder, "--predict", texts])
    execute([FINETUNE, "--output", alone, *more, "--predict", texts])
    check((folder / "predictions.tsv").read_bytes() == (alone / "predictions.tsv").read_bytes(), "peft's files predict otherwise")
    scored = [execute([FINETUNE, "--output", where, *more, "--eval-only", "--data", place.data]).stdout.splitlines()[-1] for where in (folder, alone)]
    check(scored[0] == scored[1], str(scored))
    merged = place.folder()
    execute([FINETUNE, "--output", alone, *more, "--merge", merged])
    check(json.loads((merged / "config.json").read_text())["id2label"] == {"0": "negative", "1": "positive"}, "merged")
    execute([FINETUNE, "--model", merged, "--task", "sst2", "--data", place.data, "--method", "full", "--lr", "1e-12", "--weight-decay", 0,
             "--max-steps", 1, "--output", merged / "run"])
    check(execute([FINETUNE, "--output", merged / "run", "--eval-only", "--data", place.data]).stdout.splitlines()[-1] == scored[0], "merged")
    # Without a task's own names a prediction has the checkpoint's, and data theirs by what they mean.
    data = place.root / "words"
    data.mkdir()
    for part in ("train", "dev"):
        rows = [line.split("\t") for line in (place.data / f"{part}.tsv").read_text().splitlines()[1:]]
        (data / f"{part}.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{('neg', 'pos')[int(label)]}\n" for text, label in rows))
    more = ["--task", "tsv", "--text", "sentence", "--label", "label"]
    check(execute([FINETUNE, "--output", alone, *more, "--eval-only", "--data", data]).stdout.splitlines()[-1].split(",")[0] == scored[0].split(",")[0], "tsv")
    execute([FINETUNE, "--output", alone, *more, "--predict", texts, "--overwrite"])
    labels = [row["label"].lower() for row in table_of(alone / "predictions.tsv")[1]]
    check(labels == [row["label"] for row in table_of(folder / "predictions.tsv")[1]], str(labels))
    for wrong in (["--task", "stsb"], [*more, "--regression"]):
        error = execute([FINETUNE, "--output", alone, *wrong, "--predict", texts, "--overwrite"], 2).stderr
        check("a head of one row" in error and "2 rows" in error, error)


def test_peft_more_classes(place):
    """A head in peft's files of more rows than the checkpoint names has classes by number."""
    data, texts, alone = place.root / "three.tsv", place.root / "some.tsv", place.folder()
    data.write_text("text\tlabel\n" + "the film was fine\tpos\ndull and cold\tneg\na film\tnone\n" * 8)
    texts.write_text("text\nthe film was fine\ndull and cold\n")
    table = ["--task", "tsv", "--text", "text", "--label", "label"]
    folder = run(place, *table, "--data", data, "--max-steps", 20, method="lora")
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"): shutil.copy(folder / name, alone)
    execute([FINETUNE, "--output", folder, "--predict", texts])
    execute([FINETUNE, "--output", alone, *table, "--predict", texts])
    header, rows = table_of(alone / "predictions.tsv")
    check([name for name in header if name.startswith("p(")] == [f"p(LABEL_{i})" for i in range(3)], str(header))
    named = table_of(folder / "predictions.tsv")
    check([list(row.values())[1:] for row in rows] == [list(row.values())[1:] for row in named[1]], f"{rows} {named}")


def shades(folder, dark, light, count=10):
    for name, colour in (("dark", dark), ("light", light)):
        (folder / name).mkdir(parents=True)
        for i in range(count): (folder / name / f"{i}.png").write_bytes(png(20 + i, 17, colour))


def test_same_names(place):
    """Other images of the same names are not those that a run held out; nor are they gone on with."""
    (place.root / "vit").mkdir()
    families.vit(place.root / "vit")
    mine, other = place.root / "mine", place.root / "other"
    shades(mine, (20, 20, 30), (230, 220, 225))
    shades(other, (25, 20, 30), (200, 220, 225))
    command = lambda folder, data, *more: [FINETUNE, "--model", place.root / "vit", "--task", "images", "--data", data, "--output", folder, "--batch", 4, *more]
    folder, long = place.folder(), mine / "dark" / "0.png"
    long.write_bytes(whole := long.read_bytes() + bytes(9000))
    execute(command(folder, mine, "--max-steps", 3))
    long.write_bytes(whole[:-1] + b"1")
    error = execute(command(folder, mine, "--resume", "--max-steps", 5), 2).stderr
    check("--data is not the run's" in error, error)
    long.write_bytes(whole)
    moved = place.root / "moved"
    mine.rename(moved)
    for data, words in ((moved, "2 held-out examples"), (other, "20 dev examples")):
        check(words in execute([FINETUNE, "--output", folder, "--eval-only", "--data", data]).stdout, words)
    error = execute(command(folder, other, "--resume", "--max-steps", 5), 2).stderr
    check("--data is not the run's" in error, error)
    (moved / "light").rename(moved / "bright")
    check("--data is not the run's" in execute(command(folder, moved, "--resume", "--max-steps", 5), 2).stderr, "a class was renamed")
    (moved / "bright" / "more").mkdir()
    (moved / "bright" / "more" / "0.png").write_bytes(png(20, 20, (1, 2, 3)))
    check("1 folders inside of class folders, or without images, are not read: bright/more/" in execute(command(place.folder(), moved, "--max-steps", 1)).stdout,
          "a folder in a class folder")


def test_damaged_image(place):
    """An image to score on that is damaged in its middle ends a run before it trains."""
    (place.root / "vit").mkdir()
    families.vit(place.root / "vit")
    data, folder = place.root / "images", place.folder()
    shades(data / "train", (20, 20, 30), (230, 220, 225), 4)
    shades(data / "val", (20, 20, 30), (230, 220, 225), 2)
    broken = data / "val" / "dark" / "1.png"
    whole = broken.read_bytes()
    at = whole.index(b"IDAT") + 8
    broken.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    command = [FINETUNE, "--model", place.root / "vit", "--task", "images", "--data", data, "--output", folder, "--batch", 4, "--max-steps", 2]
    error = execute(command, 1).stderr
    check("1 of 12 images is broken: val/dark/1.png: PNG: " in error and "start again" in error and not (folder / "state.safetensors").exists(), error)
    broken.write_bytes(whole)
    execute(command)
    broken.write_bytes(whole[:60])
    error = execute([FINETUNE, "--output", folder, "--predict", data / "val"], 2).stderr
    check("Mend or delete it" in error and "resume" not in error, error)


def test_renamed_class(place):
    data, folder = place.root / "words", place.folder()
    data.mkdir()
    rows = "the film was fine\tgood\nthe cast was dull\tbad\n" * 10
    (data / "train.tsv").write_text("text\tlabel\n" + rows)
    command = place.command(folder, "--task", "tsv", "--text", "text", "--label", "label", "--data", data)
    execute(command + ["--max-steps", "2"])
    (data / "train.tsv").write_text("text\tlabel\n" + rows.replace("\tbad", "\tawful"))
    check("--data is not the run's" in execute(command + ["--max-steps", "4", "--resume"], 2).stderr, "a class was renamed")


def test_predictions_written_over(place):
    """Nothing but predictions is replaced by predictions."""
    folder, texts = run(place, "--max-steps", 2, method="lora"), place.root / "texts.tsv"
    texts.write_text("sentence\tlabel\nthe film was fine\t1\n")
    link = place.root / "link.tsv"
    link.symlink_to(texts)
    kept = {path: path.read_bytes() for path in (texts, *folder.iterdir()) if path.is_file()}
    for path in (texts, link, folder / "adapter.safetensors", folder / "metrics.json", folder / "adapter_config.json"):
        error = execute([FINETUNE, "--output", folder, "--predict", texts, "--predictions", path, "--overwrite"], 2).stderr
        check(f"--predictions: expected another file than what is read, and than the run's own, found {path}" in error, error)
    fifo = place.root / "fifo"
    os.mkfifo(fifo)
    for more in ([], ["--overwrite"]):
        error = execute([FINETUNE, "--output", folder, "--predict", texts, "--predictions", fifo, *more], 2).stderr
        check("--predictions: expected a regular file" in error and fifo.is_fifo(), error)
    check(kept == {path: path.read_bytes() for path in kept}, "a file was written over")


def test_others_files(place):
    """A folder with somebody's metrics.json is no folder for a run; a file that transformers would read beside merged weights goes."""
    for name in ("metrics.json", "log.jsonl"):
        folder = place.folder()
        folder.mkdir()
        (folder / name).write_text("mine")
        error = execute(place.command(folder, "--max-steps", 1), 2).stderr
        check("--output: expected a folder without a run" in error and name in error and (folder / name).read_text() == "mine", error)
    trained, merged = run(place, "--max-steps", 2, method="lora"), place.folder()
    merged.mkdir()
    merge = [FINETUNE, "--output", trained, "--merge", merged]
    (merged / "tokenizer.json").write_text("{}")
    check("tokenizer.json: is there already" in execute(merge, 1).stderr, "another model's tokenizer")
    execute(merge + ["--overwrite"])
    check(not (merged / "tokenizer.json").exists() and (merged / "vocab.txt").exists(), "another model's tokenizer is left")
    (merged / "adapter_config.json").write_text("{}")
    check("adapter_config.json: is there already" in execute(merge + ["--overwrite"], 1).stderr, "an adapter beside merged weights")


def test_scores_kept(place):
    """metrics.json has the scores of a test set whose labels are told."""
    data = place.root / "three"
    shutil.copytree(place.data, data)
    shutil.copy(data / "dev.tsv", data / "test.tsv")
    folder = run(place, "--data", data, "--max-steps", 4, method="lora")
    metrics = json.loads((folder / "metrics.json").read_text())
    check(metrics["test"] == metrics["dev"] and list(metrics)[-1] == "memory", str(metrics))
    before = (folder / "metrics.json").read_bytes()
    execute(place.command(folder, "--data", data, "--max-steps", 4, "--resume", method="lora"))
    check((folder / "metrics.json").read_bytes() == before, "another metrics.json behind --resume")


def test_dev_alone(place):
    """A folder that has dev alone can be scored."""
    folder, alone = run(place, "--max-steps", 4, method="lora"), place.root / "alone"
    alone.mkdir()
    shutil.copy(place.data / "dev.tsv", alone)
    scored = [execute([FINETUNE, "--output", folder, "--eval-only", "--data", data]).stdout.splitlines()[-1] for data in (place.data, alone)]
    check(scored[0] == scored[1] and "40 dev examples" in scored[0], str(scored))
    check("no training file" in execute(place.command(place.folder(), "--data", alone), 1).stderr, "trained on dev")


def test_names_not_utf8(place):
    """Names that a run's files cannot say are told before anything is trained."""
    images = os.fsencode(place.root / "odd")
    for part in (b"train", b"val"):
        for name, colour in ((b"caf\xe9", 30), (b"tea", 220)):
            os.makedirs(folder := os.path.join(images, part, name))
            for i in range(4):
                with open(os.path.join(folder, b"%d.png" % i), "wb") as file: file.write(png(20 + i, 17, [colour] * 3))
    (vit := place.root / "vit").mkdir()
    families.vit(vit)
    output = place.folder()
    done = subprocess.run([os.fsencode(str(x)) for x in (FINETUNE, "--model", vit, "--task", "images", "--output", output, "--max-steps", 1, "--data")] + [images],
                          capture_output=True)
    check(done.returncode == 1 and b"the classes: expected names in UTF-8, found" in done.stderr and not (output / "state.safetensors").exists(), done.stderr)
    moved = os.fsencode(place.root) + b"/m\xe9l"
    shutil.copytree(os.fsencode(place.model), moved)
    command = [os.fsencode(str(x)) for x in place.command(output, "--max-steps", 1)]
    command[command.index(b"--model") + 1] = moved
    done = subprocess.run(command, capture_output=True)
    check(done.returncode == 1 and b"--model: expected names in UTF-8, found" in done.stderr, done.stderr)


def test_said_of_texts(place):
    """Texts without a word are counted; names of classes may have spaces between them."""
    data, folder = place.root / "blank.csv", place.folder()
    data.write_text("text;label\n" + "the film was fine;pos\n;neg\n" * 8)
    said = execute(place.command(folder, "--task", "tsv", "--text", "text", "--label", "label", "--data", data, "--max-steps", 1, "--label-names", "neg, pos")).stdout
    check("training texts are empty" in said and re.search(r"2 classes, .*: neg \d, pos \d", said), said)


if __name__ == "__main__":
    sys.exit(main(globals()))
