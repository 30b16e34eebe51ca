#!/usr/bin/env python3
"""Compares the time to compile a meft program of a few lines with that of an empty program that includes Eigen/Core.

compile_time.py [--compiler g++] [--runs 5] [--limit 2.5]: prints the least processor time of
the runs and the ratio; over the limit it fails.
"""
import argparse
import pathlib
import resource
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
EIGEN = "#include <Eigen/Core>\nint main() {}\n"
MEFT = (ROOT / "tests/consumer/main.cpp").read_text()


def seconds(compiler, source):
    command = [compiler, "-std=c++20", "-O2", f"-I{ROOT / 'include'}", "-isystem", "/usr/include/eigen3", "-c",
               "-x", "c++", "-", "-o", "/dev/null"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input=source, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.5)
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs: expected at least 1, found {args.runs}")
    runs = [(seconds(args.compiler, EIGEN), seconds(args.compiler, MEFT)) for _ in range(args.runs)]
    eigen, meft = (min(column) for column in zip(*runs))
    print(f"{args.compiler}: Eigen {eigen:.2f} s, meft {meft:.2f} s: {meft / eigen:.2f} times (limit {args.limit})")
    sys.exit(meft > args.limit * eigen)
