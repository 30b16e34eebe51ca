"""Compares what examples/finetune writes with PyPI's transformers and peft: merge_peer.py FINETUNE

A run of each family, on tiny random checkpoints: its merged folder is loaded by transformers, its adapter_config.json and
adapter_model.safetensors by peft, and both predict what the run does. Configuration and tokenizer are loaded in any case; logits
need torch, and peft's files peft: without these a part is skipped, and says so. Exit status 1: something differs.
"""
import importlib.util
import os
import pathlib
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import families_finetune_test as families
from place import FINETUNE, check, execute

HAS = {name: importlib.util.find_spec(name) is not None for name in ("torch", "peft")}
LIMIT = 2e-5  # of a probability, a few roundings of float32


def transformers_predictions(folder, texts, adapter=None, labels=2):
    """Probabilities of each text, one by one."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=labels)
    if adapter is not None:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    with torch.no_grad():
        return [torch.softmax(model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=families.PLACES)).logits[0], 0).tolist() for text in texts]


def check_alike(found, expected, what):
    worst = max(abs(a - b) for x, y in zip(found, expected) for a, b in zip(x, y))
    check(len(found) == len(expected) and worst <= LIMIT, f"{what}: probabilities differ by {worst:.1e}")
    return worst


def compare(place, model, method):
    from transformers import AutoConfig, AutoTokenizer
    run, merged = place.folder(), place.folder()
    place.run(model, "sst2", method, run, *families.narrow(method))
    lines = (place.root / "sst2" / "dev.tsv").read_text().splitlines()[1:9]
    texts = place.root / "texts.tsv"
    texts.write_text("\n".join(["sentence"] + [line.split("\t")[0] for line in lines]) + "\n")
    execute([FINETUNE, "--output", run, "--predict", texts])
    header, *rows = [line.split("\t") for line in (run / "predictions.tsv").read_text().splitlines()]
    expected, words = [[float(p) for p in row[1:3]] for row in rows], [row[3] for row in rows]

    execute([FINETUNE, "--output", run, "--merge", merged])
    config = AutoConfig.from_pretrained(merged)
    check(config.id2label == {0: "negative", 1: "positive"} and config.num_labels == 2, str(config))
    ids = [AutoTokenizer.from_pretrained(folder)(words[0])["input_ids"] for folder in (merged, place.root / model)]
    check(ids[0] == ids[1] and len(ids[0]) > 2, f"{model}: the tokenizer gives {ids}")
    worst = []
    if HAS["torch"]: worst.append(check_alike(transformers_predictions(merged, words), expected, f"{model} {method}, merged"))
    if HAS["torch"] and HAS["peft"] and (run / "adapter_config.json").exists():
        worst.append(check_alike(transformers_predictions(place.root / model, words, run), expected, f"{model} {method}, by peft"))
    print(f"{model} {method}: {', '.join(f'{w:.1e}' for w in worst) or 'configuration and tokenizer'}", flush=True)


def main():
    with tempfile.TemporaryDirectory() as root:
        place = families.Place(root)
        for model, methods in (("roberta", ["full", "lora", "ia3", "speft", "alore", "sparsegrad"]), ("opt", ["lora"]), ("bart", ["ia3"])):
            for method in methods: compare(place, model, method)
    for name, found in HAS.items():
        if not found: print(f"skipped: logits by transformers and peft: no {name}")


main()
