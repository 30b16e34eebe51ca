"""Scores of a checkpoint on GLUE tasks by method: three epochs, several seeds, the learning rate chosen on the first.

    python3 bench/scores.py --finetune build/release/examples/finetune --model DIR --data DIR --output DIR

`--data` holds a folder a task, as GLUE ships them. Finished runs in `--output` are kept, so that a stopped call goes on. Prints
a Markdown table (mean of the seeds, standard deviation) and writes it to OUTPUT/scores.md.
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path

METRIC = {"cola": "matthews", "sst2": "accuracy", "mrpc": "accuracy", "rte": "accuracy", "stsb": "pearson"}
METHOD = {
    "full": [],
    "lora": ["--lora-rank", "16", "--precision", "bf16"],
    "meft1": ["--readout", "plm", "--bottleneck", "64", "--precision", "bf16"],
    "meft3": ["--readout", "plm", "--bottleneck", "64", "--precision", "bf16"],
}
RATES = ["2e-4", "2e-3"]
SST2_ROWS = 8000


def shortened(folder, output):
    """A copy of the sst2 folder with its first rows alone."""
    output.mkdir(parents=True, exist_ok=True)
    lines = (folder / "train.tsv").read_text().splitlines(keepends=True)
    (output / "train.tsv").write_text("".join(lines[: SST2_ROWS + 1]))
    (output / "dev.tsv").write_text((folder / "dev.tsv").read_text())
    return output


def read(metrics):
    """What a finished run wrote; None of one that is still to be done: metrics.json is written after each epoch."""
    result = json.loads(metrics.read_text()) if metrics.exists() else {"finished": False}
    return result if result["finished"] else None


def score(task, method, rate, seed, data, args):
    """The dev metric of the best epoch; trains unless that was done, and goes on where a run was stopped."""
    output = args.output / f"{task}-{method}-{rate}-{seed}"
    metrics = output / "metrics.json"
    if not read(metrics):
        command = [args.finetune, "--model", args.model, "--task", task, "--data", data, "--method", method,
                   *METHOD[method], "--pooling", "mean", "--lr", rate, "--seed", seed, "--epochs", args.epochs,
                   "--threads", args.threads, "--output", output]
        if (output / "state.safetensors").exists():
            command.append("--resume")
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return read(metrics)["dev"][METRIC[task]]


def table(scores, args):
    """A row a method; scores[task, method] is a list over seeds."""
    lines = ["| method | " + " | ".join(f"{task} ({METRIC[task]})" for task in args.tasks) + " | average |",
             "| --- |" + " ---: |" * (len(args.tasks) + 1)]
    for method in args.methods:
        cells, means = [], []
        for task in args.tasks:
            values = scores.get((task, method), [])
            if values:
                means.append(statistics.mean(values))
                spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{100 * means[-1]:.1f}{spread}")
            else:
                cells.append("")
        average = f"{100 * statistics.mean(means):.2f}" if len(means) == len(args.tasks) else ""
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {average} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finetune", required=True, type=Path, help="the program")
    parser.add_argument("--model", required=True, type=Path, help="checkpoint")
    parser.add_argument("--data", required=True, type=Path, help="a folder a task")
    parser.add_argument("--output", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--tasks", nargs="+", default=list(METRIC), choices=METRIC)
    parser.add_argument("--methods", nargs="+", default=list(METHOD), choices=METHOD)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--threads", default="0")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data = {task: args.data / task for task in args.tasks}
    if "sst2" in data:
        data["sst2"] = shortened(data["sst2"], args.output / "sst2-data")

    scores, rates = {}, {}
    for seed in args.seeds:
        for task in args.tasks:
            for method in args.methods:
                if (task, method) not in rates:
                    tried = {rate: score(task, method, rate, seed, data[task], args) for rate in RATES}
                    rates[task, method] = max(tried, key=tried.get)
                    print(f"{task} {method}: learning rate {rates[task, method]} of", tried, flush=True)
                value = score(task, method, rates[task, method], seed, data[task], args)
                scores.setdefault((task, method), []).append(value)
                print(f"{task} {method} seed {seed}: {value:.4f}", flush=True)
        (args.output / "scores.md").write_text(table(scores, args) + "\n")
    print(table(scores, args))


if __name__ == "__main__":
    main()
