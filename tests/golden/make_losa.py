"""Writes golden/losa beside this script: LoSA's network as PyTorch computes it.

Made with Python 3.11, torch 2.15.0 (CPU), safetensors:
    pip install torch numpy safetensors && python tests/golden/make_losa.py [FOLDER]
images.safetensors: three sequences of four tokens, which are mixed; texts.safetensors: channels alone. Each holds the taps h.0 … h.3,
what meft calls the parameters, `out`, and grad.NAME, the gradients of Σ out ⊙ up of the parameters. Written from the formulas in
method/losa.hpp.
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file

WIDTH, RANK, LAYERS, TOKENS, SEQUENCES = 6, 2, 3, 4, 3


def losa(p, h, images):
    def mixer(x, at, axis):
        z = torch.nn.functional.layer_norm(x, x.shape[-1:], p[at + ".norm.weight"], p[at + ".norm.bias"], 1e-5)
        z = z.transpose(-1, axis)
        for part in ("down", "up"):
            z = z @ p[f"{at}.{part}.weight"].T + p[f"{at}.{part}.bias"]
            z = torch.nn.functional.gelu(z) if part == "down" else z
        return z.transpose(-1, axis) * p[at + ".scale"]
    h = [x.reshape(SEQUENCES, TOKENS, WIDTH) for x in h]
    y = torch.zeros_like(h[0])
    for i in range(LAYERS):
        z = h[i + 1] + y
        g = mixer(z, f"layers.{i}.channels", -1)
        if images: g = g + mixer(z + g, f"layers.{i}.tokens.0", -2)
        y = y + g
    return (h[-1] + y).reshape(-1, WIDTH)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "losa"
    folder.mkdir(exist_ok=True)
    for images in (False, True):
        torch.manual_seed(31 + images)
        draw = lambda *shape: torch.randn(*shape, dtype=torch.float64)
        p = {}
        for i in range(LAYERS):
            for name, axis in [("channels", WIDTH)] + [("tokens.0", TOKENS)] * images:
                at = f"layers.{i}.{name}"
                for part, inputs, outputs in (("down", axis, RANK), ("up", RANK, axis)):
                    p |= {f"{at}.{part}.weight": draw(outputs, inputs), f"{at}.{part}.bias": draw(outputs)}
                p |= {f"{at}.norm.weight": draw(WIDTH), f"{at}.norm.bias": draw(WIDTH), f"{at}.scale": draw(WIDTH)}
        for tensor in p.values(): tensor.requires_grad_()
        taps = [draw(SEQUENCES * TOKENS, WIDTH) for _ in range(LAYERS + 1)]
        out, up = losa(p, taps, images), draw(SEQUENCES * TOKENS, WIDTH)
        (out * up).sum().backward()
        tensors = {name: x.detach() for name, x in p.items()} | {f"grad.{name}": x.grad for name, x in p.items()}
        tensors |= {f"h.{i}": x for i, x in enumerate(taps)} | {"out": out.detach(), "up": up}
        save_file({name: x.contiguous() for name, x in tensors.items()}, folder / ("images.safetensors" if images else "texts.safetensors"))


if __name__ == "__main__":
    main()
