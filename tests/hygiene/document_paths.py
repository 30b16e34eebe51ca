"""Checks that each program build/PRESET/FOLDER/NAME that a document names is there after what the document says: it has a source, and
preset PRESET builds it unasked, or a `--preset PRESET --target` of the document asks for it.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "bench/README.md", "bench/peers/README.md")
PROGRAM = re.compile(r"build/(\w+)/(examples|bench|tests)/(\w+)\b(?![./])")
TARGETS = re.compile(r"--build --preset (\w+) --target((?: \w+)+)")


def settings(presets, name):
    """The cache variables of a configure preset; None where there is none of that name."""
    found = next((preset for preset in presets["configurePresets"] if preset["name"] == name), None)
    return found and {**(settings(presets, found["inherits"]) if "inherits" in found else {}), **found.get("cacheVariables", {})}


def unasked(variables, folder):
    """Whether `all` has the programs of the folder (examples/CMakeLists.txt, bench/CMakeLists.txt)."""
    tests = variables.get("MEFT_TESTS", True)
    return not tests or folder == "bench" and variables.get("MEFT_CUDA") == "nvcc"


def problems(name, text, presets, exists=lambda folder, program: any((ROOT / folder).rglob(f"{program}.cpp")) or (ROOT / folder / program).is_dir()):
    asked = {(preset, target) for preset, targets in TARGETS.findall(" ".join(text.split())) for target in targets.split()}
    for preset, folder, program in PROGRAM.findall(text):
        variables = settings(presets, preset)
        if variables is None:
            yield f"{name}: there is no preset {preset}"
        elif not exists(folder, program):
            yield f"{name}: {folder} has no program {program}"
        elif (preset, program) not in asked and not unasked(variables, folder):
            yield f"{name}: build/{preset}/{folder}/{program}: no --preset {preset} --target {program} beside it"


def self_test(presets):
    for text, expected in (("build/dev/examples/finetune", 1), ("cmake --build --preset dev --target all\nfinetune; build/dev/examples/finetune", 0),
                           ("cmake --build --preset cuda --target finetune; build/dev/examples/finetune", 1), ("build/cuda/bench/gemm", 0),
                           ("build/release/examples/finetune", 0), ("build/release/bench/none", 1), ("build/other/bench/gemm", 1)):
        if len(found := list(problems("a document", text, presets))) != expected:
            yield f"self-test: {text!r}: expected {expected} problems, found {found}"


if __name__ == "__main__":
    presets = json.loads((ROOT / "CMakePresets.json").read_text())
    found = [*self_test(presets), *(line for name in DOCUMENTS for line in problems(name, (ROOT / name).read_text(), presets))]
    named = sum(len(PROGRAM.findall((ROOT / name).read_text())) for name in DOCUMENTS)
    for line in found:
        print(line)
    print(f"{named} programs named, {len(found)} problems")
    sys.exit(bool(found) or not named)
