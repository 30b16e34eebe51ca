"""Each file in must_not_compile/ is a mistake that the compiler must reject with the message the file expects.

The first line of a file is `// expect: REGEX`. With -DOK the mistake is left out and the file must compile.
"""
import functools
import pathlib
import re
import sys

import compiling

FOLDER = pathlib.Path(__file__).with_suffix("")


def reject(compiler, path):
    source = path.read_text()
    expected = re.match(r"// expect: (.+)\n", source)
    if not expected or "OK" not in source:
        return [f"{path.name}: needs a first line `// expect: REGEX` and a variant that compiles under `#ifdef OK`"]
    problems = []
    status, text = compiling.check(compiler, source, "-DOK")
    if status:
        problems.append(f"{path.name}: does not compile with -DOK with {compiler}\n{text[:2000]}")
    status, text = compiling.check(compiler, source)
    if status == 0:
        problems.append(f"{path.name}: compiles with {compiler}; it must not")
    elif not re.search(expected[1], text):
        problems.append(f"{path.name}: {compiler} does not say `{expected[1]}` but\n{text[:2000]}")
    return problems


if __name__ == "__main__":
    files = sorted(FOLDER.glob("*.cpp"))
    if not files:
        sys.exit(f"must_not_compile: no .cpp file in {FOLDER}")
    print(f"{len(files)} files with {' and '.join(compiling.COMPILERS)}")
    sys.exit(compiling.report(compiling.each([functools.partial(reject, compiler, path)
                                              for compiler in compiling.COMPILERS for path in files])))
