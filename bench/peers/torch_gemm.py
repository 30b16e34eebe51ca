"""Rates of PyTorch's own matrix products at the shapes of bench/gemm, in GFLOP/s.

    python torch_gemm.py --rows 264,2048 --shapes 768x768,768x3072,3072x768 --precision f32,bf16 --threads 2

`forward` is x·Wᵀ (torch.nn.functional.linear), `backward` dy·W, of the fastest of --runs calls after one that is not counted. In
bf16 both operands and the result are bf16, where meft takes and gives float.
"""
import argparse
import time

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}

def rate(operations, runs, call):
    call()
    least = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
    return operations / least * 1e-9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="264,2048", help="tokens a,b,c")
    parser.add_argument("--shapes", default="768x768,768x3072,3072x768", help="layers INxOUT,…")
    parser.add_argument("--precision", default="f32,bf16", help="f32, bf16 or both")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="all processors by default")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs: expected at least 1, found {args.runs}")
    if unknown := set(args.precision.split(",")) - set(DTYPES):
        parser.error(f"--precision: expected some of {', '.join(DTYPES)}, found {', '.join(sorted(unknown))}")
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; GFLOP/s")
    print(f"{'precision':9} {'rows':>6} {'in':>6} {'out':>6} {'forward':>9} {'backward':>9}")
    with torch.inference_mode():
        for precision in args.precision.split(","):
            dtype = DTYPES[precision]
            for shape in args.shapes.split(","):
                width, out = map(int, shape.split("x"))
                for rows in map(int, args.rows.split(",")):
                    weight, x, dy = (torch.randn(*size).to(dtype) for size in ((out, width), (rows, width), (rows, out)))
                    operations = 2.0 * rows * width * out
                    forward = rate(operations, args.runs, lambda: torch.nn.functional.linear(x, weight))
                    backward = rate(operations, args.runs, lambda: dy @ weight)
                    print(f"{precision:9} {rows:6} {width:6} {out:6} {forward:9.1f} {backward:9.1f}", flush=True)


if __name__ == "__main__":
    main()
