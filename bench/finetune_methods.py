"""The methods that a build of finetune has: the program is asked, no script lists them."""
import re
import subprocess


def methods_of(finetune):
    said = subprocess.run([str(finetune), "--method", "?"], capture_output=True, text=True).stderr
    found = re.search(r"--method: expected (\S+), found", said)
    if not found: raise SystemExit(f"{finetune} does not say its methods: {said}")
    return found[1].split("|")
