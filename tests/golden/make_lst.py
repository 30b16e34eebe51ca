"""Writes golden/lst beside this script: ladder side tuning's network as PyTorch computes it, one sequence after the other, densely.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_lst.py [FOLDER]
random.safetensors: `out` takes the place of h_L; backbone.safetensors: it is added. Each holds the taps h.0 … h.3, what meft calls the
parameters, `out`, and grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from arXiv 2206.06522, section 3, with
layers as BERT's.
"""
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

WIDTH, INNER, HEADS, HEAD, FFN, LAYERS, LENGTHS = 6, 3, 2, 2, 4, 3, [4, 1, 7]


def ladder(p, h, residual):
    """h: the taps of one sequence, [tokens, WIDTH] each."""
    norm = lambda x, at: torch.nn.functional.layer_norm(x, [INNER], p[at + ".weight"], p[at + ".bias"], 1e-12)
    dense = lambda x, at: x @ p[at + ".weight"].T + p[at + ".bias"]

    def layer(x, at):
        q, k, v = (dense(x, f"{at}.{name}").view(-1, HEADS, HEAD).transpose(0, 1) for name in "qkv")
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(HEAD), -1) @ v
        x = norm(x + dense(mixed.transpose(0, 1).reshape(-1, HEADS * HEAD), f"{at}.o"), f"{at}.n")
        return norm(x + dense(torch.nn.functional.gelu(dense(x, f"{at}.u")), f"{at}.d"), f"{at}.m")

    s = dense(h[0], "down.0")
    for i in range(LAYERS):
        q = torch.sigmoid(p["gates"][i] / 0.1)
        s = layer(q * s + (1 - q) * dense(h[i + 1], f"down.{i + 1}"), f"layer.{i}")
    out = dense(norm(s, "norm"), "up")
    return h[-1] + out if residual else out


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "lst"
    folder.mkdir(exist_ok=True)
    for residual in (False, True):
        torch.manual_seed(19 + residual)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        linears = [(f"down.{i}", WIDTH, INNER) for i in range(LAYERS + 1)] + [("up", INNER, WIDTH)]
        norms = ["norm"]
        for i in range(LAYERS):
            linears += [(f"layer.{i}.{name}", INNER, HEADS * HEAD) for name in "qkv"]
            linears += [(f"layer.{i}.o", HEADS * HEAD, INNER), (f"layer.{i}.u", INNER, FFN), (f"layer.{i}.d", FFN, INNER)]
            norms += [f"layer.{i}.n", f"layer.{i}.m"]
        p = {"gates": 0.1 * draw(LAYERS)}
        for name, inputs, outputs in linears: p |= {name + ".weight": draw(outputs, inputs), name + ".bias": draw(outputs)}
        for name in norms: p |= {name + ".weight": draw(INNER), name + ".bias": draw(INNER)}
        for tensor in p.values(): tensor.requires_grad_()
        taps = [draw(sum(LENGTHS), WIDTH) for _ in range(LAYERS + 1)]
        out = torch.cat([ladder(p, h, residual) for h in zip(*[x.split(LENGTHS) for x in taps])])
        up = draw(sum(LENGTHS), WIDTH)
        (out * up).sum().backward()
        tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
        tensors |= {f"h.{i}": x for i, x in enumerate(taps)} | {"out": out.detach(), "up": up}
        save_file(tensors, folder / ("backbone.safetensors" if residual else "random.safetensors"))


if __name__ == "__main__":
    main()
