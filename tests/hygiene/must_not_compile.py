"""Each file in must_not_compile/ is a mistake that the compiler must reject with the message the file expects.

The first line of a file is `// expect: REGEX`. With -DOK the mistake is left out and the file must compile. All are compiled
together, each in a namespace of its own behind what all include; one that defines a macro before it includes is compiled alone.
"""
import functools
import pathlib
import re
import sys

import compiling

FOLDER = pathlib.Path(__file__).with_suffix("")


def source_of(paths):
    sources = [(path, path.read_text().split("\n")) for path in paths]
    out = "".join(line + "\n" for _, lines in sources for line in lines if line.startswith("#") and "include" in line)
    for path, lines in sources:
        text = "\n".join("" if line.startswith("#include") else line for line in lines)
        out += f'namespace {path.stem} {{\n#line 1 "{path.name}"\n{text}}}\n'
    return out


def errors(text):
    """Each error with what stands around it: g++ says before it where it comes from, clang++ after it."""
    parts = re.split(r"^(.*\berror: .*\n)", text, flags=re.M)
    return ["".join(parts[i - 1:i + 2]) for i in range(1, len(parts), 2)]


def reject(compiler, path, text):
    """Problems of a file in what the compiler said of it and of others."""
    expected = re.match(r"// expect: (.+)\n", path.read_text())
    if not expected or "#ifdef OK" not in path.read_text():
        return [f"{path.name}: needs a first line `// expect: REGEX` and a variant that compiles under `#ifdef OK`"]
    about = [error for error in errors(text) if f"{path.name}:" in error]
    if not about:
        return [f"{path.name}: compiles with {compiler}; it must not"]
    if not any(re.search(expected[1], error) for error in about):
        return [f"{path.name}: {compiler} does not say `{expected[1]}` but\n{''.join(about)[:2000]}"]
    return []


def problems(compiler, paths):
    if len(paths) == 1:  # the file as it is
        name, source = paths[0].name, f'#line 1 "{paths[0].name}"\n' + paths[0].read_text()
    else:
        name, source = "the files together", source_of(paths)
    _, text = compiling.check(compiler, source)
    status, output = compiling.check(compiler, source, "-DOK")
    return (sum((reject(compiler, path, text) for path in paths), []) +
            ([f"{name}: with -DOK does not compile with {compiler}\n{output[:2000]}"] if status else []))


if __name__ == "__main__":
    files = sorted(FOLDER.glob("*.cpp"))
    if not files:
        sys.exit(f"must_not_compile: no .cpp file in {FOLDER}")
    print(f"{len(files)} files with {' and '.join(compiling.COMPILERS)}")
    alone = [path for path in files if "#define" in path.read_text()]
    groups = [[path for path in files if path not in alone], *([path] for path in alone)]
    sys.exit(compiling.report(compiling.each([functools.partial(problems, compiler, paths)
                                              for compiler in compiling.COMPILERS for paths in groups])))
