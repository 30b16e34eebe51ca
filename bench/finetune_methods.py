"""The methods that a build of finetune has: the program is asked, no script lists them."""
import re
import subprocess


class Refused(Exception):
    """What the program says against a method under a checkpoint."""


def methods_of(finetune):
    said = subprocess.run([str(finetune), "--method", "?"], capture_output=True, text=True).stderr
    found = re.search(r"--method: expected (\S+), found", said)
    if not found: raise SystemExit(f"{finetune} does not say its methods: {said}")
    return found[1].split("|")


def rates_of(finetune):
    """Method -> its learning rate by default."""
    said = " ".join(subprocess.run([str(finetune), "--help"], capture_output=True, text=True).stdout.split())
    found = re.search(r"--lr X [^[]*\[([^]]*)\]", said)
    if not found: raise SystemExit(f"{finetune} does not say its learning rates")
    first, *others = found[1].split("; ")
    own = dict(one.split(": ") for one in others)
    return {method: float(own.get(method, first)) for method in methods_of(finetune)}


def train(finetune, flags):
    """A run to its end, from where it was stopped if it was. Raises Refused where the method does not suit the checkpoint."""
    flags = [str(word) for word in flags]
    folder, method = (flags[flags.index(flag) + 1] for flag in ("--output", "--method"))
    done = subprocess.run([str(finetune), *flags, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if refusal := re.search(rf"^finetune: {method}: (expected a model .*)", done.stderr, re.MULTILINE): raise Refused(refusal[1])
    if done.returncode: raise SystemExit(f"{folder}: {done.stderr}")
