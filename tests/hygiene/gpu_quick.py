"""Rehearses tests/gpu_quick.sh with programs that only say what they would: OUT gets few files, also when the run is ended, and
steps that fail are told. And each pattern of test cases in it names one that a device has.
"""
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = TESTS / "gpu_quick.sh"
MOST_LINES = 60
MOST_FILES = 8  # few: what brings results back may not take more
FAKES = {
    "bin/cuda_tests": 'echo "[doctest] test cases: ${CASES:-3} | ${CASES:-3} passed"',
    "bin/families": 'echo "bert-large 24 1 MiB"; while (($#)); do [[ $1 == --json ]] && echo "{}" >"$2"; shift; done; :',
    "bin/kernels": 'echo "copy 1"; [[ -z ${HANG:-} ]] || { echo $$ >"$HANG"; exec sleep 600; }',
    "bin/gemm": 'echo "bf16 1"',
    "path/nvidia-smi": 'echo "a device"',
    "path/compute-sanitizer": 'while [[ $1 != */bin/* ]]; do shift; done; exec "$@"',
    "path/ncu": "while (($#)); do [[ $1 == --log-file ]] && echo '\"Kernel Name\",\"Metric Unit\",\"Metric Value\"' >\"$2\"; shift; done; :",
}
PYTHON = {"torch_step.py": 'import sys\nprint(\'{"method": "\' + sys.argv[sys.argv.index("--methods") + 1] + \'"}\')\n', "compare.py": ""}


def cases_on_a_device(text):
    """The names of the test cases outside of MEFT_EMULATED."""
    shown, depth, kept = [], [], []
    for line in text.split("\n"):
        if line.startswith("#if"):
            depth.append(line == "#ifdef MEFT_EMULATED")
        elif line.startswith("#else") and depth:
            depth[-1] = not depth[-1]
        elif line.startswith("#endif"):
            depth.pop()
        elif not any(depth):
            kept.append(line)
    for case in re.findall(r"^TEST_CASE\(((?:\s*\"[^\"]*\")+)\)", "\n".join(kept), re.M):
        shown.append("".join(re.findall(r'"([^"]*)"', case)))
    return shown


def patterns_that_name_nothing(script, sources):
    """Of each --test-case=…: those that match no case of a file of `sources`, name -> text, that is named by --source-file=."""
    files = re.findall(r"--source-file=\*/(\w+\.cpp)", script)
    cases = [case for file in files for case in cases_on_a_device(sources[file])]
    found = [pattern for list_ in re.findall(r"--test-case=([^\"]*)\"", script) for pattern in list_.split(",")]
    for pattern in found:
        if not any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), case) for case in cases):
            yield f"gpu_quick.sh: {pattern!r} names no test case of {', '.join(files)} that a device has"
    if not found:
        yield "gpu_quick.sh: no --test-case="


def place(root):
    for name, text in FAKES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/usr/bin/env bash\n" + text + "\n")
        path.chmod(0o755)
    for name, text in PYTHON.items():
        (root / name).write_text(text)
    (root / "tests").mkdir()
    (root / "commit").write_text("abc\n")


def run(root, out, **more):
    environment = {"PATH": f"{root / 'path'}:/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(root), **more}
    return subprocess.Popen(["bash", str(SCRIPT), str(root), str(out)], env=environment, stdout=subprocess.PIPE, text=True)


def outcome(out):
    return {line.split()[0]: line.split(" s  ", 1)[-1] for line in (out / "steps.txt").read_text().splitlines()}


def problems():
    sources = {path.name: path.read_text() for path in (TESTS / "kernels").glob("cuda_*_test.cpp")}
    yield from patterns_that_name_nothing(SCRIPT.read_text(), sources)
    # The rule bites: a case that the emulator alone has, and none at all.
    made = {"a_test.cpp": 'TEST_CASE("one") {}\n#ifdef MEFT_EMULATED\nTEST_CASE("two") {}\n#endif\n'}
    if len(list(patterns_that_name_nothing('--source-file=*/a_test.cpp "--test-case=on*,two,three"', made))) != 2:
        yield "self-test: patterns"
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        place(root)
        leftovers = len(list(root.iterdir()))

        def check(out, what):
            files = sorted(path.name for path in out.iterdir())
            if len(files) > MOST_FILES or not {"summary.txt", "steps.txt", "logs.tar.gz"} <= set(files):
                yield f"{what}: OUT has {files}"
            lines = (out / "summary.txt").read_text().splitlines() if "summary.txt" in files else []
            if not 3 < len(lines) <= MOST_LINES:
                yield f"{what}: the summary has {len(lines)} lines"
            logs = subprocess.run(["tar", "-tzf", str(out / "logs.tar.gz")], capture_output=True, text=True).stdout
            if "logs/sanitizers.log" not in logs:
                yield f"{what}: logs.tar.gz has {logs!r}"
            if len(list(root.iterdir())) != leftovers + 1:
                yield f"{what}: something is left in TMPDIR: {sorted(path.name for path in root.iterdir())}"
            shutil.rmtree(out)

        process = run(root, root / "whole")
        said = process.communicate()[0]
        steps = outcome(root / "whole")
        failed = {name for name, how in steps.items() if how != "ok"} - {"versions"}  # there may be no torch
        if failed or len(steps) < 18 or "test cases: 3" not in said:
            yield f"a whole run: {failed} of {len(steps)} steps failed; it says {said!r}"
        order = list(steps)
        if "sanitizers" not in order[:order.index("meft-bert-large-1")]:
            yield f"what checks comes after what measures: {order}"
        yield from check(root / "whole", "a whole run")

        process = run(root, root / "none", CASES="0")
        process.communicate()
        steps = outcome(root / "none")
        for name in ("tests", "sanitizers", "memcheck-products"):
            if "no test case" not in steps[name]:
                yield f"{name} without a case: {steps[name]}"
        if process.returncode != 1:
            yield f"a run that failed ends with {process.returncode}"
        yield from check(root / "none", "a run without cases")

        hanging = root / "path" / "hanging"
        process = run(root, root / "ended", HANG=str(hanging))
        while not (hanging.exists() and hanging.read_text()):
            time.sleep(0.05)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        if process.returncode != 143 or time.monotonic() - begin > 60:
            yield f"an ended run: {process.returncode} after {time.monotonic() - begin:.1f} s"
        if "ended by a signal" not in (root / "ended" / "steps.txt").read_text():
            yield "an ended run does not say so"
        yield from check(root / "ended", "an ended run")
        time.sleep(1)
        status = pathlib.Path("/proc", hanging.read_text().strip(), "status")
        if status.exists() and "State:\tZ" not in status.read_text():
            yield "an ended run leaves its step running"


if __name__ == "__main__":
    found = list(problems())
    for line in found:
        print(line)
    print(f"{len(found)} problems")
    sys.exit(bool(found))
