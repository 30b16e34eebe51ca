"""Writes what Hugging Face transformers computes for small random decoders that meft makes of a description alone.

make_decoders.py [FOLDER]      needs torch and transformers (made with 2.15 and 5.24); FOLDER is by default this one

A case is a folder decoder_NAME with the files of a language model's case in make_families.py, and no config.json:
  decoder_stablelm  layer norm, biases of queries, keys and values alone, position in a half of each head's features
  decoder_ernie     interleaved pairs, tanh's GELU in the gate, one head of keys
Everything is computed in float64, angles too, which transformers has in float32.
"""
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

import float64  # transformers in double

LENGTHS = (5, 2, 9, 7)
SIZES = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, intermediate_size=24, max_position_embeddings=24,
             pad_token_id=1, bos_token_id=2, eos_token_id=2, tie_word_embeddings=True)
rope = lambda theta, **more: dict(rope_parameters=dict(rope_type="default", rope_theta=theta, **more))

CASES = {
    "stablelm": (hf.StableLmForCausalLM,
                 hf.StableLmConfig(**SIZES, num_attention_heads=2, num_key_value_heads=2, use_qkv_bias=True,
                                   **rope(10000.0, partial_rotary_factor=0.5))),
    "ernie": (hf.Ernie4_5ForCausalLM,
              hf.Ernie4_5Config(**SIZES, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                                hidden_act="gelu_pytorch_tanh", use_bias=False, **rope(500000.0))),
}


def random_model(seed, kind, config):
    """Every tensor random, biases and norms too."""
    config._attn_implementation = "eager"
    model = kind(config).double().eval()
    for module in model.modules():
        if hasattr(module, "inv_freq"):  # computed in float32
            at = torch.arange(len(module.inv_freq)) / len(module.inv_freq)
            module.inv_freq = 1 / config.rope_parameters["rope_theta"] ** at
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            mean = 1.0 if p.dim() == 1 and name.endswith("norm.weight") else 0.0
            p.copy_(mean + 0.3 * torch.randn(*p.shape, generator=generator))
    return model


def save(path, tensors):
    save_file({name: (t.detach() if t.is_floating_point() else float64.to(t, torch.int32)).contiguous().clone()
               for name, t in tensors.items()}, str(path))
    path.chmod(0o644)


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    for seed, (name, (kind, config)) in enumerate(CASES.items(), start=2):
        model, target = random_model(seed, kind, config), root / f"decoder_{name}"
        target.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(100 + seed)
        rows = [torch.randint(3, config.vocab_size, (n,), generator=generator) for n in LENGTHS]
        offsets = torch.tensor([sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)])
        pad = lambda xs: torch.nn.utils.rnn.pad_sequence(xs, batch_first=True, padding_value=1)
        mask = pad([torch.full((n,), 2) for n in LENGTHS]) - 1  # 1 for a token, 0 for padding
        labels = torch.cat([torch.cat([row[1:], torch.tensor([-100])]) for row in rows])
        out = model(input_ids=pad(rows), attention_mask=mask, output_hidden_states=True)
        real, counted = mask.bool(), labels != -100
        loss = torch.nn.functional.cross_entropy(out.logits[real][counted], labels[counted])
        loss.backward()
        parameters = dict(model.named_parameters())
        save(target / "model.safetensors", parameters)
        save(target / "gradients.safetensors", {n: p.grad for n, p in parameters.items()})
        save(target / "plain.safetensors", dict(ids=torch.cat(rows), offsets=offsets, labels=labels,
                                                hidden=out.hidden_states[-1][real], loss=loss.reshape(1)))


main()
