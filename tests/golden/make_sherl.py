"""Writes golden/sherl beside this script: SHERL's network as PyTorch computes it, token by token of a batch, densely.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_sherl.py [FOLDER]
random.safetensors: tanh(γ/0.1)·h_m is added; backbone.safetensors: h_m. Each holds the taps h.0 … h.3, what meft calls the parameters,
`out`, and grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from arXiv 2407.07523, without dropout.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file

WIDTH, INNER, BELOW, TOKENS = 6, 5, 3, 12


def sherl(p, h):
    norm = lambda x, at: torch.nn.functional.layer_norm(x, x.shape[-1:], p[at + ".weight"], p[at + ".bias"], 1e-5)
    dense = lambda x, at: x @ p[at + ".weight"].T + p[at + ".bias"]
    *t, a = [norm(dense(x, f"taps.{i}.dense"), f"taps.{i}.norm") for i, x in enumerate(h)]
    alike = [sum(torch.relu(torch.cosine_similarity(x, y, dim=-1)) for y in t) for x in t]
    c = [torch.relu(dense(x * a, "gate"))[:, 0] / rho for x, rho in zip(t, alike)]
    total = sum(c) + 1e-12
    mixed = a + sum((share / total)[:, None] * x for share, x in zip(c, t))
    out = norm(dense(torch.relu(mixed), "output"), "norm")
    return out + (torch.tanh(p["residual"] / 0.1) if "residual" in p else 1) * h[-1]


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "sherl"
    folder.mkdir(exist_ok=True)
    for residual in (False, True):
        torch.manual_seed(23 + residual)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        linears = [(f"taps.{i}.dense", WIDTH, INNER) for i in range(BELOW + 1)] + [("gate", INNER, 1), ("output", INNER, WIDTH)]
        norms = [(f"taps.{i}.norm", INNER) for i in range(BELOW + 1)] + [("norm", WIDTH)]
        p = {"residual": 0.1 * draw(1)} if residual else {}
        for name, inputs, outputs in linears: p |= {name + ".weight": draw(outputs, inputs), name + ".bias": draw(outputs)}
        for name, width in norms: p |= {name + ".weight": draw(width), name + ".bias": draw(width)}
        for tensor in p.values(): tensor.requires_grad_()
        taps = [draw(TOKENS, WIDTH) for _ in range(BELOW + 1)]
        out, up = sherl(p, taps), draw(TOKENS, WIDTH)
        (out * up).sum().backward()
        tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
        tensors |= {f"h.{i}": x for i, x in enumerate(taps)} | {"out": out.detach(), "up": up}
        save_file(tensors, folder / ("random.safetensors" if residual else "backbone.safetensors"))


if __name__ == "__main__":
    main()
