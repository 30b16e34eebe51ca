"""Two translation units that include every header link into one program, so no header defines a symbol twice.

They are one object and a copy of it in which `main` has another name.
"""
import pathlib
import sys
import tempfile

import compiling


def link(everything, folder):
    """Compiles `everything`, links it with itself; returns (exit status, diagnostics)."""
    folder = pathlib.Path(folder)
    (folder / "one.cpp").write_text(everything + "int main() { return 0; }\n")
    for command in ([compiling.MAIN, *compiling.FLAGS, "-DMEFT_CUDA", "-O0", "-c", folder / "one.cpp", "-o", folder / "one.o"],
                    ["objcopy", "--redefine-sym", "main=other", folder / "one.o", folder / "two.o"],
                    [compiling.MAIN, "-pthread", folder / "one.o", folder / "two.o", "-o", folder / "program", "-lutf8proc",
                     "-ljpeg", "-lpng"]):
        status, text = compiling.run(*command)
        if status:
            break
    return status, text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        status, text = link("void not_inline() {}\n", folder)
        if status == 0 or "multiple definition" not in text:
            sys.exit(f"two_tus: a function that is not inline was not noticed:\n{text}")
        status, text = link("".join(f"#include <{header}>\n" for header in compiling.headers()), folder)
        if status == 0:
            status, text = compiling.run(pathlib.Path(folder) / "program")
    sys.exit(compiling.report([text] if status else []))
