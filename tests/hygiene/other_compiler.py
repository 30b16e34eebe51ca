#!/usr/bin/env python3
"""Fails where a compiler besides the main one warns of a unit of this build: a group of tests, a program, a bench.

The second argument is the build's folder of tests, beside which compile_commands.json lies. Kernels are left out: the presets that
compile them are g++'s and nvcc's.
"""
import json
import pathlib
import shlex
import sys

from compiling import FLAGS, ROOT, each, others, report, run


def units(build):
    """The sources with their include paths and definitions; a test's own file is in its group."""
    out = {}
    for unit in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(unit["file"])
        if path.suffix == ".cu" or ROOT / "kernels" in path.parents or build / "kernels" in path.parents:
            continue
        if path.name.endswith("_test.cpp"):
            continue
        words = shlex.split(unit["command"])
        flags = [word for word in words if word.startswith(("-D", "-I"))]
        for before, word in zip(words, words[1:]):
            if before == "-isystem":
                flags += [before, word]
        out[path] = flags
    return out


def main():
    build = pathlib.Path(sys.argv[2]).parent
    if not (build / "compile_commands.json").exists():
        print("skipped: no compile_commands.json, which CMAKE_EXPORT_COMPILE_COMMANDS makes")
        return 0
    found = units(build)
    if len(found) < 10:
        return report([f"compile_commands.json: expected the groups of tests, programs and benches, found {len(found)} units"])

    def read(compiler, path, flags):
        status, said = run(compiler, *FLAGS, "-Wno-unknown-pragmas", "-fsyntax-only", *flags, path)
        return [f"{compiler} {path.name}: {said}"] if status else []

    compilers = others()
    if not compilers:
        print("skipped: no other compiler")
    jobs = [lambda c=compiler, p=path, f=flags: read(c, p, f) for compiler in compilers for path, flags in found.items()]
    return report(each(jobs), f"{len(jobs)} units")


if __name__ == "__main__":
    sys.exit(main())
