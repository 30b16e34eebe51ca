"""Writes what PyPI's `peft` computes for (IA)³ and LoRA on models of this folder, in float64, on padded batches.

make_peft.py [FOLDER]      needs torch, transformers and peft (made with 2.15, 5.24 and 0.21); FOLDER is by default this one

The model and the batch are those of a case of make_bert.py or make_families.py. Beside them it writes
  ia3.safetensors   peft's IA3Model: its vectors, under meft's names and none of them one, hidden (what the head reads, without
                    padding), logits, loss, and gradient.NAME of each vector and of the head
  lora.safetensors  the same of peft's LoraModel, rank 3, alpha 6, of query and value
  peft_ia3, peft_lora  folders that peft's save_pretrained wrote of the same values
peft's `feedforward_modules` scale the input of a block's second linear layer: meft's hidden_scale. Its own choice of modules
for BERT, `output.dense`, would scale the attention's output too, which the paper does not: they are given here in full.
"""
import pathlib
import re
import sys

import torch
from peft import IA3Config, IA3Model, LoraConfig, LoraModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# transformers computes OPT's probabilities in float32.
softmax = torch.nn.functional.softmax
torch.nn.functional.softmax = lambda x, *args, dtype=None, **kwargs: softmax(x, *args, **kwargs)

CASES = {  # folder: (key and value, second linear layer, query and value)
    "bert": (r".*attention\.self\.(key|value)", r".*layer\.\d+\.output\.dense", r".*attention\.self\.(query|value)"),
    "opt": (r".*\.(k_proj|v_proj)", r".*\.fc2", r".*\.(q_proj|v_proj)"),
    "bart": (r".*\.(k_proj|v_proj)", r".*\.fc2", r".*\.(q_proj|v_proj)"),
}
HEADS = ("bert.pooler", "classifier", "classification_head", "score")


def configs(folder):
    factors, second, updated = CASES[folder]
    return {
        "ia3": (IA3Model, IA3Config(target_modules=f"{factors}|{second}", feedforward_modules=second)),
        "lora": (LoraModel, LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=updated)),
    }


def meft_name(name, prefix):
    """Of a tensor that peft added."""
    name = name.removeprefix("model.").removeprefix(prefix)
    if name.endswith(".ia3_l.default"):
        place = name.removesuffix(".ia3_l.default")
        hidden = re.sub(r"\.(output\.dense|fc2)$", ".hidden_scale", place)
        return hidden if hidden != place else place + ".scale"
    return name.replace(".default.weight", ".weight")


def padded(rows, value):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def batch_of(plain, config):
    """-> what transformers takes, mask of real tokens."""
    offsets = plain["offsets"].tolist()
    cut = lambda name: [plain[name][a:b].long() for a, b in zip(offsets, offsets[1:])]
    rows = cut("ids")
    taken = dict(input_ids=padded(rows, config.pad_token_id), attention_mask=padded([torch.ones_like(r) for r in rows], 0))
    if config.model_type == "bert": taken["token_type_ids"] = padded(cut("token_types"), 0)
    return taken, taken["attention_mask"].bool()


def results(model, taken, real):
    out = model(**taken, output_hidden_states=True)
    hidden = out.decoder_hidden_states if hasattr(out, "decoder_hidden_states") else out.hidden_states
    return dict(hidden=hidden[-1][real], logits=out.logits)


def write_method(folder, seed, name, kind, config):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    plain = load_file(folder / "plain.safetensors")
    taken, real = batch_of(plain, model.config)
    target = plain["labels"].long()
    out = results(model, taken, real)
    for key in ("logits", "hidden"):
        if key not in plain: continue
        error = (out[key] - plain[key]).norm() / plain[key].norm()
        if error > 1e-12: sys.exit(f"{folder.name}: without a method {key} differs from plain.safetensors by {error:.1e}")

    prefix = model.base_model_prefix + "."
    tuned = kind(model, config, "default").double().eval()
    generator, added = torch.Generator().manual_seed(seed), {}
    with torch.no_grad():
        for place, p in sorted(tuned.named_parameters()):
            if not p.requires_grad: continue
            p.copy_((1.0 if name == "ia3" else 0.0) + 0.3 * torch.randn(*p.shape, generator=generator))
            added[meft_name(place, prefix)] = p
    wanted = dict(added)
    for place, p in model.named_parameters():
        if place.startswith(HEADS):
            p.requires_grad_(True)
            wanted[place.removeprefix("bert.")] = p

    out = results(tuned, taken, real)
    loss = torch.nn.functional.cross_entropy(out["logits"], target)
    grads = torch.autograd.grad(loss, list(wanted.values()))
    flat = lambda t: t.detach().flatten() if name == "ia3" else t.detach()
    tensors = {place: flat(p) for place, p in added.items()}
    tensors |= {"gradient." + place: flat(g) if place in added else g for place, g in zip(wanted, grads)}
    tensors |= dict(out, loss=loss.reshape(1))
    path = folder / f"{name}.safetensors"
    save_file({key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}, str(path))
    path.chmod(0o644)
    write_adapter(folder, name, config, added, prefix)


def write_adapter(folder, name, config, added, prefix):
    """As peft's users save one. Of every head all parts are among modules_to_save."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    heads = [place for place, _ in model.named_children() if place in HEADS] + ["pooler"] * hasattr(model.base_model, "pooler")
    config = type(config)(**{key: value for key, value in config.to_dict().items() if key in ("r", "lora_alpha", "lora_dropout", "target_modules",
                                                                                         "feedforward_modules")}, modules_to_save=heads)
    tuned = get_peft_model(model, config).double()
    with torch.no_grad():
        for place, p in tuned.named_parameters():
            if p.requires_grad and "modules_to_save" not in place: p.copy_(added[meft_name(place.removeprefix("base_model."), prefix)])
    tuned.peft_config["default"].base_model_name_or_path = "the folder above"
    out = folder / f"peft_{name}"
    tuned.save_pretrained(out)
    (out / "README.md").unlink()
    for path in out.iterdir(): path.chmod(0o644)


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for number, folder in enumerate(CASES):
        for more, (name, (kind, config)) in enumerate(configs(folder).items()):
            write_method(root / folder, 7000 + 10 * number + more, name, kind, config)


main()
