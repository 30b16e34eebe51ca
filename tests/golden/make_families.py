"""Writes what Hugging Face transformers computes for small random models of every family, plain and as MEFT1/2/3.

make_families.py [FOLDER [CASE...]]      needs torch and transformers (made with 2.15 and 5.24); FOLDER is by default this
                                         one, and all cases are written

A case is a folder: config.json and model.safetensors as transformers saves them, and
  plain.safetensors     ids, token_types, offsets, labels (or pixels, labels); hidden (what the head reads, without padding),
                        logits, loss. Language models have a label for each token, -100 where there is none, and no logits.
  gradients.safetensors the gradient of every tensor of model.safetensors, under its name there; of ModernBERT's Wqkv and Wi
                        those of their parts
  meftN.safetensors     adapters under meft's names, hidden, logits, loss, and gradient.NAME of each adapter and of the head.
                        Both streams start as the embedding; y1 = λ·x1 + F(x2), y2 = β·x2 + G(y1), with the paper's F, G, λ
                        and β, activations stored; the read-out is the average, for encoder and decoder each.
  meftN_scaled.safetensors  of OPT: the same with the read-out of its authors, the stream that carries the model plus a tenth of
                        the other
families.json lists the cases. Everything is computed in float64, on padded batches.
"""
import json
import pathlib
import sys

import torch
import transformers as hf
from safetensors import safe_open
from safetensors.torch import save_file

import float64  # transformers in double

BOTTLENECK = 3
LENGTHS = (5, 2, 9, 7)
PAD, EOS = 1, 2
NO_DROP = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
BERT = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=24, **NO_DROP)
OPT = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, dropout=0.0,
           max_position_embeddings=24, pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS)
BART = dict(vocab_size=40, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
            decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20, dropout=0.0, max_position_embeddings=24)
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=12, patch_size=4,
           **NO_DROP)
LLAMA = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
             intermediate_size=24, max_position_embeddings=24, rms_norm_eps=1e-5, pad_token_id=PAD, bos_token_id=EOS,
             eos_token_id=EOS)
MODERN = dict(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=12,
              max_position_embeddings=24, pad_token_id=0, bos_token_id=EOS, eos_token_id=EOS, cls_token_id=PAD,
              sep_token_id=EOS, local_attention=4)
T5 = dict(vocab_size=40, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0, decoder_start_token_id=0)
DECODERS = ("opt", "llama", "gemma3")
DINO = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=12, patch_size=4)

CASES = {  # folder: (family, model class, configuration, pixels or None)
    "roberta": ("roberta", hf.RobertaForSequenceClassification, hf.RobertaConfig(**BERT, type_vocab_size=1, num_labels=3), None),
    "roberta_lm": ("roberta", hf.RobertaForMaskedLM, hf.RobertaConfig(**BERT, type_vocab_size=1), None),
    "bert_lm": ("bert", hf.BertForMaskedLM, hf.BertConfig(**BERT, pad_token_id=0), None),
    "opt": ("opt", hf.OPTForSequenceClassification, hf.OPTConfig(**OPT, word_embed_proj_dim=16, num_labels=3), None),
    "opt_post": ("opt", hf.OPTForSequenceClassification,
                 hf.OPTConfig(**OPT, word_embed_proj_dim=8, do_layer_norm_before=False, num_labels=2), None),
    "opt_lm": ("opt", hf.OPTForCausalLM, hf.OPTConfig(**OPT, word_embed_proj_dim=16), None),
    "bart": ("bart", hf.BartForSequenceClassification, hf.BartConfig(**BART, num_labels=3), None),
    "bart_scaled": ("bart", hf.BartForSequenceClassification,
                    hf.BartConfig(**{**BART, "decoder_layers": 1}, scale_embedding=True, activation_function="relu",
                                  num_labels=2), None),
    "vit": ("vit", hf.ViTForImageClassification, hf.ViTConfig(**VIT, num_labels=3), (3, 3, 12, 12)),
    "vit_wide": ("vit", hf.ViTForImageClassification, hf.ViTConfig(**VIT, qkv_bias=False, num_labels=2), (2, 3, 16, 20)),
    "deit": ("vit", hf.DeiTForImageClassification, hf.DeiTConfig(**VIT, num_labels=3), (3, 3, 12, 12)),
    "dinov2": ("dinov2", hf.Dinov2ForImageClassification, hf.Dinov2Config(**DINO, num_labels=3), (2, 3, 8, 16)),
    "llama_lm": ("llama", hf.LlamaForCausalLM,
                 hf.LlamaConfig(**LLAMA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=dict(
                     rope_type="llama3", rope_theta=300.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=16)), None),
    "mistral": ("llama", hf.MistralForSequenceClassification,
                hf.MistralConfig(**LLAMA, sliding_window=3, num_labels=3,
                                 rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)), None),
    "qwen2": ("llama", hf.Qwen2ForSequenceClassification,
              hf.Qwen2Config(**{**LLAMA, "hidden_size": 24}, use_sliding_window=True, sliding_window=4,
                             max_window_layers=1, num_labels=2,
                             rope_parameters=dict(rope_type="yarn", rope_theta=40.0, factor=4.0, beta_fast=3.0,
                                                  original_max_position_embeddings=16)), None),
    "qwen3": ("llama", hf.Qwen3ForSequenceClassification,
              hf.Qwen3Config(**LLAMA, num_labels=3, rope_parameters=dict(rope_type="default", rope_theta=1000.0)), None),
    "mpnet": ("mpnet", hf.MPNetForSequenceClassification, hf.MPNetConfig(**BERT, num_labels=3), None),
    "gemma3": ("gemma3", hf.Gemma3TextForSequenceClassification,
               hf.Gemma3TextConfig(**LLAMA, num_labels=3, attention_bias=True, query_pre_attn_scalar=10, sliding_window=3,
                                   layer_types=["full_attention", "sliding_attention"], rope_parameters=dict(
                                       full_attention=dict(rope_type="linear", rope_theta=3000.0, factor=2.0),
                                       sliding_attention=dict(rope_type="default", rope_theta=100.0))), None),
    "gemma3_lm": ("gemma3", hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**LLAMA, sliding_window=4), None),
    "modernbert": ("modernbert", hf.ModernBertForSequenceClassification,
                   hf.ModernBertConfig(**MODERN, num_labels=3, attention_bias=True, mlp_bias=True, norm_bias=True,
                                       classifier_bias=True, classifier_pooling="mean", classifier_activation="relu",
                                       hidden_activation="silu", rope_parameters=dict(
                                           full_attention=dict(rope_type="default", rope_theta=3000.0),
                                           sliding_attention=dict(rope_type="default", rope_theta=100.0))), None),
    "modernbert_lm": ("modernbert", hf.ModernBertForMaskedLM, hf.ModernBertConfig(**MODERN), None),
    "t5": ("t5", hf.T5ForSequenceClassification, hf.T5Config(**T5, num_decoder_layers=1, num_labels=3), None),
    "t5_gated": ("t5", hf.T5ForSequenceClassification,
                 hf.T5Config(**{**T5, "num_layers": 1, "d_ff": 12}, num_decoder_layers=2, feed_forward_proj="gated-gelu", num_labels=2,
                             relative_attention_num_buckets=6, relative_attention_max_distance=5), None),
    "t5_lm": ("t5", hf.T5ForConditionalGeneration, hf.T5Config(**{**T5, "num_layers": 1}), None),
}


def normal(generator, *shape, std=0.3, mean=0.0):
    return mean + std * torch.randn(*shape, generator=generator)


def random_model(seed, kind, config):
    """Every tensor random, biases and norms too."""
    config._attn_implementation = "eager"
    model = kind(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            scale = p.dim() == 1 and name.endswith("weight") and "Gemma" not in type(model).__name__ or "lambda1" in name
            p.copy_(normal(generator, *p.shape, mean=1.0 if scale else 0.0))
            if name.endswith("Attention.q.weight"): p.mul_(config.d_kv ** -0.5)  # T5's, whose scores have no scale
    return model


def random_inputs(seed, family, model, pixels):
    """-> (what is saved, what transformers takes, mask of real tokens)."""
    generator = torch.Generator().manual_seed(seed)
    labels = model.config.num_labels
    if pixels:
        images = normal(generator, *pixels, std=1.0)
        images = images.float().double()  # as they are saved
        target = torch.arange(pixels[0]) % labels
        taken = dict(pixel_values=images)
        if family == "vit": taken["interpolate_pos_encoding"] = pixels[2:] != (12, 12)
        return dict(pixels=images, labels=target), taken, None
    language = type(model).__name__.endswith(("LM", "Generation"))
    rows = [torch.randint(3, model.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
    if family in ("bart", "t5"):
        for row in rows: row[-1] = model.config.eos_token_id
    offsets = torch.tensor([sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)])
    pad = lambda xs, value: torch.nn.utils.rnn.pad_sequence(xs, batch_first=True, padding_value=value)
    filler = model.config.pad_token_id if model.config.pad_token_id is not None else PAD
    taken = dict(input_ids=pad(rows, filler), attention_mask=pad([torch.ones(n, dtype=torch.long) for n in LENGTHS], 0))
    types = [torch.zeros(n, dtype=torch.long) for n in LENGTHS]
    if family == "bert":
        types = [(torch.arange(n) >= (n + 1) // 2).long() for n in LENGTHS]
        taken["token_type_ids"] = pad(types, 0)
    if language and family == "t5": taken["decoder_input_ids"] = model._shift_right(taken["input_ids"])
    if language and family in DECODERS:  # the label of a token is the next one
        target = torch.cat([torch.cat([row[1:], torch.tensor([-100])]) for row in rows])
    elif language:
        target = torch.cat(rows)
        target[torch.rand(len(target), generator=generator) < 0.6] = -100
    else: target = torch.arange(len(LENGTHS)) % labels
    saved = dict(ids=torch.cat(rows), token_types=torch.cat(types), offsets=offsets, labels=target)
    return saved, taken, taken["attention_mask"].bool()


def backbone(model):
    return getattr(model, model.base_model_prefix, model)


class Parts:
    """The pieces of a family's layer, as transformers has them, so that an adapter can go between."""

    def __init__(self, family, model, real):
        self.family, self.model, self.base, self.real = family, model, backbone(model), real
        self.config = model.config

    def mask(self, causal, window=None):
        """Additive, [batch, 1, queries, keys]; of a window those less far away."""
        if self.real is None: return None
        n = self.real.shape[1]
        seen = self.real[:, None, None, :].expand(-1, 1, n, n)
        if causal: seen = seen & torch.ones(n, n, dtype=torch.bool).tril()
        if window: seen = seen & torch.ones(n, n, dtype=torch.bool).triu(1 - window).tril(window - 1)
        return torch.where(seen, 0.0, torch.finfo(torch.float64).min)

    def attend(self, layer, x, causal, side=None, adapter=None):
        """The attention block, with cross attention where `side` is given."""
        extra = lambda t: t + adapter(t) if adapter else t
        mask = self.mask(causal)
        if self.family in ("bert", "roberta"):
            t = layer.attention.output.dense(layer.attention.self(x, mask)[0])
            return layer.attention.output.LayerNorm(x + extra(t))
        if self.family == "llama":
            window = layer.self_attn.sliding_window if "qwen" in self.config.model_type else getattr(self.config, "sliding_window", None)
            position = self.base.rotary_emb(x, torch.arange(x.shape[1])[None])
            return x + extra(layer.self_attn(layer.input_layernorm(x), position_embeddings=position,
                                             attention_mask=self.mask(True, window))[0])
        if self.family == "mpnet":
            bias = self.base.encoder.compute_position_bias(x)
            return layer.attention.LayerNorm(x + extra(layer.attention.attn(x, mask, bias)[0]))
        if self.family == "t5":
            stack, own = self.base.decoder if causal else self.base.encoder, layer.layer[0]
            bias = stack.block[0].layer[0].SelfAttention.compute_bias(x.shape[1], x.shape[1])
            h = x + extra(own.SelfAttention(own.layer_norm(x), mask=mask, position_bias=bias)[0])
            if side is None: return h
            cross = layer.layer[1]
            return h + cross.EncDecAttention(cross.layer_norm(h), mask=self.mask(False), key_value_states=side)[0]
        if self.family == "gemma3":
            position = self.base.rotary_emb(x, torch.arange(x.shape[1])[None], layer.self_attn.layer_type)
            return x + extra(layer.post_attention_layernorm(layer.self_attn(
                layer.input_layernorm(x), position_embeddings=position,
                attention_mask=self.mask(True, layer.self_attn.sliding_window))[0]))
        if self.family == "modernbert":
            position = self.base.rotary_emb(x, torch.arange(x.shape[1])[None], layer.attention_type)
            return x + extra(layer.attn(layer.attn_norm(x), position_embeddings=position,
                                        attention_mask=self.mask(False, layer.attn.sliding_window))[0])
        if self.family == "vit": return x + extra(layer.attention(layer.layernorm_before(x))[0])
        if self.family == "dinov2": return x + extra(layer.layer_scale1(layer.attention(layer.norm1(x))[0]))
        if self.family == "opt" and self.config.do_layer_norm_before:
            return x + extra(layer.self_attn(layer.self_attn_layer_norm(x), attention_mask=mask)[0])
        h = layer.self_attn_layer_norm(x + extra(layer.self_attn(x, attention_mask=mask)[0]))
        if side is None: return h
        t = layer.encoder_attn(h, key_value_states=side, attention_mask=self.mask(False))[0]
        return layer.encoder_attn_layer_norm(h + t)

    def feed(self, layer, h, adapter=None):
        """The feed-forward block; the adapter reads what the block reads."""
        extra = lambda x: adapter(x) if adapter else 0
        if self.family in ("bert", "roberta", "mpnet"):
            u = layer.output.dense(layer.intermediate(h))
            return layer.output.LayerNorm(h + u + extra(h))
        if self.family == "vit":
            n = layer.layernorm_after(h)
            return h + layer.mlp(n) + extra(n)
        if self.family == "dinov2":
            n = layer.norm2(h)
            return h + layer.layer_scale2(layer.mlp(n)) + extra(n)
        if self.family == "llama":
            n = layer.post_attention_layernorm(h)
            return h + layer.mlp(n) + extra(n)
        if self.family == "gemma3":
            n = layer.pre_feedforward_layernorm(h)
            return h + layer.post_feedforward_layernorm(layer.mlp(n)) + extra(n)
        if self.family == "t5":
            n = layer.layer[-1].layer_norm(h)
            return h + layer.layer[-1].DenseReluDense(n) + extra(n)
        if self.family == "modernbert":
            n = layer.mlp_norm(h)
            return h + layer.mlp(n) + extra(n)
        mlp = lambda x: layer.fc2(layer.activation_fn(layer.fc1(x)))
        if self.family == "opt" and self.config.do_layer_norm_before:
            n = layer.final_layer_norm(h)
            return h + mlp(n) + extra(n)
        return layer.final_layer_norm(h + mlp(h) + extra(h))

    def stacks(self):
        """[(layers, causal, their name in meft)]."""
        if self.family == "bart":
            return [(self.base.encoder.layers, False, "encoder.layers"), (self.base.decoder.layers, True, "decoder.layers")]
        if self.family == "t5":
            return [(self.base.encoder.block, False, "encoder.block"), (self.base.decoder.block, True, "decoder.block")]
        if self.family == "opt": return [(self.base.decoder.layers, True, "decoder.layers")]
        if self.family in ("llama", "gemma3"): return [(self.base.layers, True, "layers")]
        if self.family == "modernbert": return [(self.base.layers, False, "layers")]
        layers = self.base.layers if hasattr(self.base, "layers") else self.base.encoder.layer
        return [(layers, False, "encoder.layer")]

    def embeddings(self, taken):
        """What enters the first layer of each stack, as transformers computes it."""
        seen = {}

        def keep(module, args, kwargs, i):
            seen[i] = args[0] if args else kwargs["hidden_states"]

        hooks = [layers[0].register_forward_pre_hook(lambda *given, i=i: keep(*given, i), with_kwargs=True)
                 for i, (layers, _, _) in enumerate(self.stacks())]
        with torch.no_grad(): self.model(**taken)
        for hook in hooks: hook.remove()
        return [seen[i].detach() for i in range(len(hooks))]

    def between(self, hidden):
        """What the decoder's layers read of the encoder's output."""
        return self.base.encoder.final_layer_norm(hidden) if self.family == "t5" else hidden

    def finish(self, hidden):
        if self.family == "t5": hidden = self.base.decoder.final_layer_norm(hidden)
        if self.family == "opt":
            decoder = self.base.decoder
            if decoder.final_layer_norm is not None: hidden = decoder.final_layer_norm(hidden)
            if decoder.project_out is not None: hidden = decoder.project_out(hidden)
        if self.family in ("llama", "gemma3"): hidden = self.base.norm(hidden)
        if self.family == "modernbert": hidden = self.base.final_norm(hidden)
        if self.family in ("vit", "dinov2"): hidden = self.base.layernorm(hidden)
        return hidden

    def logits(self, hidden):
        m = self.model
        if self.family in ("roberta", "mpnet"): return m.classifier(hidden)
        if self.family == "modernbert":
            mean = torch.stack([x[:n].mean(0) for x, n in zip(hidden, LENGTHS)])
            return m.classifier(m.head(mean if self.config.classifier_pooling == "mean" else hidden[:, 0]))
        if self.family == "vit": return m.classifier(hidden[:, 0])
        if self.family == "dinov2": return m.classifier(torch.cat([hidden[:, 0], hidden[:, 1:].mean(1)], 1))
        last = hidden[torch.arange(len(LENGTHS)), torch.tensor(LENGTHS) - 1]
        return m.score(last) if self.family in DECODERS else m.classification_head(last)

    def activation(self):
        names = ("dense_act_fn", "hidden_act", "hidden_activation", "activation_function")
        name = next(getattr(self.config, n) for n in names if hasattr(self.config, n))
        return hf.activations.ACT2FN[name]


class Adapter:
    def __init__(self, generator, width, act):
        self.act = act
        self.tensors = {"down.weight": normal(generator, BOTTLENECK, width), "down.bias": normal(generator, BOTTLENECK),
                        "up.weight": normal(generator, width, BOTTLENECK), "up.bias": normal(generator, width)}
        for t in self.tensors.values(): t.requires_grad_(True)

    def __call__(self, x):
        t = self.tensors
        return self.act(x @ t["down.weight"].T + t["down.bias"]) @ t["up.weight"].T + t["up.bias"]


def reversible(parts, number, method, generator, x, adapters, side=None, scaled=False):
    """Runs stack `number` and adds its adapters' tensors to `adapters`."""
    layers, causal, name = parts.stacks()[number]
    x1 = x2 = x
    for i, layer in enumerate(layers):
        make = lambda: Adapter(generator, x.shape[-1], parts.activation())
        mlp, other = make(), make()
        place = "attention_adapter" if method == "meft3" else "reversible_adapter"
        for which, adapter in (("mlp_adapter", mlp), (place, other)):
            for key, tensor in adapter.tensors.items(): adapters[f"{name}.{i}.{which}.{key}"] = tensor
        whole = lambda v: parts.feed(layer, parts.attend(layer, v, causal, side), mlp)
        if method == "meft3":
            y1 = 0.1 * x1 + parts.attend(layer, x2, causal, side, other)
            x1, x2 = y1, 0.1 * x2 + parts.feed(layer, y1, mlp)
        elif method == "meft1":
            y1 = 0.1 * x1 + whole(x2)
            x1, x2 = x2 + other(y1), y1
        else:
            y1 = x1 + other(x2)
            x1, x2 = 0.1 * x2 + whole(y1), y1
    if scaled: return x1 + 0.1 * x2 if method == "meft2" else x2 + 0.1 * x1  # the last whole layer's result comes first
    return (x1 + x2) / 2


def check_close(what, a, b):
    error = ((a - b).norm() / b.norm()).item()
    if error > 1e-12: sys.exit(f"{what}: differs from transformers by {error:.1e}")


def save(path, tensors):
    ready = {name: (t.detach() if t.is_floating_point() else t.to(torch.int32)).clone(memory_format=torch.contiguous_format)
             for name, t in tensors.items()}
    save_file(ready, str(path))
    path.chmod(0o644)


def saved_names(model, path):
    """Name in the file of each parameter: the one with its values."""
    with safe_open(path, "pt") as file: tensors = {name: file.get_tensor(name) for name in file.keys()}
    out = {}
    for name, p in model.named_parameters():
        same = [n for n, t in tensors.items() if t.shape == p.shape and torch.equal(t, p.detach())]
        if len(same) != 1: sys.exit(f"{name}: {len(same)} tensors of the file have its values")
        out[name] = same[0]
    return out


def in_parts(gradients):
    """With the parts of matrices that stand for several of meft's."""
    parts = {"attn.Wqkv": ("attn.query", "attn.key", "attn.value"), "mlp.Wi": ("mlp.gate", "mlp.up")}
    out = {}
    for name, g in gradients.items():
        fused = [f for f in parts if f + "." in name]
        if not fused: out[name] = g
        for f in fused:
            for part, rows in zip(parts[f], g.chunk(len(parts[f]))): out[name.replace(f, part)] = rows
    return out


def write_case(target, seed, family, kind, config, pixels):
    model = random_model(seed, kind, config)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    for extra in ("generation_config.json",): (target / extra).unlink(missing_ok=True)
    (target / "model.safetensors").chmod(0o644)
    saved, taken, real = random_inputs(100 + seed, family, model, pixels)
    parts, language = Parts(family, model, real), kind.__name__.endswith(("LM", "Generation"))
    rows = lambda hidden: hidden.flatten(0, 1) if real is None else hidden[real]

    # Plain.
    model.zero_grad()
    start, stacks = parts.embeddings(taken), parts.stacks()
    out = model(**taken, output_hidden_states=True)
    if language:
        logits = out.logits[real]
        counted = saved["labels"] != -100
        loss = torch.nn.functional.cross_entropy(logits[counted], saved["labels"][counted])
        plain = dict(loss=loss.reshape(1))
    else:
        loss = torch.nn.functional.cross_entropy(out.logits, saved["labels"])
        plain = dict(logits=out.logits, loss=loss.reshape(1))
    loss.backward()
    names = saved_names(model, target / "model.safetensors")
    gradients = {names[n]: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    hidden, side = None, None
    for number, (layers, causal, _) in enumerate(stacks):
        hidden = start[number]
        for layer in layers: hidden = parts.feed(layer, parts.attend(layer, hidden, causal, side))
        side = parts.between(hidden)
    hidden = parts.finish(hidden)
    if not language: check_close(f"{target.name} logits", parts.logits(hidden), out.logits)
    plain["hidden"] = rows(hidden)
    save(target / "plain.safetensors", {**saved, **plain})
    save(target / "gradients.safetensors", in_parts(gradients))

    # MEFT.
    if language: return
    files = [(number, method, scaled) for scaled in ((False, True) if family == "opt" else (False,))
             for number, method in enumerate(("meft1", "meft2", "meft3"))]
    for number, method, scaled in files:
        generator, adapters, side = torch.Generator().manual_seed(1000 * seed + number), {}, None
        for which in range(len(stacks)):
            last = reversible(parts, which, method, generator, start[which], adapters, side, scaled)
            side = parts.between(last)
        hidden = parts.finish(last)
        logits = parts.logits(hidden)
        loss = torch.nn.functional.cross_entropy(logits, saved["labels"])
        head = {n: p for n, p in model.named_parameters() if n.startswith(("classifier", "classification_head", "score", "head."))}
        wanted = {**adapters, **head}
        grads = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
        named = {"gradient." + name: g for name, g in zip(wanted, grads)}
        save(target / f"{method}{'_scaled' if scaled else ''}.safetensors",
             {**adapters, **named, "hidden": rows(hidden), "logits": logits, "loss": loss.reshape(1)})


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    listed = []
    for seed, (folder, (family, kind, config, pixels)) in enumerate(CASES.items(), start=1):
        if folder in (sys.argv[2:] or CASES): write_case(root / folder, seed, family, kind, config, pixels)
        listed.append(dict(folder=folder, model=config.model_type, language=kind.__name__.endswith(("LM", "Generation"))))
    rows = ",\n".join("  " + json.dumps(row) for row in listed)
    (root / "families.json").write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
