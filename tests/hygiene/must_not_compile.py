"""Each file in must_not_compile/ is a mistake that the compiler must reject with the message the file expects.

The first line of a file is `// expect: REGEX`. With -DOK the mistake is left out and the file must compile. What most of them
include is precompiled.
"""
import functools
import pathlib
import re
import sys
import tempfile

import compiling

FOLDER = pathlib.Path(__file__).with_suffix("")
HUB = "meft/ops/matmul.hpp"


def reject(compiler, path, folder):
    source = path.read_text()
    expected = re.match(r"// expect: (.+)\n", source)
    if not expected or "#ifdef OK" not in source:
        return [f"{path.name}: needs a first line `// expect: REGEX` and a variant that compiles under `#ifdef OK`"]
    status, text = compiling.check(compiler, source, "-include", compiling.precompiled(HUB, folder))
    if status == 0:
        return [f"{path.name}: compiles with {compiler}; it must not"]
    if not re.search(expected[1], text):
        return [f"{path.name}: {compiler} does not say `{expected[1]}` but\n{text[:2000]}"]
    return []


def accept(compiler, paths, folder):
    """All with -DOK, each in a namespace of its own behind what it includes."""
    sources = [(path, path.read_text().split("\n")) for path in paths]
    source = "#define MEFT_CUDA\n" + "".join(line + "\n" for _, lines in sources for line in lines if line.startswith("#include"))
    for path, lines in sources:
        text = "\n".join("" if line.startswith("#include") or "define MEFT_CUDA" in line else line for line in lines)
        source += f'namespace {path.stem} {{\n#line 1 "{path.name}"\n{text}}}\n'
    status, text = compiling.check(compiler, source, "-DOK", "-include", compiling.precompiled(HUB, folder))
    return [f"with -DOK does not compile with {compiler}\n{text[:2000]}"] if status else []


def problems(compiler, files):
    with tempfile.TemporaryDirectory() as folder:
        status, text = compiling.precompile(compiler, HUB, folder)
        if status:
            return [f"{HUB} does not compile with {compiler}\n{text[:2000]}"]
        return sum((reject(compiler, path, folder) for path in files), accept(compiler, files, folder))


if __name__ == "__main__":
    files = sorted(FOLDER.glob("*.cpp"))
    if not files:
        sys.exit(f"must_not_compile: no .cpp file in {FOLDER}")
    print(f"{len(files)} files with {' and '.join(compiling.COMPILERS)}")
    sys.exit(compiling.report(compiling.each([functools.partial(problems, compiler, files) for compiler in compiling.COMPILERS])))
