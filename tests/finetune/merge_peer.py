"""Compares what examples/finetune writes with PyPI's transformers and peft: merge_peer.py FINETUNE

A run of each family, on tiny random checkpoints: its merged folder is loaded by transformers, its adapter_config.json and
adapter_model.safetensors by peft, and both predict what the run does; and what peft writes of LoRA on `all-linear` modules, with
random numbers, predicts here what it does there. Configuration and tokenizer are loaded in any case; logits
need torch, and peft's files peft: without these a part is skipped, and says so. Exit status 1: something differs.
"""
import importlib.util
import json
import os
import struct
import tempfile
import zlib

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import families_finetune_test as families
from place import FINETUNE, check, execute, make_model

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


def our_predictions(place, run, *more):
    """-> probabilities of each text, the texts."""
    lines = (place.root / "sst2" / "dev.tsv").read_text().splitlines()[1:9]
    texts = place.root / "texts.tsv"
    texts.write_text("\n".join(["sentence"] + [line.split("\t")[0] for line in lines]) + "\n")
    execute([FINETUNE, "--output", run, "--predict", texts, *more])
    header, *rows = [line.split("\t") for line in (run / "predictions.tsv").read_text().splitlines()]
    return [[float(p) for p in row[1:3]] for row in rows], [row[3] for row in rows]


def compare(place, model, method, *more):
    from transformers import AutoConfig, AutoTokenizer
    run, merged = place.folder(), place.folder()
    place.run(model, "sst2", method, run, *families.narrow(method), *more)
    expected, words = our_predictions(place, run)

    execute([FINETUNE, "--output", run, "--merge", merged])
    config = AutoConfig.from_pretrained(merged)
    check(config.id2label == {0: "negative", 1: "positive"} and config.num_labels == 2, str(config))
    ids = [AutoTokenizer.from_pretrained(folder)(words[0])["input_ids"] for folder in (merged, place.root / model)]
    check(ids[0] == ids[1] and len(ids[0]) > 2, f"{model}: the tokenizer gives {ids}")
    worst = []
    if HAS["torch"]: worst.append(check_alike(transformers_predictions(merged, words), expected, f"{model} {method}, merged"))
    if HAS["torch"] and HAS["peft"] and (run / "adapter_config.json").exists():
        worst.append(check_alike(transformers_predictions(place.root / model, words, run), expected, f"{model} {method}, by peft"))
    print(f"{' '.join([model, method, *more])}: {', '.join(f'{w:.1e}' for w in worst) or 'configuration and tokenizer'}", flush=True)


def compare_theirs(place, model, **options):
    """LoRA on all linear layers that peft's `all-linear` finds: BERT's pooler is one of them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification
    torch.manual_seed(1)
    folder = place.folder()
    base = AutoModelForSequenceClassification.from_pretrained(place.root / model, dtype=torch.float32, num_labels=2)
    tuned = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=4, lora_alpha=8, **options))
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name: p.normal_(0, 0.3)
    tuned.save_pretrained(folder)
    found, words = our_predictions(place, folder, "--task", "sst2")
    before = transformers_predictions(place.root / model, words)
    theirs = transformers_predictions(place.root / model, words, folder)
    worst = check_alike(found, theirs, f"{model} of peft {options}")
    check(max(abs(a[0] - b[0]) for a, b in zip(before, theirs)) > 1e-3, f"{model}: the updates change nothing")
    print(f"{model} of peft, all-linear {options or ''}: {worst:.1e}", flush=True)


def check_loaded(tuned, adapter):
    """peft has every tensor of the file, and no other."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file
    expected, found = load_file(adapter / "adapter_model.safetensors"), get_peft_model_state_dict(tuned)
    check(found.keys() == expected.keys(), f"{adapter}: peft has {sorted(found.keys() ^ expected.keys())[:4]} otherwise")
    check(all((found[name] == value).all() for name, value in expected.items()), f"{adapter}: peft has other numbers")


def compare_words(place, model, method):
    """A model that writes: what peft's AutoPeftModel makes of the folder."""
    from peft import AutoPeftModelForSeq2SeqLM
    run = place.folder()
    place.run(model, "text2text", method, run, "--text", "source", "--label", "target")
    check_loaded(AutoPeftModelForSeq2SeqLM.from_pretrained(run), run)
    print(f"{model} {method}, which writes: read by peft", flush=True)


def compare_images(place, model, side, *more):
    """Images of the size that the model reads, so that nothing is resized."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageClassification
    run, images = place.folder(), place.folder()
    place.run(model, "images", "lora", run, *more)
    images.mkdir()
    rng, pixels = families.random.Random(3), []
    for i in range(4):
        values = bytes(rng.randrange(256) for _ in range(side * side * 3))
        rows = b"".join(b"\0" + values[3 * side * y:3 * side * (y + 1)] for y in range(side))
        chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        (images / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) +
                                          chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
        pixels.append(torch.tensor(list(values), dtype=torch.float32).reshape(side, side, 3).permute(2, 0, 1) / 127.5 - 1)
    execute([FINETUNE, "--output", run, "--predict", images])
    header, *rows = [line.split("\t") for line in (run / "predictions.tsv").read_text().splitlines()]
    expected = [[float(p) for p in row[1:11]] for row in sorted(rows, key=lambda row: row[-1])]
    tuned = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(place.root / model, num_labels=10), run).eval()
    check_loaded(tuned, run)
    with torch.no_grad(): found = torch.softmax(tuned(torch.stack(pixels)).logits, 1).tolist()
    print(f"{model} on images {' '.join(more)}: {check_alike(found, expected, model):.1e}", flush=True)


def llama(folder):
    words, t = families.write_tokenizer(folder, "GPT2Tokenizer"), families.Tensors(10)
    width, inner = families.WIDTH, families.INNER
    t.array("model.embed_tokens.weight", words, width)
    t.scale("model.norm")
    for i in range(families.LAYERS):
        at = f"model.layers.{i}."
        for norm in ("input", "post_attention"): t.scale(f"{at}{norm}_layernorm")
        for part, rows, columns in (("self_attn.q_proj", width, width), ("self_attn.k_proj", width // 2, width),
                                    ("self_attn.v_proj", width // 2, width), ("self_attn.o_proj", width, width),
                                    ("mlp.gate_proj", inner, width), ("mlp.up_proj", inner, width), ("mlp.down_proj", width, inner)):
            t.array(f"{at}{part}.weight", rows, columns)
    families.write_model(folder, {"model_type": "llama", "vocab_size": words, "hidden_size": width, "num_hidden_layers": families.LAYERS,
                                  "num_attention_heads": families.HEADS, "num_key_value_heads": 1, "intermediate_size": inner,
                                  "max_position_embeddings": families.PLACES, "hidden_act": "silu", "pad_token_id": 1}, t)


def bert(folder):
    folder.rmdir()
    make_model(folder, positions=families.PLACES)


def as_published(folder):
    """ModernBERT's tokenizer.json, in place of which transformers reads no vocab.json, and ids that are words here."""
    from transformers import RobertaTokenizer
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    ids = dict(bos_token_id=0, cls_token_id=0, pad_token_id=1, eos_token_id=2, sep_token_id=2)
    (folder / "config.json").write_text(json.dumps(config | ids))


def main():
    with tempfile.TemporaryDirectory() as root:
        place = families.Place(root)
        for model, methods in (("roberta", ["full", "lora", "ia3", "speft", "alore", "sparsegrad"]), ("opt", ["lora"]), ("bart", ["ia3"])):
            for method in methods: compare(place, model, method)
        for name, make in (("bert", bert), ("llama", llama)):
            (place.root / name).mkdir()
            make(place.root / name)
        as_published(place.root / "modernbert")
        for model in ("bert", "llama", "opt", "bart", "modernbert"):
            for targets in ("attention", "linear", "query,down"): compare(place, model, "lora", "--lora-targets", targets)
            if HAS["torch"] and HAS["peft"] and model != "bart": compare_theirs(place, model)  # it saves no head of that
        if HAS["torch"] and HAS["peft"]:
            compare_theirs(place, "bert", use_rslora=True)
            for method in ("lora", "ia3"): compare_words(place, "t5", method)
            for model, side in (("vit", 32), ("dinov2", 24)):
                for more in ((), ("--lora-targets", "linear")): compare_images(place, model, side, *more)
    for name, found in HAS.items():
        if not found: print(f"skipped: logits by transformers and peft: no {name}")


main()
