"""Few-shot scores on a task with classes: zero-shot, forward passes alone and gradients side by side.

    python3 bench/few_shot.py --finetune PROGRAM --model DIR --task sst2 --data DIR --output DIR -- --max-length 64
    python3 bench/few_shot.py --table

DATA holds train.tsv and dev.tsv with a line that names the columns, one of them `label`. A run trains on `--shots` examples of
each class and picks its best epoch on as many others, at most 64, both drawn from train.tsv by the seed; its score is the accuracy on
`--test` rows of dev.tsv, the same for all. A language model answers with label words: MeZO and full fine-tuning by cross entropy
over these, (IA)³ by T-Few's losses. With `--warm`, for a model without a language head, the task's head is trained first, alone,
on the same examples, and all methods start from there. Words behind `--` go to every run: `--template`, `--label-words`, `--pooling`.
Rates are those of RATES, the better on the first seed's own dev examples.

Scores of finished runs are kept in `--results` (bench/few_shot.json), a line a run with a hash of all that it depends on, so that a
call does what is still to be done, or `--runs N` of it; a run that was stopped goes on from its folder in `--output`.

`--reactions DIR --model RXNFP` writes data for a model of chemistry (PyPI rxnfp's BERT), DIR/data, which atom of N, O and S takes a
halogen's place, and the model with a tokenizer for them:

    python3 bench/few_shot.py --reactions R --model RXNFP
    python3 bench/few_shot.py --finetune PROGRAM --model R/rxnfp-bert --data R/data --output DIR --shots 16 512 -- \\
        --text reaction --label label --template "{label}.{text}" --label-words N,O,S

There a step takes .5 s of a core with mezo, .3 with mezo-lora and full, .2 with ia3: 75 minutes of a core for each of `--shots` with
two seeds, 20 with `--methods zero-shot mezo-lora ia3 full --seeds 0`. With a head, on MiniLM:

    python3 bench/few_shot.py --finetune PROGRAM --model MINILM --task sst2 --data SST2 --output DIR --warm -- --max-length 64
"""

import argparse
import hashlib
import itertools
import json
import math
import random
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

RATES = {"zero-shot": ["1e-30"], "mezo": ["1e-6", "1e-5"], "mezo-lora": ["5e-5", "5e-4"], "mezo-prefix": ["1e-3", "1e-2"],
         "ia3": ["3e-3", "1e-2"], "lora": ["5e-4", "2e-3"], "full": ["5e-5", "2e-4"], "meft1": ["5e-4", "2e-3"],
         "zofo": ["1e-6", "1e-5"]}
LOSSES = {"ia3": "tfew"}  # of the others: ranking
HEAD_RATE = "5e-3"
EVALUATIONS = 10  # of dev in a run
KEYS = ("model", "task", "shots", "method", "rate", "seed")
ROW = "{:<10} {:>6} {:<12} {:>7} {:>5}  test {:.3f}, {:.0f} s of a core"


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_losses(method):
    return method.startswith(("mezo", "zofo"))


class Results:
    """Rows by KEYS and `settings`, a hash of all else that they depend on."""

    def __init__(self, path):
        self.path, self.rows = path, json.loads(path.read_text()) if path.exists() else []

    def find(self, run, settings):
        return next((row for row in self.rows if key_of(row) == (*run, settings)), None)

    def add(self, run, settings, row):
        self.rows.append(dict(zip(KEYS, run), settings=settings, **row))
        self.rows.sort(key=key_of)
        partial = self.path.with_suffix(".partial")
        partial.write_text("[\n" + ",\n".join(map(json.dumps, self.rows)) + "\n]\n")
        partial.replace(self.path)

    def best_rate(self, settings, *of):
        """The rate of the best dev score on the seed that tried most, the lower of equals."""
        tried = {}
        for row in self.rows:
            if key_of(row)[:4] == of and row["settings"] == settings: tried.setdefault(row["seed"], {})[row["rate"]] = row["dev"]
        first = max(tried.values(), key=len, default={})
        return max(first, key=lambda rate: (first[rate], -float(rate)), default=None)

    def table(self):
        methods = sorted({row["method"] for row in self.rows}, key=list(RATES).index)
        lines = ["| model, task | examples a class | " + " | ".join(methods) + " |", "| --- | ---: |" + " ---: |" * len(methods)]
        for settings, about, model, task, shots in sorted({(row["settings"], row["about"], *key_of(row)[:3]) for row in self.rows}):
            cells = []
            for method in methods:
                rate = self.best_rate(settings, model, task, shots, method)
                values = [row["test"] for row in self.rows if key_of(row)[:5] == (model, task, shots, method, rate) and row["settings"] == settings]
                spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
                also = "" if method == "zero-shot" else f" ({rate}, {len(values)})"
                cells.append(f"{100 * statistics.mean(values):.1f}{spread}{also}" if values else "")
            lines.append(f"| {model}, {task}, {about} | {shots} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def key_of(row):
    return tuple(row[key] for key in KEYS) + (row["settings"],)


def rows_of(path):
    head, *rows = path.read_text().splitlines()
    at = head.split("\t").index("label")
    return head, rows, [row.split("\t")[at] for row in rows]


def write_data(data, folder, shots, seed, test, steps, batch):
    """The folder of a run. Training rows are repeated so that a run has few epochs, at whose ends it is scored."""
    head, rows, labels = rows_of(data / "train.tsv")
    rng, train, dev = random.Random(f"{shots}/{seed}"), [], []
    for label in sorted(set(labels)):
        own = [row for row, at in zip(rows, labels) if at == label]
        if len(own) < 2 * shots: raise SystemExit(f"--shots: expected at most {len(own) // 2} for class {label}, found {shots}")
        drawn = rng.sample(own, 2 * shots)
        train += drawn[:shots]
        dev += drawn[shots:][:64]
    times = max(1, math.ceil(steps * batch / EVALUATIONS / len(train)))
    _, others, _ = rows_of(data / "dev.tsv")
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"train": train * times, "dev": dev, "test": random.Random(0).sample(others, min(test, len(others)))}
    for name, lines in sets.items(): (folder / f"{name}.tsv").write_text("\n".join([head, *lines]) + "\n")


def invoke(args, *flags):
    command = [str(x) for x in (args.finetune, *flags)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def fit(args, model, output, shots, method, rate, seed, losses="ranking"):
    """-> accuracy on dev of the best epoch, on the test rows. Without a method nothing is learned."""
    steps, batch = (args.forward_steps, args.forward_batch) if by_losses(method) else (1 if not method else args.steps, args.batch)
    data = args.output / f"data-{output.name}"
    write_data(args.data, data, shots, seed, args.test, steps, batch)
    ranked = [] if args.warm else ["--losses", losses]
    out = invoke(args, "--model", model, "--task", args.task, "--data", data, "--method", method or "ia3", "--lr", rate, "--seed", seed,
                 "--batch", batch, "--epochs", 1 << 20, "--max-steps", steps, "--threads", args.threads, *ranked, *args.more,
                 "--output", output, *(["--resume"] if (output / "state.safetensors").exists() else []))
    test = re.findall(r"test examples: .*?accuracy ([0-9.]+)", out)
    return json.loads((output / "metrics.json").read_text())["dev"]["accuracy"], float(test[-1])


def trained(args, run):
    _, task, shots, method, rate, seed = run
    zero, model = method == "zero-shot", args.model
    if args.warm:
        head, model = (args.output / f"{name}-{task}-{shots}-{seed}" for name in ("head", "warm"))
        if zero or not (model / "config.json").exists():
            scores = fit(args, args.model, head, shots, "head", HEAD_RATE, seed)
            if zero: return scores
            invoke(args, "--output", head, "--merge", model)
    output = args.output / "-".join(map(str, run[1:]))
    return fit(args, model, output, shots, "" if zero else method, rate, seed, LOSSES.get(method, "ranking"))


def settings_of(args):
    """A hash of the model's bytes, the data and the flags, not of places, threads and the program; and words for a table."""
    weights = args.model if args.model.is_file() else next(iter(sorted(args.model.glob("*.safetensors")) + sorted(args.model.glob("*.bin"))))
    parts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, args.data / "train.tsv", args.data / "dev.tsv")]
    own = [args.steps, args.batch, args.forward_steps, args.forward_batch, args.test, args.warm, args.more, LOSSES]
    about = f"{args.steps} x {args.batch}, {args.forward_steps} x {args.forward_batch}" + ", head first" * args.warm
    return hashlib.sha256(json.dumps([*parts, *own]).encode()).hexdigest()[:12], about


def write_reactions(folder, model):
    """Reactions; the answer is what takes the halogen's place, though both halves may have other such atoms."""
    words = (model / "vocab.txt").read_text().splitlines()
    to = folder / model.name
    to.mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    for path in model.iterdir(): (to / path.name).write_bytes(path.read_bytes())
    added = {str(i): {"content": word, "special": True} for i, word in enumerate(words)}  # the longest that there is
    (to / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "added_tokens_decoder": added}))
    nucleophiles = ["CCC{}", "CC(C){}", "CCCCC{}", "C1CCC({})CC1", "c1ccc({})cc1", "COc1ccc({})cc1", "CN(C)CC{}", "CSCC{}", "COCC{}",
                    "c1ccnc({})c1", "COC(=O)c1ccc({})cc1", "CCOC(=O)CC{}", "N#Cc1ccc({})cc1", "Clc1ccc({})cc1", "Fc1ccc({})cc1",
                    "c1csc({})c1", "Cc1cccc({})c1", "CC(=O)Nc1ccc({})cc1", "CSc1ccc({})cc1", "O=[N+]([O-])c1ccc({})cc1", "c1ccc(C{})cc1"]
    groups = ["ClC(=O)C", "ClC(=O)CC", "ClC(=O)c2ccccc2", "ClC(=O)c2ccc(OC)cc2", "ClC(=O)c2ccncc2", "ClC(=O)c2cccs2", "BrCc2ccccc2", "BrCC(=O)OC",
              "BrCC#N", "BrCCCC", "BrCc2ccc(F)cc2", "ClCCN2CCOCC2", "ClC(=O)OC", "ClC(=O)CSC", "BrCCOC", "ClC(=O)C2CC2", "BrCc2ccncc2",
              "ClC(=O)c2ccc(SC)cc2", "BrCC(=O)N(C)C", "ClC(=O)CN2CCCC2"]
    solvents = ["", "ClCCl.", "CN(C)C=O.", "C1CCOC1.", "CS(C)=O.", "CC#N.", "CCN(CC)CC.", "[Na+].[OH-].", "c1ccncc1."]
    all_of = list(itertools.product(nucleophiles, groups, solvents, "NOS"))
    random.Random(1).shuffle(all_of)
    for name, count in (("train.tsv", 4000), ("dev.tsv", 1000)):
        lines = ["reaction\tlabel"]
        for body, group, solvent, atom in (all_of.pop() for _ in range(count)):
            lines.append(f"{solvent}{body.format(atom)}.{group}>>{body.format(atom + group[2:])}\t{atom}")
        (folder / "data" / name).write_text("\n".join(lines) + "\n")


def main():
    own, more = sys.argv[1:], []
    if "--" in own: own, more = own[:own.index("--")], own[own.index("--") + 1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, about in (("finetune", "the program"), ("model", "checkpoint"), ("data", "folder of train.tsv and dev.tsv"), ("output", "folder of the runs")):
        parser.add_argument(f"--{name}", type=Path, help=about)
    parser.add_argument("--task", default="tsv")
    parser.add_argument("--shots", nargs="+", type=int, default=[16], help="examples of each class")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--methods", nargs="+", default=["zero-shot", "mezo", "mezo-lora", "ia3", "full"], choices=RATES)
    parser.add_argument("--steps", type=int, default=300, help="of methods with gradients")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--forward-steps", type=int, default=1500, help="of methods by forward passes alone")
    parser.add_argument("--forward-batch", type=int, default=16)
    parser.add_argument("--test", type=int, default=500, help="rows of dev.tsv that are scored")
    parser.add_argument("--warm", action="store_true", help="the task's head is trained first, alone")
    parser.add_argument("--runs", type=int, default=1 << 30, help="at most so many in this call")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("few_shot.json"))
    parser.add_argument("--table", action="store_true", help="print what --results holds")
    parser.add_argument("--reactions", type=Path, metavar="DIR", help="write data for a model of chemistry")
    args = parser.parse_args(own)
    args.more = more
    results = Results(args.results)
    if args.reactions: return write_reactions(args.reactions, args.model)
    if args.table: return print(results.table())
    for flag in ("finetune", "model", "data", "output"):
        if getattr(args, flag) is None: parser.error(f"--{flag} is missing")
    name = args.model.stem if args.model.is_file() else args.model.resolve().name
    left = args.runs
    settings, about = settings_of(args)
    for seed, shots, method in itertools.product(args.seeds, args.shots, args.methods):
        rates = RATES[method] if seed == args.seeds[0] else [results.best_rate(settings, name, args.task, shots, method)]
        for rate in rates:
            run = (name, args.task, shots, method, rate, seed)
            if results.find(run, settings) or (method == "zero-shot" and not args.warm and seed != args.seeds[0]): continue
            if not left: return print(results.table())
            left -= 1
            began = cpu_seconds()
            dev, test = trained(args, run)
            results.add(run, settings, {"about": about, "dev": dev, "test": test})
            print(ROW.format(*run[1:], test, cpu_seconds() - began), flush=True)
    print(results.table())


if __name__ == "__main__":
    main()
