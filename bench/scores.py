"""Scores of a checkpoint on GLUE tasks, or of one that reads images on CIFAR-10, by method: three epochs, or `--steps`, several
seeds, the learning rate chosen on the first of two: 0.4 and 2 times the program's default for the method.

    python3 bench/scores.py --finetune build/release/examples/finetune --model DIR --data DIR --output DIR

Methods that the program refuses for the checkpoint, as one that reads images alone, are left out. `--data` holds a folder a task,
as GLUE ships them; the images of `--tasks cifar10` are in one too. Scores of finished runs are kept in `--results` (bench/scores.json), and a run
that was stopped goes on from its folder in `--output`, so that a call does what is still to be done, on any machine. A task's
rows are of one model, by its folder's name, and of as many `--epochs`: others belong in another file. Prints a
Markdown table of what is there: mean of the seeds, standard deviation. `--table` prints it and runs nothing. `--means FILE` writes
the mean over the tasks of each method that has them all, and what it is of, for the bench `methods`. Runs of so many `--steps` have rows, and a
table, of their own.
"""

import argparse
import json
import statistics
from pathlib import Path

from finetune_methods import Refused, methods_of, rates_of, train

TEXTS = {"cola": "matthews", "sst2": "accuracy", "mrpc": "accuracy", "rte": "accuracy", "stsb": "pearson"}
IMAGES = {"cifar10": "accuracy"}
METRIC = {**TEXTS, **IMAGES}
STREAMS = ["--streams", "stored"]  # exact's bits (tests/reversible), in three quarters of the time
MEFT = ["--bottleneck", "64", "--weights", "bf16", *STREAMS]
MEFT_TEXTS = ["--coupling", "paper", "--readout", "plm", "--adapter-start", "paper", *MEFT]
FLAGS = {  # of the methods that are not taken as they are
    "lora": ["--lora-rank", "16", "--precision", "bf16"],
    **dict.fromkeys(("meft1", "meft2", "meft3"), MEFT_TEXTS),
    **dict.fromkeys(("head", "losa", "lst", "qst", "sherl", "unipt"), ["--feature-cache", "8192"]),  # the same bits, sooner
}
FLAGS_OF_IMAGES = {**FLAGS, **dict.fromkeys(("meft1", "meft2", "meft3"), MEFT)}
TIMES = [0.4, 2]
SST2_ROWS = 8000


def shortened(folder, output):
    """A copy of the sst2 folder with its first rows alone."""
    output.mkdir(parents=True, exist_ok=True)
    lines = (folder / "train.tsv").read_text().splitlines(keepends=True)
    (output / "train.tsv").write_text("".join(lines[: SST2_ROWS + 1]))
    (output / "dev.tsv").write_text((folder / "dev.tsv").read_text())
    return output


def written(rate):
    """2e-4 in place of 0.0002."""
    digits, exponent = f"{rate:.3e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


KEYS = ("task", "method", "rate", "seed")


class Scores:
    """Dev metrics by task, method, rate and seed of runs of so many steps (0: all of their epochs), in a JSON file with a line a run."""

    def __init__(self, path, steps):
        self.path, self.steps = path, steps
        self.rows = json.loads(path.read_text()) if path.exists() else []
        self.known = {tuple(row[key] for key in KEYS): row["score"] for row in self.mine()}
        self.tried = {}  # a method's rates; of others, all that there are rows of

    def mine(self):
        return [row for row in self.rows if row["steps"] == self.steps]

    def add(self, run, value, **setting):
        self.known[run] = value
        self.rows.append(dict(zip(KEYS, run), **setting, steps=self.steps, score=value))
        self.rows.sort(key=lambda row: (row["steps"], *(row[key] for key in KEYS)))
        partial = self.path.with_suffix(".partial")
        partial.write_text("[\n" + ",\n".join(map(json.dumps, self.rows)) + "\n]\n")
        partial.replace(self.path)

    def refuse_others(self, tasks, **setting):
        for row in self.mine():
            for key, value in setting.items():
                if row["task"] in tasks and row[key] != value:
                    raise SystemExit(f"{self.path}: the rows of {row['task']} are of --{key} {row[key]}, found {value}: choose other --results")

    def best_rate(self, task, method, seed):
        """The rate with the best score on a seed, the lower of equals; None until as many rates were tried as there are."""
        found = {rate: value for (*of, rate, on), value in self.known.items() if (*of, on) == (task, method, seed)}
        found = {rate: found[rate] for rate in self.tried.get(method, found) if rate in found}
        return max(found, key=lambda rate: (found[rate], -float(rate))) if len(found) >= len(TIMES) else None


def score(run, data, args):
    """The dev metric of the best epoch."""
    task, method, rate, seed = run
    output = args.output / "-".join([task, method, rate, seed] + [str(args.steps)] * (args.steps > 0))
    if task in IMAGES: own = ["--task", "images", *FLAGS_OF_IMAGES.get(method, [])]
    else: own = ["--task", task, "--pooling", "mean", *FLAGS.get(method, [])]
    train(args.finetune, ["--model", args.model, "--data", data, "--method", method, *own, "--lr", rate, "--seed", seed,
                          "--epochs", args.epochs, "--max-steps", args.steps, "--threads", args.threads, "--output", output])
    return json.loads((output / "metrics.json").read_text())["dev"][METRIC[task]]


def values_of(scores, task, method, args):
    """The rate chosen on the first seed, and the scores of all seeds with it."""
    rate = scores.best_rate(task, method, args.seeds[0])
    values = [scores.known.get((task, method, rate, seed)) for seed in args.seeds]
    return rate, [value for value in values if value is not None]


def means(scores, args):
    """Method -> mean over the tasks, where a method has them all."""
    found = {method: [values_of(scores, task, method, args)[1] for task in args.tasks] for method in args.methods}
    return {method: statistics.mean(map(statistics.mean, tasks)) for method, tasks in found.items() if all(tasks)}


def table(scores, args):
    """A row a method; the rate of a task's cell is the one chosen on the first seed. Last, points above full fine-tuning's average."""
    lines = ["| method | " + " | ".join(f"{task} ({METRIC[task]})" for task in args.tasks) + " | average | - full |",
             "| --- |" + " ---: |" * (len(args.tasks) + 2)]
    averages = means(scores, args)
    for method in args.methods:
        cells = []
        for task in args.tasks:
            rate, values = values_of(scores, task, method, args)
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.mean(values):.1f}{spread} ({rate}, {len(values)})" if values else "")
        average = f"{100 * averages[method]:.1f}" if method in averages else ""
        above = f"{100 * (averages[method] - averages['full']):+.1f}" if average and method != "full" and "full" in averages else ""
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {average} | {above} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetune", type=Path, help="the program")
    parser.add_argument("--model", type=Path, help="checkpoint")
    parser.add_argument("--data", type=Path, help="a folder a task")
    parser.add_argument("--output", type=Path, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("scores.json"), help="JSON, a row a run")
    parser.add_argument("--table", action="store_true", help="print what --results holds")
    parser.add_argument("--means", type=Path, metavar="FILE", help="writes JSON, a mean a method, and runs nothing")
    parser.add_argument("--tasks", nargs="+", default=list(TEXTS), choices=METRIC)
    parser.add_argument("--methods", nargs="+", help="those of the program or, where none is run, those with scores")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="a run's; 0: --epochs")
    parser.add_argument("--threads", default="0")
    args = parser.parse_args()
    scores = Scores(args.results, args.steps)
    if (args.table or args.means) and not args.methods:
        args.methods = sorted({method for _, method, _, _ in scores.known})
    if args.means:
        of = ", ".join(f"{task} {METRIC[task]}" for task in args.tasks) + f", {args.steps} steps" * (args.steps > 0)
        args.means.write_text(json.dumps({"of": of, "scores": means(scores, args)}, indent=0) + "\n")
    if args.table:
        print(table(scores, args))
    if args.table or args.means:
        return
    for flag in ("finetune", "model", "data", "output"):
        if getattr(args, flag) is None:
            parser.error(f"--{flag} is missing")
    known = methods_of(args.finetune)
    args.methods = args.methods or known
    if unknown := set(args.methods) - set(known):
        parser.error(f"--methods: {args.finetune} has no {', '.join(sorted(unknown))}")
    args.output.mkdir(parents=True, exist_ok=True)
    data = {task: args.data / task for task in args.tasks}
    if "sst2" in data:
        data["sst2"] = shortened(data["sst2"], args.output / "sst2-data")

    setting = {"model": args.model.resolve().name, "epochs": int(args.epochs)}
    scores.refuse_others(args.tasks, **setting)
    scores.tried = {method: [written(rate * times) for times in TIMES] for method, rate in rates_of(args.finetune).items()}
    refused = set()
    for seed in args.seeds:
        for task in args.tasks:
            for method in args.methods:
                for rate in scores.tried[method] if seed == args.seeds[0] else [scores.best_rate(task, method, args.seeds[0])]:
                    run = (task, method, rate, seed)
                    if run in scores.known or method in refused:
                        continue
                    try:
                        scores.add(run, score(run, data[task], args), **setting)
                        print(*run, f"{scores.known[run]:.4f}", flush=True)
                    except Refused as why:
                        refused.add(method)
                        print(f"without {method}: {why}", flush=True)
    args.methods = [method for method in args.methods if method not in refused]
    print(table(scores, args))


if __name__ == "__main__":
    main()
