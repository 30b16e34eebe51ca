"""Two translation units that include every header link into one program, so no header defines a symbol twice."""
import pathlib
import sys
import tempfile

import compiling


def link(everything, folder):
    """Compiles `everything` in two units and links them; returns (exit status, diagnostics)."""
    folder = pathlib.Path(folder)
    (folder / "one.cpp").write_text(everything + "int two();\nint main() { return two(); }\n")
    (folder / "two.cpp").write_text(everything + "int two() { return 0; }\n")
    return compiling.run(compiling.MAIN, *compiling.FLAGS, "-DMEFT_CUDA", "-O0", folder / "one.cpp", folder / "two.cpp",
                         "-o", folder / "program", "-lutf8proc", "-ljpeg", "-lpng")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        status, text = link("void not_inline() {}\n", folder)
        if status == 0 or "multiple definition" not in text:
            sys.exit(f"two_tus: a function that is not inline was not noticed:\n{text}")
        status, text = link("".join(f"#include <{header}>\n" for header in compiling.headers()), folder)
        if status == 0:
            status, text = compiling.run(pathlib.Path(folder) / "program")
    sys.exit(compiling.report([text] if status else []))
