"""The memory of a run of finetune as the system counts it, beside what the run reports: resident.py FINETUNE FLAG...

The flags are finetune's without --output; --log-every is 1 unless given. RssAnon of /proc is read every 10 ms. Prints, in MiB: the process's own pages
at their most, weights, gradients and moments as the run reports them, the rest, the activation memory that it reports,
1.2 x that + 24, the limit of the rest, and what was added after the first tenth of the steps. Exit status 1 above the limit.
Linux only.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def own(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) * 1024 if found else 0


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "run"
        with open(pathlib.Path(folder) / "printed", "w+") as printed:
            every = [] if any(word.split("=")[0] == "--log-every" for word in sys.argv) else ["--log-every", "1"]
            run = subprocess.Popen([*sys.argv[1:], *every, "--output", str(output)], stdout=printed, stderr=subprocess.STDOUT)
            most = 0
            while run.poll() is None:
                most = max(most, own(run.pid))
                time.sleep(0.01)
            if run.returncode:
                printed.seek(0)
                sys.exit(printed.read())
        memory = json.loads((output / "metrics.json").read_text())["memory"]
        steps = [line for line in map(json.loads, (output / "log.jsonl").read_text().splitlines()) if "loss" in line]
    if not steps:
        sys.exit("resident.py: the run logged no step: give fewer --log-every or more --max-steps")
    lasting = memory["weight_bytes"] + memory["gradient_bytes"] + memory["optimizer_bytes"]
    rest, activation = most - lasting, memory["activation_bytes"]
    limit = 1.2 * activation + 24 * MIB
    early = steps[len(steps) // 10]
    print(f"steps {steps[-1]['step']}: own {most / MIB:.1f}, weights, gradients and moments {lasting / MIB:.1f}, "
          f"rest {rest / MIB:.1f}; activation {activation / MIB:.1f}, limit {limit / MIB:.1f}; pool held "
          f"{memory['reserved_bytes'] / MIB:.1f}; after step {early['step']}: own "
          f"{(steps[-1]['resident_own_bytes'] - early['resident_own_bytes']) / MIB:+.1f}, held "
          f"{(steps[-1]['reserved_bytes'] - early['reserved_bytes']) / MIB:+.1f}")
    return int(rest > limit)


if __name__ == "__main__":
    sys.exit(main())
