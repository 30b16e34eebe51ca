"""Compiles the C++ in README.md and CONTRIBUTING.md, and runs what is marked to be run.

A line `<!-- run -->` or `<!-- run ARGUMENTS -->` before a ```cpp or ```sh block runs it from the root of the repository
($NAME in arguments is taken from the environment; where it is not set the run is skipped and said so). A ```text block
that directly follows a block that ran is what it must print, line by line; a line `...` stands for any lines.
A cpp block with an #include is a whole program; one that is run is an example's text, and the tests' program of its name is
what runs, from the folder that the second argument names. All others are compiled together behind `#include <meft/meft.hpp>`:
each in a namespace where it starts with `///`, `template` or `struct`, else, or after a line `<!-- fragment -->`, in a function.
"""
import os
import pathlib
import re
import sys
import tempfile

import compiling

BLOCK = re.compile(r"(?:<!--\s*(run|fragment)\b([^\n]*?)-->\s*\n)?```(cpp|sh|text)\n(.*?)^```\s*$", re.S | re.M)
ASSETS = {"MEFT_MODEL": "build/assets/minilm", "MEFT_REVIEWS": "build/assets/movie_reviews.txt"}
SCOPE = re.compile(r"\s*(///|template|struct)")


def example(code):
    """The program of the example with this text; None where there is none, or no folder of programs."""
    texts = {path.read_text(): path.stem for path in (compiling.ROOT / "examples").glob("*.cpp")}
    return pathlib.Path(sys.argv[2]) / texts[code] if code in texts and len(sys.argv) > 2 else None


def fragments(blocks):
    """One source of (place, line, code, mark)."""
    source = "#include <meft/meft.hpp>\nusing namespace meft;\n"
    for number, (name, line, code, mark) in enumerate(blocks):
        inside = code if SCOPE.match(code) and mark != "fragment" else f"void snippet() {{\n#line {line} \"{name}\"\n{code}}}\n"
        source += f"namespace block{number} {{\n#line {line} \"{name}\"\n{inside}}}\n"
    return source


def matches(expected, printed):
    pattern = "\n".join("(?:.*\n)*?.*" if line.strip() == "..." else re.escape(line.rstrip())
                        for line in expected.strip().split("\n"))
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in printed.strip().split("\n"))) is not None


def execute(where, language, code, arguments, folder):
    """Runs a block; returns (what it printed or None where it was skipped, problems)."""
    words = os.path.expandvars(arguments).split()
    if language == "sh":
        command = ["bash", "-euo", "pipefail", "-c", code, *words]
    else:
        binary = example(code)
        if not binary:
            binary = pathlib.Path(folder) / "snippet"
            status, text = compiling.run(compiling.MAIN, *compiling.FLAGS, "-O1", "-x", "c++", "-", "-o", binary,
                                         "-lutf8proc", source=code)
            if status:
                return None, [f"{where}: does not compile\n{text[:3000]}"]
        command = [binary, *words]
    if missing := [word for word in words if word.startswith("$")]:
        print(f"skipped: {where}: not run, {missing[0]} is not set")
        return None, []
    status, text = compiling.run(*command, cwd=compiling.ROOT, timeout=3000)
    return text, [f"{where}: ended with status {status}\n{text[-3000:]}"] if status else []


def check(path, folder):
    """Problems of one document, the blocks that `fragments` takes, and how many cpp blocks it has."""
    text = path.read_text()
    problems, parts, count, printed, end = [], [], 0, None, 0
    for found in BLOCK.finditer(text):
        mark, arguments, language, code = found.groups()
        line = text[:found.start(3)].count("\n") + 2
        where = f"{path.name}:{line - 1}"
        follows, end = text[end:found.start()].strip() == "", found.end()
        count += language == "cpp"
        if language == "text":
            if follows and printed is not None and not matches(code, printed):
                problems.append(f"{where}: the program printed\n{printed[-2000:]}\ninstead of\n{code}")
            printed = None
        elif mark == "run":
            printed, wrong = execute(where, language, code, arguments, folder)
            problems += wrong
        else:
            printed = None
            if language == "cpp" and "#include" in code:
                status, output = compiling.check(compiling.MAIN, code, "-Wno-unused")
                problems += [f"{where}: does not compile\n{output[:3000]}"] if status else []
            elif language == "cpp":
                parts.append((path.name, line, code, mark))
    return problems, parts, count


def self_test(folder):
    """Each of these must be noticed."""
    path = pathlib.Path(folder) / "SELF_TEST.md"
    hello = '```cpp\n#include <cstdio>\nint main() { std::puts("1"); }\n```\n'
    for text in ["```cpp\n#include <cstdio>\nint main() { return x; }\n```\n", "<!-- run -->\n```sh\nfalse\n```\n",
                 "<!-- run $NOT_SET_ANYWHERE -->\n```cpp\n#include <none>\n```\n",
                 "<!-- run -->\n" + hello + "\n```text\n2\n```\n"]:
        path.write_text(text)
        if len(check(path, folder)[0]) != 1:
            yield f"self-test: not noticed:\n{text}"
    path.write_text("<!-- run -->\n" + hello + "\n```text\n1\n```\n")
    if problems := check(path, folder)[0]:
        yield f"self-test: {problems}"


if __name__ == "__main__":
    for variable, place in ASSETS.items():  # what tests/fetch.py fetched
        if (compiling.ROOT / place).exists():
            os.environ.setdefault(variable, str(compiling.ROOT / place))
    with tempfile.TemporaryDirectory() as scratch:
        found, together = list(self_test(scratch)), []
        for name in ("README.md", "CONTRIBUTING.md"):
            document = compiling.ROOT / name
            if not document.exists():
                found.append(f"{name}: is missing")
                continue
            wrong, parts, blocks = check(document, scratch)
            print(f"{name}: {blocks} cpp blocks")
            found += wrong
            together += parts
            if name == "README.md" and not blocks:
                found.append("README.md: has no cpp block")
    status, output = compiling.check(compiling.MAIN, fragments(together), "-Wno-unused")
    sys.exit(compiling.report(found + ([f"does not compile\n{output[:3000]}"] if status else [])))
