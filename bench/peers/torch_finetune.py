"""Throughput of full fine-tuning on GLUE SST-2 in PyTorch, for comparison with meft. Prints one JSON line.

    python torch_finetune.py --model MODEL --data SST2 --steps 50 --precision f32

MODEL is a Hugging Face BERT folder; SST2 holds train.tsv with the columns sentence and label. Batches are shuffled and
padded to their longest sentence, cut at --length tokens. Tokenising is done before, and not timed.

sequences_per_second  of --steps steps (forward, backward and AdamW), after three that are not counted
tokens_per_second     the same in tokens, padding not counted
"""
import argparse
import csv
import json
import os
import pathlib
import random
import time

import torch
import transformers

WARM = 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--data", required=True, help="folder with train.tsv")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="most tokens in a sentence")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rate", type=float, default=2e-5, help="learning rate")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps: at least 1, found {options.steps}")
    return options


def examples(options, count):
    """`count` rows of the shuffled training set: token ids and label. Starts over when there are fewer."""
    path = pathlib.Path(options.data, "train.tsv")
    with open(path, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    random.Random(options.seed).shuffle(rows)
    rows = [rows[i % len(rows)] for i in range(count)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer([row["sentence"] for row in rows], truncation=True, max_length=options.length)["input_ids"]
    return [(torch.tensor(x), int(row["label"])) for x, row in zip(ids, rows)]


def padded(rows, padding):
    ids = torch.nn.utils.rnn.pad_sequence([x for x, _ in rows], batch_first=True, padding_value=padding)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x, _ in rows], batch_first=True)
    return dict(input_ids=ids, attention_mask=mask, labels=torch.tensor([label for _, label in rows]))


def main():
    options = arguments()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    model = model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate)
    rows = examples(options, (WARM + options.steps) * options.batch)

    start, tokens, losses = 0, 0, []
    for step in range(WARM + options.steps):
        if step == WARM:
            start = time.perf_counter()
        batch = padded(rows[step * options.batch:(step + 1) * options.batch], model.config.pad_token_id or 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step >= WARM:
            tokens += batch["attention_mask"].sum().item()
    seconds = time.perf_counter() - start
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}, transformers {transformers.__version__}", method="full",
        precision=options.precision, model=options.model, batch=options.batch, steps=options.steps,
        threads=options.threads, sequences_per_second=round(options.steps * options.batch / seconds, 2),
        tokens_per_second=round(tokens / seconds, 1), loss_first=round(losses[0], 4), loss_last=round(losses[-1], 4))))


main()
