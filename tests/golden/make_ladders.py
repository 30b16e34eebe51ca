"""Writes golden/ladders beside this script: LST's and QST's network as PyTorch computes it, one sequence after the other, densely.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_ladders.py [FOLDER]
lst.safetensors: `out` takes the place of h_L; lst_added.safetensors: it is added; qst.safetensors: they are mixed. Each holds the taps
h.0 … h.3, what meft calls the parameters, `out`, and grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from arXiv
2206.06522, section 3, and 2401.07159, section 3, with layers as BERT's.
"""
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file

WIDTH, INNER, HEADS, HEAD, FFN, RANK, LAYERS, LENGTHS = 6, 3, 2, 2, 4, 2, 3, [4, 1, 7]


def ladder(p, h, kind):
    """h: the taps of one sequence, [tokens, WIDTH] each."""
    gelu = torch.nn.functional.gelu
    norm = lambda x, at: torch.nn.functional.layer_norm(x, [INNER], p[at + ".weight"], p[at + ".bias"], 1e-12)
    dense = lambda x, at: x @ p[at + ".weight"].T + p[at + ".bias"]

    def layer(x, at):
        q, k, v = (dense(x, f"{at}.{name}").view(-1, HEADS, HEAD).transpose(0, 1) for name in "qkv")
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(HEAD), -1) @ v
        x = norm(x + dense(mixed.transpose(0, 1).reshape(-1, HEADS * HEAD), f"{at}.o"), f"{at}.n")
        return norm(x + dense(gelu(dense(x, f"{at}.u")), f"{at}.d"), f"{at}.m")

    def down(i):
        at = f"down.{i}"
        return norm(dense(gelu(dense(h[i], at + ".first")), at + ".second"), at + ".norm") if kind == "qst" else dense(h[i], at)

    s = down(0)
    for i in range(LAYERS):
        q = torch.sigmoid(p["gates"][i] / (1 if kind == "qst" else 0.1))
        s = layer(q * s + (1 - q) * down(i + 1), f"layer.{i}")
    out = dense(norm(s, "norm"), "up")
    return {"lst": out, "lst_added": h[-1] + out, "qst": p.get("share", 0) * h[-1] + (1 - p.get("share", 0)) * out}[kind]


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "ladders"
    folder.mkdir(exist_ok=True)
    for number, kind in enumerate(("lst", "lst_added", "qst")):
        torch.manual_seed(19 + number)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        linears, norms = [("up", INNER, WIDTH)], ["norm"]
        for i in range(LAYERS + 1):
            if kind == "qst":
                linears += [(f"down.{i}.first", WIDTH, RANK), (f"down.{i}.second", RANK, INNER)]
                norms.append(f"down.{i}.norm")
            else: linears.append((f"down.{i}", WIDTH, INNER))
        for i in range(LAYERS):
            linears += [(f"layer.{i}.{name}", INNER, HEADS * HEAD) for name in "qkv"]
            linears += [(f"layer.{i}.o", HEADS * HEAD, INNER), (f"layer.{i}.u", INNER, FFN), (f"layer.{i}.d", FFN, INNER)]
            norms += [f"layer.{i}.n", f"layer.{i}.m"]
        p = {"gates": draw(LAYERS, INNER), "share": draw(1)} if kind == "qst" else {"gates": 0.1 * draw(LAYERS, 1)}
        for name, inputs, outputs in linears: p |= {name + ".weight": draw(outputs, inputs), name + ".bias": draw(outputs)}
        for name in norms: p |= {name + ".weight": draw(INNER), name + ".bias": draw(INNER)}
        for tensor in p.values(): tensor.requires_grad_()
        taps = [draw(sum(LENGTHS), WIDTH) for _ in range(LAYERS + 1)]
        out = torch.cat([ladder(p, h, kind) for h in zip(*[x.split(LENGTHS) for x in taps])])
        up = draw(sum(LENGTHS), WIDTH)
        (out * up).sum().backward()
        tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
        tensors |= {f"h.{i}": x for i, x in enumerate(taps)} | {"out": out.detach(), "up": up}
        save_file(tensors, folder / f"{kind}.safetensors")


if __name__ == "__main__":
    main()
