"""meft and PyTorch on the same training step, one after the other on this machine: a table with both and their ratio.

    MEFTS=mefts python side_by_side.py --step-time STEP_TIME --heapmeter heapmeter.so --methods full,lora,meft1

For each method `step_time` runs, then torch_step.py with the heap meter preloaded. Seconds are those of the fastest
step, with the median in brackets. meft/PyTorch below 1: meft is faster. torch_step.py says which methods it has.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-time", default="build/release/bench/step_time", help="meft's bench")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch and transformers")
    parser.add_argument("--heapmeter", required=True, help="heapmeter.so, preloaded into torch_step.py")
    parser.add_argument("--methods", default="full,recompute,lora,lora+recompute,meft1,meft2,meft3")
    parser.add_argument("--model", default="bert-base")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="f32")
    options = parser.parse_args()
    for path in (options.step_time, options.heapmeter):
        if not os.path.isfile(path):
            parser.error(f"no file {path}")
    return options


def run(command, **environment):
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"side_by_side.py: failed: {' '.join(command)}")
    return done.stdout


def meft(options, flags):
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder, "rows.jsonl")
        run([os.path.abspath(options.step_time), "--json", str(rows), *flags])
        return json.loads(rows.read_text())


def torch(options, flags):
    return json.loads(run([options.python, str(HERE / "torch_step.py"), *flags],
                          LD_PRELOAD=os.path.abspath(options.heapmeter)))


def main():
    options = arguments()
    same = [f"--{name}={getattr(options, name)}"
            for name in ("model", "batch", "seq", "steps", "threads", "precision")]
    print(f"{options.model}, batch {options.batch} x {options.seq} tokens, {options.precision}, "
          f"{options.threads} threads: seconds a step, least (median)\n")
    print(f"{'method':<16} {'meft':>18} {'PyTorch':>18} {'meft/PyTorch':>13}", flush=True)
    for method in options.methods.split(","):
        pair = [peer(options, [*same, f"--methods={method}"]) for peer in (meft, torch)]
        times = [f"{row['step_seconds']:.3f} ({row['step_seconds_median']:.3f})" for row in pair]
        ratio = pair[0]["step_seconds"] / pair[1]["step_seconds"]
        print(f"{method:<16} {times[0]:>18} {times[1]:>18} {ratio:>13.2f}", flush=True)
    print(f"\nPyTorch: {pair[1]['peer']}; {pair[0]['processor']}")


main()
