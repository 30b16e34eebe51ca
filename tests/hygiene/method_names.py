"""Checks that nothing but a method's own file, the registry, tests and documents names a method.

The names are read from the registry and the descriptions: the aggregate's, as a word of the code, and the one that users
type, as a whole string. The programs of examples/*.cpp show methods and are documents. NAMED lists the others that may.
"""
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = "include/meft/method"
SEARCHED = ["include", "kernels", "cmake", "bench/*.cpp", "bench/*.hpp", "bench/*.py", "examples/finetune"]
NAMED = {"bench/families.cpp": "compares one method with another at published sizes",
         "bench/weights.cpp": "takes a step with frozen weights, and one without a method",
         "bench/activation_memory.cpp": "the columns of a published table", "bench/scores.py": "the rows of a published table",
         "bench/variants.py": "the rows of a published table",
         "bench/few_shot.py": "the columns of a published table, with their rates"}
COMMENT = {"py": re.compile(r"#[^\n]*"), "other": re.compile(r"//[^\n]*|/\*.*?\*/", re.S)}
LISTED = re.compile(r"using (?:Inserted)?Methods\s*=(.*?);", re.S)
TYPED = re.compile(r"std::string_view name = (.*?)(?:;|,\s*about\b)", re.S)


def code(path):
    return COMMENT.get(path.suffix[1:], COMMENT["other"]).sub("", path.read_text(errors="replace"))


def names(root):
    """(aggregates, names that users type)."""
    lists = " ".join(LISTED.search((root / METHODS / name).read_text())[1] for name in ("registry.hpp", "inserted.hpp"))
    types = [name for part in re.findall(r"MethodList<((?:\w+(?:<\w+>)?[,\s]*)*)>", lists) for name in re.findall(r"\w+(?:<\w+>)?", part)]
    typed = [name for path in sorted((root / METHODS).glob("*.hpp")) for part in TYPED.findall(path.read_text())
             for name in re.findall(r'"([\w-]+)"', part)]
    return types, typed


def problems(root):
    types, typed = names(root)
    if len(types) != len(typed):
        yield f"registry: {len(types)} methods, but descriptions name {len(typed)}: {', '.join(typed)}"
    word = re.compile(rf"\b(?:{'|'.join(re.findall('[A-Za-z0-9]+', ' '.join(types)))})\b|\"(?:{'|'.join(typed)})\"")
    for pattern in SEARCHED:
        for place in sorted(root.glob(pattern)):
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                name = str(path.relative_to(root))
                if path.is_dir() or name.startswith(METHODS) or name in NAMED:
                    continue
                for found in word.finditer(code(path)):
                    yield f"{name}: names the method {found[0]}"


REGISTRY = "using Methods = detail::Joined<MethodList<Other>, InsertedMethods>::type;\n"
INSERTED = "using InsertedMethods = MethodList<Some>;\n"
SOME = 'struct Described<Some> {\n  static constexpr std::string_view name = "some", about = "x";\n};\n'
OTHER = 'struct Described<Other> {\n  static constexpr std::string_view name = kind == 1 ? "other" : "third";\n};\n'
MADE_UP = [("include/meft/train/a.hpp", "// Some.\nif (x.some == \"some more\") awesome();\n", 1),
           ("include/meft/train/a.hpp", "adapt(model, Some{});\n", 2), ("bench/b.py", 'run("other")  # "some"\n', 2),
           ("examples/a.cpp", "adapt(model, Some{});\n", 1), ("examples/finetune/a.cpp", 'if (name == "third")\n', 2)]


def self_test():
    """Each tree has one problem of its own, a name too many, and that of what is made up."""
    for name, text, expected in MADE_UP:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for place, content in [(f"{METHODS}/registry.hpp", REGISTRY), (f"{METHODS}/inserted.hpp", INSERTED), (f"{METHODS}/some.hpp", SOME),
                                   (f"{METHODS}/other.hpp", OTHER), (name, text)]:
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_text(content)
            found = list(problems(root))
            if len(found) != expected:
                yield f"self-test: {name}: expected {expected} lines, found {found}"


if __name__ == "__main__":
    found = [*self_test(), *problems(ROOT)]
    for line in found:
        print(line)
    print(f"{len(names(ROOT)[0])} methods, {len(found)} problems")
    sys.exit(1 if found else 0)
