"""Tests what becomes of a run of examples/finetune that ends early or goes on: finetune_resume_test.py FINETUNE [NAME...]

Kills, interrupts, full disks, damaged files, other options. NAMEs pick tests.
"""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

from place import LIMIT, check, check_log, execute, killed, lines_of, main, make_model, read_safetensors, results, run


def kill_and_resume(place, rng, method, *more, wanted=4):
    """Runs that are killed at random instants and resumed until they finish, until so many kills struck a run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = run(place, *more, method=method)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(getattr(after, x) - getattr(before, x) for x in ("ru_utime", "ru_stime"))
    kills = 0

    def killed_after(share):
        """The kernel ends the process after this much of the whole run's processor time, however busy the machine is."""
        return lambda: signal.setitimer(signal.ITIMER_PROF, max(share * seconds, 0.001))

    for _ in range(20):
        folder, status, limit = place.folder(), None, 12
        while status != 0:
            save, threads = rng.choice([1, 2, 5]), rng.choice([1, 2])
            command = place.command(folder, *more, "--resume", "--save-every", save, "--threads", threads, method=method)
            limit -= 1
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LIMIT,
                                  preexec_fn=killed_after(rng.uniform(0, 0.5)) if limit > 0 else None)
            error, status = done.stderr.decode(), done.returncode
            check(status in (0, -signal.SIGPROF), f"status {status}: {error}")
            kills += status != 0
        check(results(folder) == results(whole), f"{method}: kills changed the bits")
        check([x["step"] for x in check_log(folder)] == [x["step"] for x in check_log(whole)], "the log differs")
        if kills >= wanted:
            return
    check(False, f"only {kills} kills")


def test_killed(place):
    seed = int(os.environ.get("MEFT_TEST_SEED", "1"))
    rng = random.Random(seed)
    kill_and_resume(place, rng, "meft1", "--log-every", 3, "--epochs", 12)
    kill_and_resume(place, rng, "full", "--accumulate", 4, "--batch", 2, "--epochs", 4, "--recompute", "--precision", "bf16")
    kill_and_resume(place, rng, "lora", "--precision", "bf16", "--epochs", 9)
    kill_and_resume(place, rng, "unipt", "--projection", 8, "--accumulate", 2, "--batch", 32, "--epochs", 9)  # in parts
    kill_and_resume(place, rng, "speft", "--density", 0.1, "--score-examples", 40, "--mask-steps", 25, "--value-decay", "yes", "--epochs", 9)
    kill_and_resume(place, rng, "mezo", "--accumulate", 2, "--batch", 4, "--epochs", 6, "--lr", 1e-4, "--forward-samples", 2, "--mezo-state", "log")
    kill_and_resume(place, rng, "mezo-prefix", "--epochs", 9, "--mezo-state", "log")
    kill_and_resume(place, rng, "zofo-prefix", "--zofo-inner", 3, "--epochs", 9, "--lr", 1e-4)
    wide = place.root / "wide"
    make_model(wide, width=32, inner=64)  # rows of whole blocks
    kept = ("--model", wide, "--pooling", "mean", "--epochs")
    kill_and_resume(place, rng, "meft3", "--inside", "lora", "--readout", "learned", *kept, 3, "--weights", "q4")
    for weights in ("q8", "nf4", "as-stored"): kill_and_resume(place, rng, "lora", *kept, 1, "--weights", weights, wanted=2)


def test_pruned(place):
    """Words that are drawn for prefixes are rows of the table behind those of the data, here and where a run is read."""
    more = ("--prune-embeddings", "--virtual-tokens", 30, "--lr", 1e-4)
    whole, folder = run(place, *more, method="zofo-prefix"), place.folder()
    killed(place.command(folder, *more, "--save-every", 2, method="zofo-prefix"), folder)
    execute(place.command(folder, *more, "--resume", method="zofo-prefix"))
    check(results(folder) == results(whole), "a kill changed the bits")
    scored = execute(place.command(folder, "--eval-only", "--data", place.data, task=False)).stdout
    accuracy = results(whole)["metrics"]["value"]
    check(f"accuracy {accuracy:.4f}" in scored, f"{accuracy}: {scored}")


def interrupt(place, folder, lines, number, *more):
    """Goes on with a run and sends it a signal when its log has so many lines; returns the status and what it said.
    Where the run was done before it looked, as on a busy machine, that run is done again."""
    kept = place.folder()
    if folder.exists():
        shutil.copytree(folder, kept)
    for _ in range(50):
        process = subprocess.Popen(place.command(folder, *more, "--resume"), stdout=subprocess.PIPE, text=True)
        while process.poll() is None and (not (folder / "log.jsonl").exists() or len(lines_of(folder)) < lines):
            time.sleep(0.001)
        process.send_signal(number)
        out = process.communicate(timeout=LIMIT)[0]
        if process.returncode != 0:
            return process.returncode, out
        shutil.rmtree(folder)
        if kept.exists():
            shutil.copytree(kept, folder)
    check(False, "the run was done before each interrupt")


def test_interrupted(place):
    more = ("--accumulate", 2, "--epochs", 30, "--log-every", 2)
    whole, folder = run(place, *more), place.folder()
    lines = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        status, out = interrupt(place, folder, lines + 3, number, *more)
        check(status == 128 + number and "--resume" in out, f"status {status}: {out}")
        lines = len(lines_of(folder))
    execute(place.command(folder, *more, "--resume"))
    check(results(folder) == results(whole), "an interrupt changed the bits")
    check_log(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    execute(place.command(folder, *more, "--resume"))
    check(before == {path.name: path.read_bytes() for path in folder.iterdir()}, "resuming a finished run changed its files")


def test_other_run(place):
    folder = run(place, "--max-steps", 4)
    for more, words in (([], ["--output", "--resume"]),
                        (["--resume"], ["--max-steps", "has 4", "found 0"]),
                        (["--resume", "--max-steps", 4, "--accumulate", 2], ["--accumulate", "has 1", "found 2"]),
                        (["--resume", "--max-steps", 4, "--bottleneck", 4], ["--bottleneck", "has 8", "found 4"]),
                        (["--resume", "--max-steps", 4, "--warmup", 0.5], ["--warmup", "has 0.06", "found 0.5"]),
                        (["--resume", "--max-steps", 4, "--seed", 1], ["--seed", "has 0", "found 1"])):
        error = execute(place.command(folder, *more), 2).stderr
        for word in words:
            check(word in error, f"{more}: no `{word}` in {error}")
    for text in (place.data / "train.tsv", place.data / "dev.tsv"):
        before = text.read_text()
        text.write_text(before.replace("film", "plot", 1))
        error = execute(place.command(folder, "--resume", "--max-steps", 4), 2).stderr
        check("--data" in error and "240+40 examples" in error, error)
        text.write_text(before)
    pairs = place.root / "pairs.tsv"
    pairs.write_text("one\tother\tlabel\n" + "a film\ta plot\tyes\na cast\ta film\tno\n" * 10)
    columns = ("--task", "tsv", "--text", "one", "--text-pair", "other", "--label", "label", "--data", pairs, "--max-steps", 4)
    paired = run(place, *columns)
    pairs.write_text(pairs.read_text().replace("a plot", "a cast", 1))
    check("--data is not the run's" in execute(place.command(paired, *columns, "--resume"), 2).stderr, "another second text")
    state = folder / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[:-10])
    check("state.safetensors" in execute(place.command(folder, "--resume", "--max-steps", 4), 1).stderr, "a broken state is not named")
    check(state.read_bytes() == whole[:-10], "the state was overwritten")


def test_two_at_once(place):
    """A folder that a run writes is no other's, even while that one waits."""
    folder = place.folder()
    command = place.command(folder, "--epochs", 100, "--save-every", 1)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder / "state.safetensors").exists(): time.sleep(0.0005)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        for more in ("--overwrite", "--resume"):
            error = execute(command + [more], 1).stderr
            check("is being written by another run" in error and process.poll() is None, error)
            check(before == {path.name: path.read_bytes() for path in folder.iterdir()}, f"{more}: another run's files were changed")
    finally:
        process.kill()
        process.wait()


def test_goes_on(place):
    """More epochs or steps after the end, a lower rate."""
    folder = run(place, "--max-steps", 40)  # an epoch has 30
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    check("--max-steps" in execute(place.command(folder, "--resume"), 2).stderr, "the end was moved unasked")
    out = execute(place.command(folder, "--resume", "--max-steps", 40)).stdout
    check("--max-steps" not in out and before == {path.name: path.read_bytes() for path in folder.iterdir()}, out)
    out = execute(place.command(folder, "--resume", "--max-steps", 50)).stdout
    check("--max-steps was 40 and is 50" in out and "resumed at step 40 of 50, in epoch 2" in out and "and falls to 0 at step 50" in out, out)
    out = execute(place.command(folder, "--resume", "--epochs", 3, "--max-steps", 0, "--lr", 0.005)).stdout
    check("--epochs was 2 and is 3" in out and "--lr was 0.01 and is 0.005" in out, out)
    metrics = json.loads((folder / "metrics.json").read_text())
    check([(e["epoch"], e["step"]) for e in metrics["epochs"]] == [(1, 30), (2, 40), (2, 50), (2, 60), (3, 90)], str(metrics))
    check(metrics["finished"] and metrics["steps"] == 90, str(metrics))
    constant = run(place, "--max-steps", 4, "--schedule", "constant")
    out = execute(place.command(constant, "--schedule", "constant", "--resume", "--max-steps", 6)).stdout
    check("learning rate goes on at 0.01 and does not fall" in out and "falls to 0" not in out, out)
    other = place.folder()
    execute(place.command(other, "--max-steps", 4), env={**os.environ, "MEFT_ISA": "portable"})
    out = execute(place.command(other, "--resume", "--max-steps", 6)).stdout
    isa = read_safetensors(other / "state.safetensors")[1]["isa"]
    check(isa == "portable" or f"instruction set was portable and is {isa}" in out, out)
    check("past the last one (--epochs or --max-steps), 60" in execute(place.command(folder, "--resume", "--epochs", 2, "--max-steps", 0, "--lr", 0.005), 1).stderr, "a run went back")


def test_damaged(place):
    """What a run left is checked before it goes on."""
    folder = run(place, "--max-steps", 35)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("state.safetensors", "adapter.safetensors"):
        path, whole = folder / name, kept[name]
        half = bytes(len(whole) // 3)
        for broken in (whole[:-len(half)] + half, whole[:-10], None):
            path.unlink() if broken is None else path.write_bytes(broken)
            done = subprocess.run(place.command(folder, "--resume", "--max-steps", 50), capture_output=True, text=True)
            check(done.returncode in (1, 2) and name in done.stderr and "step 36" not in done.stdout, done.stdout + done.stderr)
            check(all((folder / other).read_bytes() == was for other, was in kept.items() if other != name), "something was changed")
            path.write_bytes(whole)
    execute(place.command(folder, "--resume", "--max-steps", 50))


def test_full_disk(place):
    """A limit on file sizes: the state, then the log, cannot be written. Nothing that was there is lost."""
    more = ("--log-every", 1, "--epochs", 12)
    whole = run(place, *more)

    def limited(size):
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    folder = place.folder()
    status, out = interrupt(place, folder, 12, signal.SIGINT, *more, "--save-every", 1)
    check(status == 130, f"status {status}: {out}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for size, file in ((len(before["state.safetensors"]) // 2, "state.safetensors"), (len(before["log.jsonl"]) + 10, "log.jsonl")):
        saves = ("--save-every", 1 if file == "state.safetensors" else 1000)
        error = execute(place.command(folder, *more, *saves, "--resume"), 1, preexec_fn=limited(size)).stderr
        check(file in error and "too large" in error, error)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        check(after["state.safetensors"] == before["state.safetensors"], "the state is lost")
        check(after["log.jsonl"].startswith(before["log.jsonl"]), "the log is lost")
        check(sorted(after) == sorted(before), f"files {sorted(after)}")
    execute(place.command(folder, *more, "--resume"))
    check(results(folder) == results(whole), "a full disk changed the bits")


if __name__ == "__main__":
    sys.exit(main(globals()))
