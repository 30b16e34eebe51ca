"""Whether two builds of finetune give the same results: same_bits.py BEFORE AFTER [METHOD...]

Every method that both have on a small random model of every family, and some of its other tasks; compares each trained tensor's bytes,
the logged losses and gradient norms, and the scores. What both refuse is counted apart. Exit status 1 where any differs, where one
refuses what the other trains, or where nothing was compared. `git worktree add` makes a tree of another commit to build BEFORE in.
MEFT's coupling and its adapters' start are the paper's, and a head has no rate of its own, as once was so by default.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

AFTER = sys.argv.pop(2) if len(sys.argv) > 2 else sys.exit(__doc__)
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests" / "finetune"))
import families_finetune_test as program  # reads sys.argv[1]
from place import make_model, read_safetensors
from finetune_methods import methods_of

TASKS = [(model, "sst2") for model in ("bert", "roberta", "mpnet", "modernbert", "opt", "llama.gguf", "gemma3", "bart", "t5")] + [
    ("vit", "images"), ("dinov2", "images"), ("roberta", "arc_easy"), ("opt", "arc_easy"), ("roberta", "lm"), ("opt", "lm"),
    ("llama.gguf", "lm"), ("gemma3", "lm"), ("t5", "text2text", "--text", "source", "--label", "target")]


def stated(build, method):
    """What both builds are to be told where a default of one is another's."""
    said = " ".join(subprocess.run([build, "--help"], capture_output=True, text=True).stdout.split())
    own = re.search(r"--head-lr X [^[]*\[([^]]*)\]", said)
    return [word for flag in ("--coupling", "--adapter-start") if method.startswith("meft") and flag in said
            and not (flag == "--adapter-start" and "+" in method) for word in (flag, "paper")] + (
                ["--head-lr", "0"] if own and f"; {method}: " in own[1] else [])


def outcome(build, place, method, model, task, *flags):
    """What the run is held by, by name; None where the build refuses it."""
    program.FINETUNE, folder = build, place.folder()
    for batches in (2, 1):  # a step; there are methods whose steps take one
        command = place.command(model, task, method, folder, *flags, "--log-every", 1, "--accumulate", batches, *program.narrow(method),
                                *stated(build, method))
        done = subprocess.run(command, capture_output=True, text=True)
        if "expected accumulate 1, found" not in done.stderr: break
    if done.returncode == 2 or re.search(rf"^finetune: {re.escape(method)}: expected a model ", done.stderr, re.M): return None
    if done.returncode: sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr}")
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["memory"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [{key: line[key] for key in ("step", "loss", "gradient_norm", "rate")} for line in lines if "loss" in line]
    return {"metrics": metrics, "log": steps} | read_safetensors(folder / "adapter.safetensors")[0]


def main():
    before = sys.argv[1]
    methods = sys.argv[2:] or [name for name in methods_of(before) if name in methods_of(AFTER)]
    same = different = refused = 0
    with tempfile.TemporaryDirectory() as root:
        place = program.Place(root)
        program.PLACES = 40  # as many as bert has
        make_model(place.root / "bert")
        for model, task, *flags in TASKS:
            for method in methods:
                found = [outcome(build, place, method, model, task, *flags) for build in (before, AFTER)]
                if found == [None, None]:
                    refused += 1
                    continue
                trained = [each or {} for each in found]
                names = trained[0].keys() | trained[1].keys()
                wrong = sorted(name for name in names if trained[0].get(name) != trained[1].get(name))
                same += not wrong
                different += bool(wrong)
                if None in found: print(f"{model} {task} {method}: {(before, AFTER)[found.index(None)]} refuses it", flush=True)
                elif wrong: print(f"{model} {task} {method}: {len(wrong)} of {len(names)} differ: {', '.join(wrong[:3])}", flush=True)
    print(f"{same} of {same + different} runs have the same bits, {refused} refused by both")
    return int(different > 0 or same == 0)


if __name__ == "__main__":
    sys.exit(main())
