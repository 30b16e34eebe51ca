"""Writes golden/fpt.safetensors beside this script: FPT+'s network as PyTorch computes it.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_fpt.py [FOLDER]
Two images of nine tokens, two layers. It holds of each layer q.I, k.I and v.I [18, 6], the queries, keys and values of a frozen one,
h [18, 6], what comes out of the last, cells [8, 4], the patches of the smaller images, what meft calls the parameters, `out`, and
grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from the formulas in method/fpt.hpp; a probability matrix is dense,
keys are ranked by the means of its columns.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file

IMAGES, TOKENS, WIDTH, HEADS, LAYERS, PROMPTS, SHARE = 2, 9, 6, 2, 2, 3, 0.4
CELLS, CELL, INNER, HEAD, HIDDEN = 4, 4, 3, 2, 4  # of the side: patches of an image, their features, widths


def heads(x): return x.unflatten(-1, (HEADS, -1)).transpose(-2, -3)  # [.., heads, tokens, head width]
def joined(x): return x.transpose(-2, -3).flatten(-2)


def probabilities(q, k): return (heads(q) @ heads(k).mT / (q.shape[-1] / HEADS) ** 0.5).softmax(-1)


def kept(q, k, v):
    means, count = probabilities(q, k).mean(-2), int(SHARE * TOKENS)
    order = means.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(dim=-1).values[..., None]
    return [joined(torch.take_along_dim(heads(x), order, -2)) for x in (k, v)]


def network(p, frozen, h, cells):
    linear = lambda x, at: x @ p[at + ".weight"].T + p[at + ".bias"]
    norm = lambda x, at: torch.nn.functional.layer_norm(x, x.shape[-1:], p[at + ".weight"], p[at + ".bias"], 1e-12)
    s = torch.cat([p["class_token"].expand(IMAGES, 1, INNER), linear(cells.reshape(IMAGES, CELLS, CELL), "patches")], 1) + p["position"]
    for i, qkv in enumerate(frozen):
        prompts, (k, v) = p["prompts"].reshape(LAYERS, PROMPTS, WIDTH)[i], kept(*qkv)
        c = joined(probabilities(norm(prompts, "prompt_norm").expand(IMAGES, PROMPTS, WIDTH), k) @ heads(v)) + prompts
        s, at = torch.cat([s, linear(c, "prompt_down")], 1), f"layer.{i}."
        x = norm(s, at + "n")
        s = s + linear(joined(probabilities(linear(x, at + "q"), linear(x, at + "k")) @ heads(linear(x, at + "v"))), at + "o")
        s = s + linear(torch.nn.functional.gelu(linear(norm(s, at + "m"), at + "u")), at + "d")
        s = s[:, :-PROMPTS]
    h = h.reshape(IMAGES, TOKENS, WIDTH)
    return torch.cat([h[:, :1] + linear(norm(s[:, :1], "norm"), "up"), h[:, 1:]], 1).reshape(-1, WIDTH)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    torch.manual_seed(41)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
    p = {"class_token": draw(1, INNER), "position": draw(1 + CELLS, INNER), "prompts": draw(LAYERS * PROMPTS, WIDTH)}
    linears = {"patches": (CELL, INNER), "prompt_down": (WIDTH, INNER), "up": (INNER, WIDTH)}
    norms = {"prompt_norm": WIDTH, "norm": INNER}
    for i in range(LAYERS):
        linears |= {f"layer.{i}.{name}": (INNER, HEADS * HEAD) for name in "qkv"}
        linears |= {f"layer.{i}.o": (HEADS * HEAD, INNER), f"layer.{i}.u": (INNER, HIDDEN), f"layer.{i}.d": (HIDDEN, INNER)}
        norms |= {f"layer.{i}.{name}": INNER for name in "nm"}
    for at, (inputs, outputs) in linears.items(): p |= {at + ".weight": draw(outputs, inputs), at + ".bias": draw(outputs)}
    for at, width in norms.items(): p |= {at + ".weight": draw(width), at + ".bias": draw(width)}
    for tensor in p.values(): tensor.requires_grad_()
    frozen = [[draw(IMAGES, TOKENS, WIDTH) for _ in range(3)] for _ in range(LAYERS)]
    h, cells, up = draw(IMAGES * TOKENS, WIDTH), draw(IMAGES * CELLS, CELL), draw(IMAGES * TOKENS, WIDTH)
    out = network(p, frozen, h, cells)
    (out * up).sum().backward()
    tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
    tensors |= {f"{name}.{i}": x.reshape(-1, WIDTH) for i, qkv in enumerate(frozen) for name, x in zip("qkv", qkv)}
    tensors |= {"h": h, "cells": cells, "out": out.detach(), "up": up}
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "fpt.safetensors")


if __name__ == "__main__":
    main()
