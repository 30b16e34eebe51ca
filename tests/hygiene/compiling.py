"""Owns: how the hygiene tests call the compilers: which, with which flags, two at a time.

The first argument of a test names its main compiler; by default it is the first of COMPILERS.
"""
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
MAIN = sys.argv[1] if len(sys.argv) > 1 else COMPILERS[0]
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread", f"-I{INCLUDE}"]


def headers():
    """Every header of the library as it is included: meft/base/error.hpp, ..."""
    return sorted(str(path.relative_to(INCLUDE)) for path in (INCLUDE / "meft").rglob("*.hpp"))


def defined(header):
    """The flag with which meft::cuda lets its headers in; the others must do without it."""
    return ["-DMEFT_CUDA"] if header == "meft/cuda.hpp" or header.startswith("meft/backend/cuda/") else []


def others():
    """The compilers besides the main one; that may be g++ under the name c++."""
    def version(compiler):
        return run(compiler, "--version")[1].split("\n")[0].split(" ", 1)[1:]
    return [compiler for compiler in COMPILERS if version(compiler) != version(MAIN)]


def run(*command, source=None, **options):
    """Runs a command with `source` on its standard input; returns (exit status, both outputs)."""
    done = subprocess.run([str(word) for word in command], input=source, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    return done.returncode, done.stdout


def check(compiler, source, *flags):
    """Parses and type-checks `source` with the project's warnings as errors; returns (exit status, diagnostics)."""
    return run(compiler, *FLAGS, "-fsyntax-only", *flags, "-x", "c++", "-", source=source)


def precompiled(hub, folder):
    """Where `precompile` has it."""
    return pathlib.Path(folder) / (hub.replace("/", "-") + ".hpp")


def precompile(compiler, hub, folder):
    """Compiles a header for `-include`, twice in a row; returns (exit status, diagnostics)."""
    path = precompiled(hub, folder)
    path.write_text(f"#include <{hub}>\n#include <{hub}>\n")
    return run(compiler, *FLAGS, "-x", "c++-header", path, "-o", f"{path}.gch")


def each(jobs):
    """Calls the jobs two at a time; each returns a list of problems. Returns all of them."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda job: job(), jobs), [])


def report(problems, done="ok"):
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else done)
    return 1 if problems else 0
