"""Whether two builds of finetune give the same results: same_bits.py BEFORE AFTER [METHOD...]

Every method that both have on a small random model of every family, and its other tasks; compares each trained tensor's bytes, the logged
losses and gradient norms, and the scores. Exit status 1 where any differs. `git worktree add` makes a tree of another commit
to build BEFORE in. MEFT's coupling and its adapters' start are the paper's, and a head has no rate of its own, as once was so by default.
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

TASKS = [(model, "sst2") for model in ("bert", "roberta", "opt", "bart")] + [
    ("vit", "images"), ("dinov2", "images"), ("roberta", "arc_easy"), ("opt", "arc_easy"), ("roberta", "lm"), ("opt", "lm")]


def stated(build, method):
    """What both builds are to be told where a default of one is another's."""
    said = " ".join(subprocess.run([build, "--help"], capture_output=True, text=True).stdout.split())
    own = re.search(r"--head-lr X [^[]*\[([^]]*)\]", said)
    return [word for flag in ("--coupling", "--adapter-start") if method.startswith("meft") and flag in said
            and not (flag == "--adapter-start" and "+" in method) for word in (flag, "paper")] + (
                ["--head-lr", "0"] if own and f"; {method}: " in own[1] else [])


def outcome(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["memory"]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [{key: line[key] for key in ("step", "loss", "gradient_norm", "rate")} for line in lines if "loss" in line]
    return {"metrics": metrics, "log": steps} | read_safetensors(folder / "adapter.safetensors")[0]


def main():
    before = sys.argv[1]
    methods = sys.argv[2:] or [name for name in methods_of(before) if name in methods_of(AFTER)]
    different = runs = 0
    with tempfile.TemporaryDirectory() as root:
        place = program.Place(root)
        program.PLACES = 40  # as many as bert has
        make_model(place.root / "bert")
        for model, task in TASKS:
            for method in methods:
                if method == "head" and (task == "lm" or (model, task) == ("opt", "arc_easy")): continue  # a tied head: nothing trains
                found = []
                for build in (before, AFTER):
                    program.FINETUNE = build
                    folder = place.folder()
                    try:
                        place.run(model, task, method, folder, "--log-every", 1, "--accumulate", 2, *stated(build, method))
                        found.append(outcome(folder))
                    except AssertionError as refused:  # a head that nothing of trains
                        found.append({"refused": str(refused).strip().splitlines()[-1]})
                names = found[0].keys() | found[1].keys()
                wrong = sorted(name for name in names if found[0].get(name) != found[1].get(name))
                runs += 1
                different += bool(wrong)
                if wrong: print(f"{model} {task} {method}: {len(wrong)} of {len(names)} differ: {', '.join(wrong[:3])}", flush=True)
    print(f"{runs - different} of {runs} runs have the same bits")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
