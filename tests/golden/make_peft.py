"""Writes what PyPI's `peft` computes for (IA)³, LoRA, prefixes and prompts on models of this folder, in float64, on padded
batches.

make_peft.py [FOLDER]      needs torch, transformers and peft (made with 2.15, 5.24 and 0.21); FOLDER is by default this one

The model and the batch are those of a case of make_bert.py or make_families.py. Beside them it writes
  ia3.safetensors   peft's IA3Model: its vectors, under meft's names and none of them one, hidden (what the head reads, without
                    padding), logits, loss, and gradient.NAME of each vector and of the head
  lora.safetensors  the same of peft's LoraModel, rank 3, alpha 6, of query and value
  lora_linear.safetensors  and of all linear layers that are inside the model's layers; ModernBERT's under peft's names, for meft
                    has updates of the parts of its Wqkv and Wi
  prefix.safetensors  keys and values before those of every attention, 3 rows each: put in front of them in transformers' own
                      attention. Where peft's PrefixTuningConfig (without projection) does the same, in all but the encoder of BART,
                      cross attention and images, both must be equal; tokens are given their own positions, which peft moves by 3
  prompt.safetensors  peft's PromptTuningConfig, 3 rows before the words (BART: the encoder's and the decoder's, images: before the
                      patches, by hand); the head reads what it reads without them
  ia3_default.safetensors  (IA)³ on the modules that peft chooses itself
  peft_ia3, peft_ia3_default, peft_lora, peft_lora_linear, peft_prefix, peft_prompt  folders that peft's save_pretrained wrote of the same values
peft's `feedforward_modules` scale the input of a block's second linear layer: meft's hidden_scale. Its own choice of modules is
another than the paper's, keys and values: for BERT `output.dense`, which is what attention's output layer reads too (meft's
attended_scale), for OPT queries and keys, for BART queries and values. In all but ia3_default they are given here in full.
"""
import pathlib
import re
import sys

import torch
from peft import IA3Config, IA3Model, LoraConfig, LoraModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_MODULES
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.models.bart.modeling_bart import shift_tokens_right

import float64  # transformers in double

CASES = {  # folder: (key and value, second linear layer, query and value)
    "bert": (r".*attention\.self\.(key|value)", r".*layer\.\d+\.output\.dense", r".*attention\.self\.(query|value)"),
    "opt": (r".*\.(k_proj|v_proj)", r".*\.fc2", r".*\.(q_proj|v_proj)"),
    "bart": (r".*\.(k_proj|v_proj)", r".*\.fc2", r".*\.(q_proj|v_proj)"),
}
LINEAR = {"bert": r".*layer\.\d+\..*(query|key|value|dense)", "mistral": r".*layers\.\d+\..*_proj",
          "modernbert": r".*layers\.\d+\..*(Wqkv|Wi|Wo)"}
HEADS = ("bert.pooler", "classifier", "classification_head", "score", "head.")


def configs(folder):
    lora = lambda updated: (LoraModel, LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=updated))
    linear = dict(lora_linear=lora(LINEAR[folder])) if folder in LINEAR else {}
    if folder not in CASES: return linear
    factors, second, updated = CASES[folder]
    default = dict(target_modules=IA3_MODULES[folder], feedforward_modules=IA3_FEEDFORWARD[folder])
    return {
        "ia3": (IA3Model, IA3Config(target_modules=f"{factors}|{second}", feedforward_modules=second)),
        "lora": lora(updated),
        "ia3_default": (IA3Model, IA3Config(**default)),
    } | linear


def meft_name(name, prefix):
    """Of a tensor that peft added."""
    name = name.removeprefix("model.").removeprefix(prefix)
    if name.endswith(".ia3_l.default"):
        place = name.removesuffix(".ia3_l.default")
        hidden = re.sub(r"\.attention\.output\.dense$", ".attended_scale", place)
        hidden = re.sub(r"\.(output\.dense|fc2)$", ".hidden_scale", hidden)
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
            p.copy_((1.0 if name.startswith("ia3") else 0.0) + 0.3 * torch.randn(*p.shape, generator=generator))
            added[meft_name(place, prefix)] = p
    wanted = dict(added)
    for place, p in model.named_parameters():
        if place.startswith(HEADS):
            p.requires_grad_(True)
            wanted[place.removeprefix("bert.")] = p

    out = results(tuned, taken, real)
    loss = torch.nn.functional.cross_entropy(out["logits"], target)
    grads = torch.autograd.grad(loss, list(wanted.values()))
    flat = lambda t: t.detach().flatten() if name.startswith("ia3") else t.detach()
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
    heads = [place for place, _ in model.named_children() if place in HEADS or place + "." in HEADS]
    heads += ["pooler"] * hasattr(model.base_model, "pooler")
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


# Prefixes and prompts.

VIRTUAL = ["bert", "opt", "bart", "qwen3", "vit"]
ROWS = 3


def load(folder):
    kind = AutoModelForImageClassification if folder.name == "vit" else AutoModelForSequenceClassification
    return kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()


def taken_by(folder, plain, config):
    if folder.name == "vit": return dict(pixel_values=plain["pixels"].double()), None
    taken, real = batch_of(plain, config)
    taken["position_ids"] = torch.arange(real.shape[1])[None].expand(real.shape)
    if folder.name == "bart": del taken["position_ids"]
    return taken, real


def rows_of(hidden, real):
    """Of each sequence its own."""
    return list(hidden) if real is None else [h[r] for h, r in zip(hidden, real)]


def head_of(folder, model, rows):
    """-> logits of the rows of each sequence."""
    if folder.name == "bert": return torch.stack([model.classifier(torch.tanh(model.bert.pooler.dense(r[0]))) for r in rows])
    if folder.name == "bart": return torch.stack([model.classification_head(r[-1]) for r in rows])
    if folder.name == "vit": return torch.stack([model.classifier(r[0]) for r in rows])
    return torch.stack([model.score(r[-1]) for r in rows])


def attentions(model):
    """-> meft's name of the prefix, module, number of the layer."""
    kind = lambda name: "cross" if "encoder_attn" in name else "attention"
    for name, module in model.base_model.named_modules():
        if hasattr(module, "k_proj") or hasattr(module, "key"):
            layer = re.match(r"(.*layers?\.(\d+))\.", name)
            yield f"{layer_name(model, layer[1])}.{kind(name)}_prefix", module, int(layer[2])


def layer_name(model, module):
    """In checkpoints."""
    return "encoder.layer." + module.removeprefix("layers.") if model.config.model_type == "vit" else module


def with_prefixes(model, prefixes):
    """transformers' attention, with keys and values of `prefixes`, by module, in front."""
    source = sys.modules[type(model).__module__]
    own = source.eager_attention_forward

    def forward(module, query, key, value, attention_mask=None, **more):
        heads = lambda rows, like: rows.view(ROWS, like.shape[1], -1).transpose(0, 1).expand(len(like), -1, -1, -1)
        k, v = prefixes[module]
        if attention_mask is not None: attention_mask = torch.nn.functional.pad(attention_mask, (ROWS, 0))
        return own(module, query, torch.cat((heads(k, key), key), 2), torch.cat((heads(v, value), value), 2), attention_mask, **more)

    source.eager_attention_forward = forward
    return lambda: setattr(source, "eager_attention_forward", own)


def write_virtual(folder, name, wanted, hidden, model, real, plain):
    rows = rows_of(hidden, real)
    logits = head_of(folder, model, rows)
    loss = torch.nn.functional.cross_entropy(logits, plain["labels"].long())
    added = dict(wanted)
    for place, p in model.named_parameters():
        if place.startswith(HEADS): wanted[place.removeprefix("bert.")] = p.requires_grad_(True)
    grads = torch.autograd.grad(loss, list(wanted.values()))
    tensors = dict(added)
    tensors |= {"gradient." + place: g for place, g in zip(wanted, grads)}
    tensors |= dict(hidden=torch.cat(rows), logits=logits, loss=loss.reshape(1))
    path = folder / f"{name}.safetensors"
    save_file({key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}, str(path))
    path.chmod(0o644)


def require_equal(what, a, b):
    error = (a - b).norm() / b.norm()
    if error > 1e-12: sys.exit(f"{what}: differs by {error:.1e}")


def write_prefix(folder, seed):
    model, plain = load(folder), load_file(folder / "plain.safetensors")
    taken, real = taken_by(folder, plain, model.config)
    with torch.no_grad():
        rows = rows_of(model.base_model(**taken)[0], real)
        if "hidden" in plain: require_equal(f"{folder.name}: hidden without a prefix", torch.cat(rows), plain["hidden"])
        require_equal(f"{folder.name}: logits without a prefix", head_of(folder, model, rows), plain["logits"])
    generator, wanted, prefixes, numbered = torch.Generator().manual_seed(seed), {}, {}, []
    for place, module, number in attentions(model):
        key = module.k_proj if hasattr(module, "k_proj") else module.key
        pair = [(0.7 * torch.randn(ROWS, key.out_features, generator=generator)).requires_grad_(True) for _ in range(2)]
        wanted |= {place + ".key": pair[0], place + ".value": pair[1]}
        prefixes[module] = pair
        numbered.append(pair)
    restore = with_prefixes(model, prefixes)
    hidden = model.base_model(**taken)[0]
    restore()
    if folder.name not in ("bart", "vit"):
        own = dict(token_dim=12, num_attention_heads=2) if folder.name == "qwen3" else {}  # its heads are not as wide as peft thinks
        tuned = get_peft_model(load(folder), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=ROWS, **own)).double().eval()
        with torch.no_grad():
            weight = tuned.prompt_encoder["default"].embedding.weight
            weight.copy_(torch.cat([rows for pair in numbered for rows in pair], 1))
            mask = torch.nn.functional.pad(taken["attention_mask"], (ROWS, 0), value=1)
            theirs = tuned.base_model.base_model(**{**taken, "attention_mask": mask, "past_key_values": tuned.get_prompt(len(mask))})[0]
        require_equal(f"{folder.name}: peft's hidden", theirs[real], hidden[real])
    write_virtual(folder, "prefix", wanted, hidden, model, real, plain)


def write_prompt(folder, seed):
    model, plain = load(folder), load_file(folder / "plain.safetensors")
    taken, real = taken_by(folder, plain, model.config)
    generator = torch.Generator().manual_seed(seed)
    new = lambda width: (0.7 * torch.randn(ROWS, width, generator=generator)).requires_grad_(True)
    width = model.config.hidden_size
    before = lambda rows, x: torch.cat((rows.expand(len(x), -1, -1), x), 1)
    longer = lambda mask: torch.nn.functional.pad(mask, (ROWS, 0), value=1)
    if folder.name == "vit":
        wanted = dict(virtual_tokens=new(width))
        x = before(wanted["virtual_tokens"], model.vit.embeddings(taken["pixel_values"]))
        for layer in list(model.vit.modules()):
            if type(layer).__name__ == "ViTLayer": x = layer(x) if torch.is_tensor(layer(x)) else layer(x)[0]
        hidden = model.vit.layernorm(x)
    elif folder.name == "bart":
        wanted = dict(virtual_tokens=new(width), decoder_virtual_tokens=new(width))
        shifted = shift_tokens_right(taken["input_ids"], model.config.pad_token_id, model.config.decoder_start_token_id)
        words = model.model.shared
        hidden = model.model(inputs_embeds=before(wanted["virtual_tokens"], words(taken["input_ids"])), attention_mask=longer(taken["attention_mask"]),
                             decoder_inputs_embeds=before(wanted["decoder_virtual_tokens"], words(shifted)))[0]
    else:
        tuned = get_peft_model(model, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=ROWS)).double().eval()
        wanted = dict(virtual_tokens=tuned.prompt_encoder["default"].embedding.weight)
        with torch.no_grad(): wanted["virtual_tokens"].copy_(new(width))
        del taken["position_ids"]
        hidden = tuned(**taken, output_hidden_states=True).hidden_states[-1]
        model = load(folder)  # without peft's copies of the head
    write_virtual(folder, "prompt", wanted, hidden[:, ROWS:], model, real, plain)


def write_joined(folder, name):
    """As peft's users save a prefix or a prompt: the values of NAME.safetensors."""
    model, own = load(folder), load_file(folder / f"{name}.safetensors")
    heads = [place for place, _ in model.named_children() if place in HEADS] + ["pooler"] * hasattr(model.base_model, "pooler")
    kind = dict(prefix=PrefixTuningConfig, prompt=PromptTuningConfig)[name]
    columns = ["virtual_tokens"] if name == "prompt" else [f"{place}.{part}" for place, *_ in attentions(model) for part in ("key", "value")]
    tuned = get_peft_model(model, kind(task_type="SEQ_CLS", num_virtual_tokens=ROWS, modules_to_save=heads)).double()
    with torch.no_grad(): tuned.prompt_encoder["default"].embedding.weight.copy_(torch.cat([own[place] for place in columns], 1))
    tuned.peft_config["default"].base_model_name_or_path = "the folder above"
    out = folder / f"peft_{name}"
    tuned.save_pretrained(out)
    (out / "README.md").unlink()
    for path in out.iterdir(): path.chmod(0o644)


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for number, folder in enumerate(dict.fromkeys([*CASES, *LINEAR])):
        for more, (name, (kind, config)) in enumerate(configs(folder).items()):
            write_method(root / folder, 7000 + 10 * number + more, name, kind, config)
    for number, folder in enumerate(VIRTUAL):
        write_prefix(root / folder, 7100 + number)
        write_prompt(root / folder, 7200 + number)
    for folder in ("bert", "opt"):
        for name in ("prefix", "prompt"): write_joined(root / folder, name)


if __name__ == "__main__": main()
