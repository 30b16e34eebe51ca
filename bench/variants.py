"""What stands behind a choice: scores of the variants of a method over seeds, and how far each starts from the plain model.

    python3 bench/variants.py couplings --finetune PROGRAM --model MINILM --data GLUE --output DIR
    python3 bench/variants.py decoder --finetune PROGRAM --model smollm2.gguf --data LINES --output DIR
    python3 bench/variants.py images --finetune PROGRAM --model DINOV2 --data CIFAR10 --output DIR
    python3 bench/variants.py reversal --finetune PROGRAM --model MPNET --data GLUE --output DIR
    python3 bench/variants.py weights --finetune PROGRAM --model MINILM --data GLUE --output DIR
    python3 bench/variants.py decoder-weights --finetune PROGRAM --model smollm2.gguf --data LINES --output DIR
    python3 bench/variants.py --table

GLUE holds a folder a task; LINES is a text a line; CIFAR10 the binary files. Exact reversal runs with its streams stored, which
has the same bits (tests/reversible) and takes three quarters of the time. Runs go seed by seed. Those that are finished are
kept in `--results` (bench/variants.json), and one that was stopped goes on from its folder in `--output`: a call does what is
still to be done, or the first `--runs` of it, so that a few sittings on any machine make a table. The rows of a setup are of one
model, by its name: those of another belong in another file.
"""

import argparse
import json
import re
import statistics
import subprocess
from pathlib import Path

STREAMS = {"exact": ["--streams", "stored"], "rounded": ["--streams", "rounded"]}
SIZES = ["--bottleneck", "64", "--precision", "bf16", "--lr", "1e-3"]
PLM = ["--readout", "plm", *SIZES]
STARTS = {f"{coupling}, {start}": ["--method", "meft1", "--coupling", coupling, "--adapter-start", start, *STREAMS["exact"], *PLM]
          for coupling in ("paper", "balanced") for start in ("zero", "paper")}
AVERAGED = {f"{coupling}, zero, average": ["--method", "meft1", "--coupling", coupling, *STREAMS["exact"], "--readout", "average", *SIZES]
            for coupling in ("paper", "balanced")}
REVERSALS = {f"{method}, {streams}": ["--method", method, "--coupling", "paper", *flags, *PLM]
             for method in ("meft1", "meft3") for streams, flags in STREAMS.items()}


def on_weights(*formats):
    """Variants of methods on frozen weights of each format; MEFT1 from adapters that add nothing at first, and from the authors'."""
    meft1 = ["--method", "meft1", "--coupling", "paper", *STREAMS["exact"], "--readout", "plm", "--bottleneck", "64"]
    methods = {"meft1": meft1, "meft1, paper": [*meft1, "--adapter-start", "paper"], "lora": ["--method", "lora", "--lora-rank", "16"]}
    return {f"{method}, {weights}": [*flags, "--lr", "1e-3", "--weights", weights]
            for method, flags in methods.items() for weights in formats}


GLUE = {"mrpc": "accuracy", "cola": "matthews"}
DECODER = ["--batch", "2", "--max-length", "64", "--max-steps", "200", "--epochs", "1"]
SETUPS = {  # task -> dev metric; flags of all runs; variants
    "couplings": (GLUE, ["--pooling", "mean", "--epochs", "2"], STARTS | AVERAGED),
    "decoder": ({"lm": "log_likelihood"}, DECODER, STARTS),
    "decoder-weights": ({"lm": "log_likelihood"}, DECODER, on_weights("bf16", "as-stored")),
    "images": ({"images": "accuracy"}, ["--batch", "16", "--epochs", "1"],
               STARTS | {"paper, zero, average": AVERAGED["paper, zero, average"]}),
    "reversal": (GLUE, ["--pooling", "mean", "--epochs", "2"], REVERSALS),
    "weights": (GLUE, ["--pooling", "mean", "--epochs", "3"], on_weights("bf16", "q8", "q4", "nf4")),
}
KEYS = ("setup", "task", "variant", "seed")


class Results:
    """Rows by setup, task, variant and seed, a line each."""

    def __init__(self, path):
        self.path = path
        self.known = {tuple(row[key] for key in KEYS): row for row in (json.loads(path.read_text()) if path.exists() else [])}

    def refuse_others(self, setup, model):
        for run, row in self.known.items():
            if run[0] == setup and row["model"] != model:
                raise SystemExit(f"{self.path}: the rows of {setup} are of --model {row['model']}, found {model}: choose other --results")

    def add(self, run, row):
        self.known[run] = dict(zip(KEYS, run), **row)
        partial = self.path.with_suffix(".partial")
        partial.write_text("[\n" + ",\n".join(json.dumps(row) for _, row in sorted(self.known.items())) + "\n]\n")
        partial.replace(self.path)

    def table(self):
        lines = ["| setup | task | variant | start | score | seeds |", "| --- | --- | --- | ---: | ---: | ---: |"]
        for *of, _ in sorted({run[:3] + (0,) for run in self.known}):
            rows = [row for run, row in sorted(self.known.items()) if list(run[:3]) == of]
            scores = [row["score"] for row in rows]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            cells = [*of, str(rows[0].get("start", "")), f"{statistics.mean(scores):.4f}{spread}", str(len(rows))]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def model_of(args):
    return args.model.resolve().name


def score(run, args):
    """The dev metric of the best epoch, and what the program says of the start."""
    setup, task, variant, seed = run
    metrics, flags, variants = SETUPS[setup]
    output = args.output / re.sub("[^a-z0-9]+", "-", "-".join(run))
    command = [args.finetune, "--model", args.model, "--task", task, "--data", args.data / task if metrics is GLUE else args.data,
               *flags, *variants[variant], "--seed", seed, "--threads", args.threads, "--output", output]
    if (output / "state.safetensors").exists():
        command.append("--resume")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    row = {"model": model_of(args), "score": json.loads((output / "metrics.json").read_text())["dev"][metrics[task]]}
    if found := re.search(r"(?:cosine of|predictions are) (-?[0-9.]+)", done.stdout + done.stderr):
        row["start"] = float(found[1])
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setup", nargs="?", choices=SETUPS)
    parser.add_argument("--finetune", type=Path, help="the program")
    parser.add_argument("--model", type=Path, help="checkpoint")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("variants.json"), help="JSON, a row a run")
    parser.add_argument("--seeds", nargs="+", default=["0", "1"])
    parser.add_argument("--runs", type=int, help="at most so many")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--table", action="store_true", help="print what --results holds")
    args = parser.parse_args()
    results = Results(args.results)
    if args.table:
        return print(results.table())
    for flag in ("setup", "finetune", "model", "data", "output"):
        if getattr(args, flag) is None:
            parser.error(f"--{flag} is missing" if flag != "setup" else "which setup?")
    results.refuse_others(args.setup, model_of(args))
    args.output.mkdir(parents=True, exist_ok=True)
    metrics, _, variants = SETUPS[args.setup]
    runs = [(args.setup, task, variant, seed) for seed in args.seeds for task in metrics for variant in variants]
    for run in [run for run in runs if run not in results.known][: args.runs]:
        results.add(run, score(run, args))
        print(*run, json.dumps(results.known[run]), flush=True)
    print(results.table())


if __name__ == "__main__":
    main()
