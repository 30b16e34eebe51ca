"""Writes golden/unipt beside this script: UniPT's network as PyTorch computes it, one sequence after the other, densely.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_unipt.py [FOLDER]
random.safetensors: `out` takes the place of h_L; backbone.safetensors: it is added. Each holds the taps h.0 … h.3, what meft calls the
parameters, `lengths`, `out`, and grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from arXiv 2308.14316, section 3.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file

WIDTH, INNER, LAYERS, LENGTHS = 6, 5, 3, [4, 1, 7]


def unipt(p, h, residual):
    """h: the taps of one sequence, [tokens, WIDTH] each."""
    norm = lambda x, at: torch.nn.functional.layer_norm(x, [INNER], p[at + ".weight"], p[at + ".bias"], 1e-5)
    dense = lambda x, at: x @ p[at + ".weight"].T + p[at + ".bias"]
    t = [norm(dense(x, f"taps.{i}.dense"), f"taps.{i}.norm") for i, x in enumerate(h)]
    a = t.pop()
    gates = torch.stack([(a.mean(0) * x.mean(0)) @ p["gate.weight"][0] for x in t])
    mixed = 0
    for q, x in zip(torch.softmax(gates, 0), t):
        weights = torch.relu(a @ x.T)
        sums = weights.sum(1, keepdim=True)
        A = torch.where(sums > 0, weights / sums.clamp(min=1e-300), 0 * weights) + torch.eye(len(x), dtype=x.dtype)
        mixed = mixed + q * (A @ x)
    out = dense(torch.relu(a + norm(dense(mixed, "mix"), "mix_norm")), "output")
    return h[-1] + out if residual else out


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "unipt"
    folder.mkdir(exist_ok=True)
    for residual in (False, True):
        torch.manual_seed(17 + residual)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        p = {"gate.weight": draw(1, INNER)}
        linears = [(f"taps.{i}.dense", WIDTH, INNER) for i in range(LAYERS + 1)] + [("mix", INNER, INNER), ("output", INNER, WIDTH)]
        for name, inputs, outputs in linears: p |= {name + ".weight": draw(outputs, inputs), name + ".bias": draw(outputs)}
        for name in [f"taps.{i}.norm" for i in range(LAYERS + 1)] + ["mix_norm"]: p |= {name + ".weight": draw(INNER), name + ".bias": draw(INNER)}
        for tensor in p.values(): tensor.requires_grad_()
        taps = [draw(sum(LENGTHS), WIDTH) for _ in range(LAYERS + 1)]
        parts = zip(*[x.split(LENGTHS) for x in taps])
        out, up = torch.cat([unipt(p, h, residual) for h in parts]), draw(sum(LENGTHS), WIDTH)
        (out * up).sum().backward()
        tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
        tensors |= {f"h.{i}": x for i, x in enumerate(taps)} | {"out": out.detach(), "up": up, "lengths": torch.tensor(LENGTHS, dtype=torch.int32)}
        save_file(tensors, folder / ("backbone.safetensors" if residual else "random.safetensors"))


if __name__ == "__main__":
    main()
