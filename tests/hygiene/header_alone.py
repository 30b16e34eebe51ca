"""Each header of the library compiles alone, and twice in a row, without a warning.

With the main compiler every header alone, with the others all headers in one go: that takes half as long.
"""
import functools
import sys

import compiling


def alone(compiler, header):
    status, text = compiling.check(compiler, f"#include <{header}>\n#include <{header}>\n", *compiling.defined(header))
    return [f"{header}: does not compile alone with {compiler}\n{text[:2000]}"] if status else []


def together(compiler, headers):
    status, text = compiling.check(compiler, "".join(f"#include <{header}>\n" for header in headers), "-DMEFT_CUDA")
    return [f"the headers do not compile together with {compiler}\n{text[:2000]}"] if status else []


if __name__ == "__main__":
    headers, others = compiling.headers(), compiling.others()
    if not headers:
        sys.exit("header_alone: found no header")
    print(f"{len(headers)} headers, alone with {compiling.MAIN}, together with {' and '.join(others) or 'no other'}")
    sys.exit(compiling.each([functools.partial(together, compiler, headers) for compiler in others] +
                            [functools.partial(alone, compiling.MAIN, header) for header in headers]))
