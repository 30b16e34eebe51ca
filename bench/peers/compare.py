"""Exact MEFT1 beside PyTorch on the same step: time, tokens a second and activation memory, and their ratios.

    python compare.py --meft families.jsonl --torch torch.jsonl

The first file is of bench/families or bench/step_time (--json), the second of torch_step.py. Rows meet where model, batch and
sequence length are the same; of several rows of one method the fastest counts.
"""
import argparse
import json
import pathlib


def rows(path):
    """(model, batch, seq) -> method -> row"""
    out = {}
    for line in pathlib.Path(path).read_text().splitlines():
        row = json.loads(line)
        methods = out.setdefault((row["model"], row["batch"], row["seq"]), {})
        if row["method"] not in methods or row["step_seconds"] < methods[row["method"]]["step_seconds"]:
            methods[row["method"]] = row
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meft", required=True, help="JSON lines")
    parser.add_argument("--torch", required=True, help="JSON lines")
    options = parser.parse_args()
    meft, torch = rows(options.meft), rows(options.torch)
    met = 0
    for size in meft:
        ours = meft[size].get("meft1")
        if ours is None or size not in torch:
            continue
        met += 1
        model, batch, seq = size
        print(f"{model}, {batch} x {seq} tokens: meft1 takes {ours['step_seconds']:.3f} s, "
              f"{batch * seq / ours['step_seconds']:.1f} tokens/s, and "
              f"{ours['activation_bytes'] / 2**20:.1f} MiB of activations, {ours['precision']}")
        print(f"{'PyTorch':<18} {'precision':>9} {'s/step':>9} {'meft1 /':>9} {'tokens/s':>9} {'meft1 /':>9} {'MiB':>10} "
              f"{'meft1 /':>9}")
        for method, row in torch[size].items():
            print(f"{method:<18} {row['precision']:>9} {row['step_seconds']:>9.3f} "
                  f"{ours['step_seconds'] / row['step_seconds']:>9.3f} {batch * seq / row['step_seconds']:>9.1f} "
                  f"{row['step_seconds'] / ours['step_seconds']:>9.3f} {row['activation_bytes'] / 2**20:>10.1f} "
                  f"{ours['activation_bytes'] / row['activation_bytes']:>9.4f}")
    if not met:
        parser.exit(1, f"compare.py: {options.meft} and {options.torch} have no size in common\n")


main()
