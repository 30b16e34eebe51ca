"""Exact MEFT1 beside PyTorch on the same step: time, tokens a second and activation memory, and their ratios.

    python compare.py --meft families.jsonl --torch torch.jsonl

The first file is of bench/families or bench/step_time (--json), the second of torch_step.py. Rows meet where model, layers, batch,
sequence length, device and whether each next word is learned are the same; of several rows of one method and precision the fastest
counts. Rows of ragged steps, which do not compare in time, are passed over.
"""
import argparse
import json
import pathlib


def rows(path):
    """(model, layers, batch, seq, device, words) -> (method, precision, stored layers) -> row"""
    out = {}
    for line in pathlib.Path(path).read_text().splitlines():
        row = json.loads(line)
        if row["step_seconds"] is None:
            continue
        size = *(row[name] for name in ("model", "layers", "batch", "seq", "device")), row.get("words", False)
        methods = out.setdefault(size, {})
        way = row["method"], row["precision"], row.get("stored_layers", 0)
        if way not in methods or row["step_seconds"] < methods[way]["step_seconds"]:
            methods[way] = row
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meft", required=True, help="JSON lines")
    parser.add_argument("--torch", required=True, help="JSON lines")
    options = parser.parse_args()
    meft, torch = rows(options.meft), rows(options.torch)
    met = 0
    for size, (way, ours) in ((size, own) for size in meft if size in torch for own in meft[size].items()):
        method, precision, stored = way
        if method != "meft1":
            continue
        met += 1
        model, layers, batch, seq, device, _ = size
        print(f"{model}, {layers} layers{f', {stored} of them stored' * bool(stored)}, {batch} x {seq} tokens, {device}: meft1 takes "
              f"{ours['step_seconds']:.3f} s, {batch * seq / ours['step_seconds']:.1f} tokens/s, and "
              f"{ours['activation_bytes'] / 2**20:.1f} MiB of activations, {precision}")
        print(f"{'PyTorch':<18} {'precision':>9} {'s/step':>9} {'meft1 /':>9} {'tokens/s':>9} {'meft1 /':>9} {'MiB':>10} "
              f"{'meft1 /':>9}")
        for (name, precision, _), row in torch[size].items():
            print(f"{name:<18} {precision:>9} {row['step_seconds']:>9.3f} "
                  f"{ours['step_seconds'] / row['step_seconds']:>9.3f} {batch * seq / row['step_seconds']:>9.1f} "
                  f"{row['step_seconds'] / ours['step_seconds']:>9.3f} {row['activation_bytes'] / 2**20:>10.1f} "
                  f"{ours['activation_bytes'] / row['activation_bytes']:>9.4f}")
    if not met:
        parser.exit(1, f"compare.py: {options.meft} and {options.torch} have no meft1 row and a row of PyTorch's of one size, task and device\n")


main()
