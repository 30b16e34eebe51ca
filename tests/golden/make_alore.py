"""Writes what ALoRE's equation gives on models of this folder, in float64: H = Σ_i A_i ⊗ (U_i V_i) is made whole, and what queries,
keys and values, the queries of cross attention, and the feed-forward block read becomes x + s·H·x.

make_alore.py [FOLDER]     needs what make_peft.py needs; writes alore.safetensors beside each model: the factors under meft's
names, hidden, logits, loss, and gradient.NAME of each factor and of the head.
"""
import pathlib
import re
import sys

import torch
from make_peft import layer_name, load, load_file, taken_by, write_virtual

TERMS, RANK, SCALE = 4, 2, 0.5
READERS = (r"(.*layers?\.\d+)\.(.*encoder_attn\.q_proj)$", "cross_map"), \
          (r"(.*layers?\.\d+)\.(.*(query|key|value)|self_attn\.[qkv]_proj|attention\.[qkv]_proj)$", "attention_map"), \
          (r"(.*layers?\.\d+)\.(.*intermediate\.dense|fc1|mlp\.(gate|up)_proj|mlp\.fc1)$", "mlp_map")


def write(folder, seed):
    model, plain = load(folder), load_file(folder / "plain.safetensors")
    taken, real = taken_by(folder, plain, model.config)
    generator, wanted = torch.Generator().manual_seed(seed), {}
    new = lambda *shape: (0.3 * torch.randn(*shape, generator=generator)).requires_grad_(True)
    for name, module in model.base_model.named_modules():
        for pattern, kind in READERS:
            found = re.match(pattern, name)
            if not found: continue
            place, part = f"{layer_name(model, found[1])}.{kind}.", module.in_features // TERMS
            if place + "down" not in wanted:
                wanted |= {place + "down": new(TERMS * RANK, part), place + "mix": new(TERMS, TERMS, TERMS), place + "up": new(part, TERMS * RANK)}
            down, mix, up = (wanted[place + end] for end in ("down", "mix", "up"))

            def before(_, inputs, down=down, mix=mix, up=up):
                terms = zip(mix, up.chunk(TERMS, 1), down.chunk(TERMS))
                whole = sum(torch.kron(a.T.contiguous(), u @ v) for a, u, v in terms)
                return (inputs[0] + SCALE * inputs[0] @ whole.T, *inputs[1:])
            module.register_forward_pre_hook(before)
            break
    write_virtual(folder, "alore", wanted, model.base_model(**taken)[0], model, real, plain)


if __name__ == "__main__":
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for number, name in enumerate(("bert", "bart", "qwen3", "vit")): write(root / name, 7300 + number)
