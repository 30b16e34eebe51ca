"""Each header of the library compiles alone, and twice in a row, without a warning.

With the main compiler every header alone, with the others all headers in one go. What a header includes (perhaps through
others) may stand before it: that gives it nothing but what it includes by itself. So headers are compiled in chains,
each including the one before it, as few as there can be; and HUBS, headers that many include, are precompiled, and a
chain begins with one; and a mistake at the end stops the compiler before it instantiates what nothing here uses (two_tus
compiles that). That takes a twentieth of the time.
"""
import functools
import os
import pathlib
import re
import sys
import tempfile

import compiling

HUBS = ["meft/base/error.hpp", "meft/base/json.hpp", "meft/backend/cpu/gemm.hpp", "meft/backend/backend.hpp", "meft/autodiff/op.hpp"]
END = "the end of the headers"
INCLUDE = re.compile(r"^\s*#\s*include\s*<(meft/[^>]+)>", re.M)


@functools.cache
def reached(header, folder=compiling.INCLUDE):
    """The headers of the library that `header` includes, through others too."""
    out = set()
    for name in INCLUDE.findall((folder / header).read_text()):
        if name not in out and (folder / name).exists():
            out |= {name} | reached(name, folder)
    return out


def precompile(hub, folder):
    """Compiles the hub for `use`; alone, so that it is checked as well."""
    status, output = compiling.precompile(compiling.MAIN, hub, folder)
    return [f"{hub}: does not compile alone with {compiling.MAIN}\n{output[:2000]}"] if status else []


def use(header, folder, include=compiling.INCLUDE):
    """The flags that take the largest precompiled hub among what `header` includes."""
    inside = [compiling.precompiled(hub, folder) for hub in HUBS if hub in reached(header, include)]
    if not inside or compiling.defined(header):
        return ()
    return ("-Winvalid-pch", "-include", max(inside, key=lambda path: path.with_suffix(".hpp.gch").stat().st_size))


def chains(headers):
    """As few lists as there can be of all headers, in each of which a header includes the one before it: a matching of each
    header with one that it includes, made larger by augmenting paths."""
    before, after = {}, {}

    def match(header, seen):
        for other in sorted(reached(header) & set(headers)):
            if other not in seen:
                seen.add(other)
                if other not in after or match(after[other], seen):
                    before[header], after[other] = other, header
                    return True
        return False

    for header in sorted(headers, key=lambda header: -len(reached(header))):
        match(header, set())
    for header in headers:
        if header not in after:
            chain = [header]
            while chain[-1] in before:
                chain.append(before[chain[-1]])
            yield chain[::-1]


def alone(compiler, chain, folder, *more):
    flags = [*compiling.defined(chain[0]), *more, *use(chain[0], folder, *(pathlib.Path(path[2:]) for path in more))]
    source = "".join(f"#include <{header}>\n" * 2 for header in chain) + f'static_assert(false, "{END}");\n'
    text = compiling.check(compiler, source, "-Wfatal-errors", *flags)[1]
    first = next((line for line in text.split("\n") if "error:" in line), "")
    return [] if END in first else [f"{' or '.join(chain)}: does not compile alone with {compiler}\n{text[:2000]}"]


def shadows(compiler):
    """Of what meft.hpp includes: programs are built with -Wshadow."""
    status, text = compiling.check(compiler, "#include <meft/meft.hpp>\n", "-Wshadow")
    return [f"meft/meft.hpp: -Wshadow warns with {compiler}\n{text[:2000]}"] if status else []


def together(compiler, headers):
    status, text = compiling.check(compiler, "".join(f"#include <{header}>\n" for header in headers), "-DMEFT_CUDA")
    return [f"the headers do not compile together with {compiler}\n{text[:2000]}"] if status else []


# Text of a header, and whether it stands alone: the hubs must not give it what it does not include.
MADE_UP = [("#pragma once\n#include <meft/base/scalar.hpp>\ninline std::string name();\nusing X = meft::Tensor<float>;\n", False),
           ("#pragma once\n#include <meft/tensor/tensor.hpp>\nusing X = meft::Tensor<float>;\n", True),
           ("#pragma once\n#include <meft/tensor/tensor.hpp>\nusing X = meft::Var<float>;\n", False),
           ("#pragma once\n#include <meft/tensor/tensor.hpp>\nusing X = nlohmann::json;\n", False),
           ("#pragma once\n#include <meft/base/json.hpp>\nusing X = meft::Tensor<float>;\n", False),
           ("#pragma once\n#include <meft/autodiff/op.hpp>\nstruct Twice {};\nusing X = meft::Var<float>;\n", True),
           ("#include <meft/autodiff/op.hpp>\nstruct Twice {};\n", False)]


def self_test(folder):
    for number, (text, stands) in enumerate(MADE_UP):
        place = pathlib.Path(folder) / f"made{number}"
        (place / "meft").mkdir(parents=True)
        for inner in compiling.INCLUDE.joinpath("meft").iterdir():
            (place / "meft" / inner.name).symlink_to(inner)
        (place / "meft" / "made_up.hpp").write_text(text)
        found = alone(compiling.MAIN, ["meft/made_up.hpp"], folder, f"-I{place}")
        if bool(found) == stands:
            yield f"self-test {number}: {'refused' if found else 'not noticed'}:\n{text}{''.join(found)}"


def main():
    headers, others = compiling.headers(), compiling.others()
    if not headers:
        sys.exit("header_alone: found no header")
    print(f"{len(headers)} headers, alone with {compiling.MAIN}, together with {' and '.join(others) or 'no other'}")
    with tempfile.TemporaryDirectory() as folder:
        hubs = [hub for hub in HUBS if hub in headers]
        problems = [] if hubs == HUBS else ["HUBS names a header that is not there"]
        problems += compiling.each([functools.partial(precompile, hub, folder) for hub in hubs])
        if not problems:
            problems += self_test(folder)
            alike = {}  # flags -> headers that are compiled with them
            for header in headers:
                if header not in hubs:
                    alike.setdefault((*compiling.defined(header), *use(header, folder)), []).append(header)
            problems += compiling.each([functools.partial(together, compiler, headers) for compiler in others] +
                                       [functools.partial(shadows, compiler) for compiler in (compiling.MAIN, *others)] +
                                       [functools.partial(alone, compiling.MAIN, chain, folder)
                                        for group in alike.values() for chain in chains(group)])
    times = os.times()
    return compiling.report(problems, f"ok, {times.children_user + times.children_system:.0f} CPU seconds")


if __name__ == "__main__":
    sys.exit(main())
