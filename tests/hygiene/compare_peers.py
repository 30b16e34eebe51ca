"""Runs bench/peers/compare.py on made-up rows: it sets beside each other what has the same size, task and device, a row for each method and
precision, the fastest of several, and fails where nothing meets.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

COMPARE = pathlib.Path(__file__).resolve().parents[2] / "bench" / "peers" / "compare.py"


def row(method, seconds, **other):
    return {"model": "a", "layers": 24, "batch": 2, "seq": 8, "device": "cpu", "precision": "bf16", "activation_bytes": 2**20, **other,
            "method": method, "step_seconds": seconds}


def compare(ours, theirs):
    """-> seconds of ours, and (method, precision, seconds) of each row beside it; None where the script fails."""
    with tempfile.TemporaryDirectory() as folder:
        names = [pathlib.Path(folder, name) for name in ("meft", "torch")]
        for path, rows in zip(names, (ours, theirs)):
            path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        done = subprocess.run([sys.executable, COMPARE, "--meft", names[0], "--torch", names[1]], capture_output=True, text=True)
    if done.returncode:
        return None
    blocks = re.split(r"^.*meft1 takes ", done.stdout, flags=re.M)[1:]
    return [(float(block.split()[0]), [(r[0], r[1], float(r[2])) for r in map(str.split, block.splitlines()[2:])]) for block in blocks]


if __name__ == "__main__":
    found = []
    for ours, theirs, expected in (
            ([row("meft1", 3), row("meft1", 2)], [row("full", 6), row("full", 5), row("full", 7, precision="f32"), row("lora", 4)],
             [(2, [("full", "bf16", 5), ("full", "f32", 7), ("lora", "bf16", 4)])]),
            ([row("meft1", 2), row("meft1", 1, stored_layers=9)], [row("full", 5)], [(2, [("full", "bf16", 5)]), (1, [("full", "bf16", 5)])]),
            ([row("meft1", 2), row("meft1", 4, precision="f32")], [row("full", 5)], [(2, [("full", "bf16", 5)]), (4, [("full", "bf16", 5)])]),
            ([row("meft1", 2, words=True)], [row("full", 5)], None), ([row("meft1", 2, words=True)], [row("full", 5, words=True)], [(2, [("full", "bf16", 5)])]),
            ([row("meft1", None), row("meft1", 3)], [row("full", 5)], [(3, [("full", "bf16", 5)])]),
            ([row("meft1", 2, layers=4)], [row("full", 5)], None), ([row("meft1", 2, device="cuda")], [row("full", 5)], None),
            ([row("lora", 2)], [row("full", 5)], None)):
        if (said := compare(ours, theirs)) != expected:
            found.append(f"{ours}\n{theirs}\nexpected {expected}\nfound {said}")
    print("\n".join([*found, f"{len(found)} problems"]))
    sys.exit(bool(found))
