"""Checks which file includes what, how headers open and how long they are, the number of macros, the width of documents,
and what lies at the top level.

The layers are those of LAYER below; a header includes only lower-numbered layers and its own folder. Every rule is
first tried on a made-up tree that breaks it.
"""
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYER = {"base": 0, "memory": 1, "weights": 1, "backend": 2, "tensor": 3, "autodiff": 4, "ops": 5, "reversible": 6, "nn": 7,
         "model": 8, "method": 8, "optim": 8, "io": 8, "text": 8, "data": 8, "checkpoints": 9, "task": 10, "train": 11}
UMBRELLA_LAYERS = {name for name, number in LAYER.items() if number < 8} | {"optim"}
JSON_USER = "base/json.hpp"  # in base so that siblings share it; the core (layers below 8) must not see it
THIRD_PARTY = {"nlohmann": {"io", "text", "data", "model", "checkpoints", "train"}, "utf8proc.h": {"text"}}
DECODER, DECODERS = "data/image_decode.hpp", {"jpeglib.h", "jerror.h", "png.h", "webp/decode.h"}
KERNELS_SEE = re.compile(r"meft/(base|memory|weights|backend/cuda|backend/kernels)/|meft/backend/\w+\.hpp$")
CPU_INCLUDERS = {"backend", "tensor"}  # all others see backend/kernels/
SLOW = {"iostream", "regex", "format"}
MAX_LINES, MAX_MACROS, MAX_WIDTH = 400, 5, 130
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
TOP = {".ci", ".clang-format", ".clang-tidy", ".gitignore", "CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json",
       "CONTRIBUTING.md", "LICENSE", "README.md", "bench", "cmake", "examples", "include", "kernels", "tests"}
LOCAL = re.compile(r"build.*|\.git|\.cache|\.idea|\.vscode|CMakeUserPresets\.json|compile_commands\.json")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.M)
FORBIDDEN = re.compile(r"\bstd::(cout|cerr|clog)\b|(?<![\w.>])(abort|exit|_exit|quick_exit|printf|puts)\s*\(")
INTERNAL = re.compile(r"^(static )?const(expr)? [^(\n]*=", re.M)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)


def header_problems(name, text):
    """Problems of include/meft/NAME."""
    folder = name.split("/")[0] if "/" in name else None
    if folder is not None and folder not in LAYER:
        yield f"{name}: folder {folder} has no layer"
        return
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield f"{name}: {lines} lines; at most {MAX_LINES}"
    if not text.startswith("// Owns: "):
        yield f"{name}: does not open with `// Owns: …`"
    if "#pragma once" not in text:
        yield f"{name}: no #pragma once"
    if found := INTERNAL.search(text):
        yield f"{name}: `{found[0]}`: one object in each source file; write inline constexpr"
    if found := FORBIDDEN.search(COMMENT.sub("", text)):
        yield f"{name}: `{found[0]}`: the library never prints, aborts or exits"
    for quote, target in INCLUDE.findall(text):
        top, _, rest = target.partition("/")
        if quote == '"':
            yield f'{name}: includes "{target}"; write <meft/...>'
        elif target == "meft/meft.hpp":
            yield f"{name}: includes the umbrella"
        elif top == "meft":
            other = rest.split("/")[0]
            if folder is None:
                if other not in UMBRELLA_LAYERS or rest == JSON_USER:
                    yield f"{name}: the umbrella includes {target}; it is included by name"
            elif rest.startswith("backend/cpu/") and folder not in CPU_INCLUDERS:
                yield f"{name}: includes {target}; the interface of kernels is backend/kernels/"
            elif rest == JSON_USER and LAYER[folder] < 8:
                yield f"{name}: the core includes {target}"
            elif other != folder and LAYER.get(other, 99) >= LAYER[folder]:
                yield f"{name}: layer {LAYER[folder]} includes {target}, layer {LAYER.get(other, 'unknown')}"
        elif top in THIRD_PARTY:
            if folder not in THIRD_PARTY[top] and (top, name) != ("nlohmann", JSON_USER):
                yield f"{name}: includes {target}; only {', '.join(sorted(THIRD_PARTY[top]))} may"
        elif target in DECODERS:
            if name != DECODER:
                yield f"{name}: includes {target}; only {DECODER} may"
        elif target in SLOW:
            yield f"{name}: includes {target}, which is slow to compile"
        elif rest and top != "sys":
            yield f"{name}: includes {target}, which is not a dependency of the library"


def problems(root):
    """Every broken rule of the tree at `root`, one line each."""
    include = root / "include" / "meft"
    macros = set()
    for path in sorted(include.rglob("*.hpp")):
        text = path.read_text()
        yield from header_problems(str(path.relative_to(include)), text)
        macros |= set(re.findall(r"^\s*#\s*define\s+(\w+)", text, re.M))
    public = sorted(name for name in macros if name.startswith("MEFT_"))
    if len(public) > MAX_MACROS:
        yield f"macros: {len(public)}, at most {MAX_MACROS}: {', '.join(public)}"
    if others := sorted(macros - set(public)):
        yield f"macros: not named MEFT_*: {', '.join(others)}"
    for name in DOCUMENTS:
        for number, line in enumerate((root / name).read_text().split("\n") if (root / name).exists() else [], 1):
            if len(line) > MAX_WIDTH:
                yield f"{name}:{number}: {len(line)} wide; at most {MAX_WIDTH}"
    for path in sorted((root / "kernels").rglob("*.*")):
        for _, target in INCLUDE.findall(path.read_text()) if path.is_file() else []:
            if target.startswith("meft/") and not KERNELS_SEE.match(target):
                yield f"{path.relative_to(root)}: includes {target}; kernels see base, memory, weights and their own backend"
    for path in sorted((root / "tests").rglob("*_test.cpp")):
        if path.parent.name not in {*LAYER, "kernels"}:
            yield f"{path.relative_to(root)}: tests lie in folders as include/meft has, or in kernels"
    for path in sorted((include / "backend" / "kernels").glob("*.hpp")):
        homes = (include / "backend" / "cpu" / path.name, root / "kernels" / f"{path.stem}.cu")
        if lacking := [str(home.relative_to(root)) for home in homes if not home.exists()]:
            yield f"backend/kernels/{path.name}: there is no {' and no '.join(lacking)}"
    for umbrella, folder in (("meft.hpp", "ops"), ("cuda.hpp", "backend/cuda"), ("cuda.hpp", "backend/kernels")):
        text = (include / umbrella).read_text() if (include / umbrella).exists() else ""
        for path in sorted((include / folder).glob("*.hpp")):
            if f"<meft/{folder}/{path.name}>" not in text:
                yield f"{umbrella}: lacks {folder}/{path.name}"
    for entry in sorted(root.iterdir()):
        if entry.name not in TOP and not LOCAL.fullmatch(entry.name):
            yield f"{entry.name}: is not among the files of the top level"


# File, text, and what must be said of it. A header without a comment gets the opening that it must have.
BROKEN = [
    ("include/meft/base/a.hpp", "#pragma once\n#include <meft/tensor/tensor.hpp>\n", "layer 0 includes meft/tensor"),
    ("include/meft/io/a.hpp", "#pragma once\n#include <meft/text/tokens.hpp>\n", "layer 8 includes meft/text"),
    ("include/meft/nn/a.hpp", "#pragma once\n#include <meft/nowhere/a.hpp>\n", "layer unknown"),
    ("include/meft/nn/b.hpp", "#pragma once\n#include <meft/meft.hpp>\n", "umbrella"),
    ("include/meft/nn/c.hpp", "#pragma once\n#include <Eigen/Core>\n", "not a dependency"),
    ("include/meft/nn/d.hpp", "#pragma once\n#include <nlohmann/json.hpp>\n", "only checkpoints, data, io, model"),
    ("include/meft/base/b.hpp", "#pragma once\n#include <meft/base/json.hpp>\n", "the core includes meft/base/json"),
    ("include/meft/nn/e.hpp", '#pragma once\n#include "linear.hpp"\n', "write <meft/...>"),
    ("include/meft/nn/f.hpp", "#pragma once\n#include <iostream>\n", "slow to compile"),
    ("include/meft/nn/g.hpp", "#pragma once\n#include <boost/any.hpp>\n", "not a dependency"),
    ("include/meft/data/a.hpp", "#pragma once\n#include <png.h>\n", "only data/image_decode.hpp may"),
    ("include/meft/nn/h.hpp", "int x;\n", "no #pragma once"),
    ("include/meft/nn/i.hpp", "#pragma once\n" + "\n" * (MAX_LINES - 1), "401 lines"),
    ("include/meft/nn/j.hpp", "#pragma once\ninline void f() { std::abort(); }\n", "never prints"),
    ("include/meft/nn/n.hpp", "#pragma once\nconstexpr int n = 1;\n", "write inline constexpr"),
    ("include/meft/nn/k.hpp", "#pragma once\n#define HELPER 1\n", "not named MEFT_*: HELPER"),
    ("include/meft/nn/l.hpp", "#pragma once\n" + "".join(f"#define MEFT_{i} 1\n" for i in range(6)), "macros: 6"),
    ("include/meft/nn/m.hpp", "// A header.\n#pragma once\n", "does not open with"),
    ("README.md", "x" * (MAX_WIDTH + 1), "README.md:1: 131 wide"),
    ("include/meft/odd/a.hpp", "#pragma once\n", "folder odd has no layer"),
    ("include/meft/meft.hpp", "#pragma once\n#include <meft/model/bert.hpp>\n", "it is included by name"),
    ("kernels/a.cuh", "#include <meft/tensor/tensor.hpp>\n", "kernels see base, memory"),
    ("kernels/b.cu", "#include <meft/backend/cpu/map.hpp>\n", "kernels see base, memory"),
    ("tests/a_test.cpp", "", "tests lie in folders"),
    ("include/meft/nn/m.hpp", "#pragma once\n#include <meft/backend/cpu/map.hpp>\n", "the interface of kernels is"),
    ("include/meft/ops/a.hpp", "#pragma once\n", "lacks ops/a.hpp"),
    ("include/meft/backend/kernels/a.hpp", "#pragma once\n", "there is no"),
    ("include/meft/backend/cuda/a.hpp", "#pragma once\n", "cuda.hpp: lacks backend/cuda/a.hpp"),
    ("notes.txt", "", "top level"),
]


def rules_that_do_not_bite():
    opening = "// Owns: it.\n"
    for name, text, expected in [("include/meft/meft.hpp", "#pragma once\n", None), *BROKEN]:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path, content in [(root / "include/meft/meft.hpp", "#pragma once\n"),
                                  (root / "include/meft/cuda.hpp", "#pragma once\n#include <meft/backend/kernels/a.hpp>\n"),
                                  (root / name, text)]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text((opening if path.suffix == ".hpp" and not content.startswith("//") else "") + content)
            found = list(problems(root))
            if expected is None and found or expected and (len(found) != 1 or expected not in found[0]):
                yield f"self-test: {name}: expected {f'one line with `{expected}`' if expected else 'none'}, found {found}"


if __name__ == "__main__":
    found = [*rules_that_do_not_bite(), *problems(ROOT)]
    for line in found:
        print(line)
    count = len(list((ROOT / "include" / "meft").rglob("*.hpp")))
    print(f"{count} headers, {len(found)} problems")
    sys.exit(1 if found or not count else 0)
