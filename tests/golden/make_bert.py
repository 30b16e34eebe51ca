"""Writes the golden BERT files beside this script: small random models, what Hugging Face computes with them, and MEFT.

Made with Python 3.11, torch 2.15.0 (CPU), transformers 5.24.0, safetensors 0.8.0:
    pip install torch transformers safetensors && python tests/golden/make_bert.py [FOLDER]
Seeds are fixed; another version of torch may change the last bits. Floating point is float64, indices are int32.

A folder for each model: bert (gelu, 2 labels), bert_gelu_new (tanh gelu, 2 labels, layer_norm_eps 1e-6) and
bert_regression (gelu, one label):
  config.json, model.safetensors   as BertForSequenceClassification.save_pretrained writes them
  plain.safetensors                the batch and the plain model's values by transformers (eager attention, eval mode):
      ids, token_types [tokens]                   packed: sequence i is rows offsets[i] .. offsets[i + 1]
      offsets [batch + 1], labels [batch]
      padded_ids, padded_token_types, attention_mask [batch, longest]    what transformers was given
      embedding, layers.N.hidden [tokens, hidden] no padding rows
      pooled [batch, hidden], logits [batch, labels]
      loss [1]                                    cross entropy, or MSE when there is one label
  gradients.safetensors            dloss / dparameter of every parameter, under the parameter's own name
  meftM_X1_X2_READOUT[_norm].safetensors   MEFT1/2/3 with stored activations, plain autograd, no dropout

Names in a MEFT file. x1_factor and x2_factor (λ and β) are 1-element tensors. The metadata's one key, "case", is JSON
that tells them again as fractions, with method, readout and what each adapter is. The adapter that F uses is
layers.N.f_adapter, the one that G uses is layers.N.g_adapter:
         f_adapter                                 g_adapter
  meft1  parallel to the FFN of the PLM layer      the reversible adapter, alone
  meft2  the reversible adapter, alone             parallel to the FFN of the PLM layer
  meft3  added to the attention output             parallel to the FFN
Each has down.weight [bottleneck, hidden], down.bias, up.weight [hidden, bottleneck], up.bias; in the _norm files the
reversible one has norm.weight and norm.bias too (a LayerNorm of its input). The rest:
  readout.alpha [1]            only with readout mix: alpha·plm + (1 - alpha)·other
  streams.N.x1, streams.N.x2   the two streams leaving layer N, after the swap of meft1 and meft2; only in files with
                               the paper's factors and the average. PLM stream: x2 (meft1, meft3), x1 (meft2).
  hidden, pooled, logits, loss after the read-out
  gradient.NAME                of each adapter tensor, readout.alpha, bert.pooler.dense.*, classifier.*, and of the
                               embedding output that starts both streams (gradient.embedding). With read-out plm nothing
                               reaches the last g_adapter of meft1: its gradient is zero.
cases.json lists every MEFT file.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

LENGTHS = (5, 1, 9, 12)
BOTTLENECK = 5
SHAPE = dict(vocab_size=60, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
             max_position_embeddings=32, type_vocab_size=2, pad_token_id=0)
MODELS = {
    "bert": dict(hidden_act="gelu", num_labels=2),
    "bert_gelu_new": dict(hidden_act="gelu_new", num_labels=2, layer_norm_eps=1e-6),
    "bert_regression": dict(hidden_act="gelu", num_labels=1),
}
PAPER_FACTORS = {"meft1": ("1/10", "1"), "meft2": ("1", "1/10"), "meft3": ("1/10", "1/10")}
QUARTER_FACTORS = {"meft1": ("1/4", "1"), "meft2": ("1", "1/4"), "meft3": ("1/4", "1/4")}
REVERSIBLE_ADAPTER = {"meft1": "g_adapter", "meft2": "f_adapter", "meft3": None}
ADAPTER_PLACE = {
    "meft1": {"f_adapter": "parallel to the FFN", "g_adapter": "reversible, alone"},
    "meft2": {"f_adapter": "reversible, alone", "g_adapter": "parallel to the FFN"},
    "meft3": {"f_adapter": "added to the attention output", "g_adapter": "parallel to the FFN"},
}


def normal(generator, *shape, std=0.3, mean=0.0):
    return mean + std * torch.randn(*shape, generator=generator)


def random_model(seed, options):
    """A BERT whose every tensor is random, biases and norms too, wide enough that no signal is trivial."""
    dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = BertConfig(**SHAPE, **dropout, **options, attn_implementation="eager")
    model = BertForSequenceClassification(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            is_norm_scale = name.endswith("LayerNorm.weight")
            parameter.copy_(normal(generator, *parameter.shape, mean=1.0 if is_norm_scale else 0.0))
    return model


def random_batch(seed, labels):
    """Ragged sequences: packed, and padded as transformers wants them. No real token is the padding token."""
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(1, SHAPE["vocab_size"], (n,), generator=generator) for n in LENGTHS]
    types = [(torch.arange(n) >= (n + 1) // 2).long() for n in LENGTHS]
    offsets = torch.tensor([sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)])
    target = normal(generator, len(LENGTHS), std=1.0) if labels == 1 else torch.tensor([0, 1, 1, 0])
    pad = lambda rows: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = pad([torch.ones(n, dtype=torch.long) for n in LENGTHS])
    return dict(ids=torch.cat(sequences), token_types=torch.cat(types), offsets=offsets, labels=target,
                padded_ids=pad(sequences), padded_token_types=pad(types), attention_mask=mask)


def plain_values(model, batch):
    """What transformers computes from the padded batch, without the padding rows."""
    model.zero_grad()
    out = model(input_ids=batch["padded_ids"], token_type_ids=batch["padded_token_types"],
                attention_mask=batch["attention_mask"], labels=batch["labels"], output_hidden_states=True)
    out.loss.backward()
    real = batch["attention_mask"].bool()
    values = {"embedding": out.hidden_states[0][real]}
    for number, hidden in enumerate(out.hidden_states[1:]):
        values[f"layers.{number}.hidden"] = hidden[real]
    values["pooled"] = model.bert.pooler(out.hidden_states[-1])
    values.update(logits=out.logits, loss=out.loss.reshape(1))
    return values, {name: parameter.grad for name, parameter in model.named_parameters()}


class PackedBert:
    """The formulas of BERT on packed rows: attention sequence by sequence, everything else row by row."""

    def __init__(self, model, batch):
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.config, self.batch = model.config, batch
        self.spans = list(zip(batch["offsets"][:-1].tolist(), batch["offsets"][1:].tolist()))
        tanh = "tanh" if self.config.hidden_act == "gelu_new" else "none"
        self.act = lambda x: torch.nn.functional.gelu(x, approximate=tanh)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def standardize(self, x, scale, shift):
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + self.config.layer_norm_eps) * scale + shift

    def norm(self, x, name):
        return self.standardize(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def embedding(self):
        tables = "bert.embeddings."
        positions = torch.cat([torch.arange(end - begin) for begin, end in self.spans])
        rows = (self.weights[tables + "word_embeddings.weight"][self.batch["ids"]]
                + self.weights[tables + "position_embeddings.weight"][positions]
                + self.weights[tables + "token_type_embeddings.weight"][self.batch["token_types"]])
        return self.norm(rows, tables + "LayerNorm")

    def attention_block(self, number, x, adapter=None):
        """norm(x + t + adapter(t)), t the attention output after its dense."""
        at = f"bert.encoder.layer.{number}.attention."
        heads = self.config.num_attention_heads
        split = lambda rows: rows.unflatten(-1, (heads, -1)).transpose(0, 1)
        query, key, value = (split(self.linear(x, at + "self." + name)) for name in ("query", "key", "value"))
        mixed = []
        for begin, end in self.spans:
            q, k, v = (part[:, begin:end] for part in (query, key, value))
            scores = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1]**0.5, dim=-1)
            mixed.append((scores @ v).transpose(0, 1).flatten(1))
        t = self.linear(torch.cat(mixed), at + "output.dense")
        return self.norm(x + t + (adapter(t) if adapter else 0), at + "output.LayerNorm")

    def ffn_block(self, number, x, adapter=None):
        """norm(x + ffn(x) + adapter(x))."""
        at = f"bert.encoder.layer.{number}."
        t = self.linear(self.act(self.linear(x, at + "intermediate.dense")), at + "output.dense")
        return self.norm(x + t + (adapter(x) if adapter else 0), at + "output.LayerNorm")

    def layer(self, number, x, ffn_adapter=None):
        return self.ffn_block(number, self.attention_block(number, x), ffn_adapter)

    def head(self, hidden):
        pooled = torch.tanh(self.linear(hidden[self.batch["offsets"][:-1]], "bert.pooler.dense"))
        logits = self.linear(pooled, "classifier")
        if self.config.num_labels == 1:
            loss = ((logits.squeeze(-1) - self.batch["labels"])**2).mean()
        else:
            loss = -torch.log_softmax(logits, -1)[range(len(logits)), self.batch["labels"]].mean()
        return dict(pooled=pooled, logits=logits, loss=loss.reshape(1))


class Adapter:
    """linear to the bottleneck, the model's activation, linear back; with a norm of its input where it has one."""

    def __init__(self, bert, generator, with_norm):
        hidden = bert.config.hidden_size
        self.bert = bert
        shapes = {"down.weight": (BOTTLENECK, hidden), "down.bias": (BOTTLENECK,),
                  "up.weight": (hidden, BOTTLENECK), "up.bias": (hidden,)}
        self.tensors = {name: normal(generator, *shape) for name, shape in shapes.items()}
        if with_norm:
            self.tensors["norm.weight"] = normal(generator, hidden, mean=1.0)
            self.tensors["norm.bias"] = normal(generator, hidden)

    def __call__(self, x):
        t = self.tensors
        if "norm.weight" in t:
            x = self.bert.standardize(x, t["norm.weight"], t["norm.bias"])
        return self.bert.act(x @ t["down.weight"].T + t["down.bias"]) @ t["up.weight"].T + t["up.bias"]


def fraction(text):
    top, _, bottom = text.partition("/")
    return int(top) / int(bottom or 1)


class Meft:
    """Both streams start as the embedding; y1 = λ·x1 + F(x2), y2 = β·x2 + G(y1); meft1 and meft2 hand on (y2, y1)."""

    def __init__(self, method, bert, factors, readout, with_norm, seed):
        generator = torch.Generator().manual_seed(seed)
        self.method, self.bert, self.readout = method, bert, readout
        self.x1_factor, self.x2_factor = map(fraction, factors)
        self.adapters = [{place: Adapter(bert, generator, with_norm and place == REVERSIBLE_ADAPTER[method])
                          for place in ("f_adapter", "g_adapter")} for _ in range(bert.config.num_hidden_layers)]
        self.parameters = {f"layers.{n}.{place}.{name}": tensor for n, pair in enumerate(self.adapters)
                           for place, adapter in pair.items() for name, tensor in adapter.tensors.items()}
        if readout == "mix":
            self.parameters["readout.alpha"] = torch.tensor([0.7])

    def f(self, n, x):
        adapter = self.adapters[n]["f_adapter"]
        if self.method == "meft1": return self.bert.layer(n, x, adapter)
        if self.method == "meft2": return adapter(x)
        return self.bert.attention_block(n, x, adapter)

    def g(self, n, x):
        adapter = self.adapters[n]["g_adapter"]
        if self.method == "meft1": return adapter(x)
        if self.method == "meft2": return self.bert.layer(n, x, adapter)
        return self.bert.ffn_block(n, x, adapter)

    def run(self):
        """-> (values, gradients)."""
        embedding = self.bert.embedding().detach().requires_grad_(True)
        heads = {name: t for name, t in self.bert.weights.items() if name.startswith(("bert.pooler.", "classifier."))}
        wanted = {**self.parameters, **heads, "embedding": embedding}
        for tensor in wanted.values():
            tensor.requires_grad_(True)

        values, x1, x2 = {}, embedding, embedding
        for n in range(len(self.adapters)):
            y1 = self.x1_factor * x1 + self.f(n, x2)
            y2 = self.x2_factor * x2 + self.g(n, y1)
            x1, x2 = (y1, y2) if self.method == "meft3" else (y2, y1)
            values[f"streams.{n}.x1"], values[f"streams.{n}.x2"] = x1, x2
        plm, other = (x1, x2) if self.method == "meft2" else (x2, x1)
        if self.readout == "average": hidden = (x1 + x2) / 2
        elif self.readout == "plm": hidden = plm
        else:
            alpha = self.parameters["readout.alpha"]
            hidden = alpha * plm + (1 - alpha) * other
        values["hidden"] = hidden
        values.update(self.bert.head(hidden))
        gradients = torch.autograd.grad(values["loss"].sum(), list(wanted.values()), materialize_grads=True)
        return values, dict(zip(wanted, gradients))


def meft_cases():
    """(method, factors, readout, with_norm): each method with each pair of factors, and each read-out once."""
    for method, paper in PAPER_FACTORS.items():
        pairs = list(dict.fromkeys([paper, *PAPER_FACTORS.values(), QUARTER_FACTORS[method]]))
        yield from ((method, pair, "average", False) for pair in pairs)
        yield from ((method, paper, readout, False) for readout in ("plm", "mix"))
        if REVERSIBLE_ADAPTER[method]: yield method, paper, "average", True


def check_close(what, a, b):
    error = ((a - b).norm() / b.norm()).item()
    if error > 1e-12: sys.exit(f"{what}: packed and transformers differ by {error:.1e}")


def save(path, tensors, metadata=None):
    """Indices become int32."""
    number = lambda t: t.detach() if t.is_floating_point() else t.to(torch.int32)
    ready = {name: number(t).clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(ready, str(path), metadata=metadata)
    path.chmod(0o644)
    if path.stat().st_size > 400_000: sys.exit(f"{path} is larger than 400 kB")


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    listed = []
    for seed, (folder, options) in enumerate(MODELS.items(), start=1):
        target = root / folder
        target.mkdir(parents=True, exist_ok=True)
        model, batch = random_model(seed, options), random_batch(100 + seed, options["num_labels"])
        model.save_pretrained(target)
        (target / "model.safetensors").chmod(0o644)
        values, gradients = plain_values(model, batch)
        save(target / "plain.safetensors", {**batch, **values})
        save(target / "gradients.safetensors", gradients)

        bert = PackedBert(model, batch)
        hidden = bert.embedding()
        check_close(f"{folder} embedding", hidden, values["embedding"])
        for n in range(model.config.num_hidden_layers):
            hidden = bert.layer(n, hidden)
            check_close(f"{folder} layer {n}", hidden, values[f"layers.{n}.hidden"])
        for name, value in bert.head(hidden).items(): check_close(f"{folder} {name}", value, values[name])

        for number, (method, factors, readout, with_norm) in enumerate(meft_cases()):
            paper_average = factors == PAPER_FACTORS[method] and readout == "average" and not with_norm
            if folder != "bert" and not paper_average: continue
            meft = Meft(method, PackedBert(model, batch), factors, readout, with_norm, 1000 * seed + number)
            results, grads = meft.run()
            if not paper_average: results = {k: v for k, v in results.items() if not k.startswith("streams.")}
            words = [method, *(f.replace("/", "-") for f in factors), readout] + ["norm"] * with_norm
            name = "_".join(words) + ".safetensors"
            about = dict(method=method, x1_factor=factors[0], x2_factor=factors[1], readout=readout, norm=with_norm,
                         bottleneck=BOTTLENECK)
            pair = {"x1_factor": torch.tensor([meft.x1_factor]), "x2_factor": torch.tensor([meft.x2_factor])}
            named = {"gradient." + k: g for k, g in grads.items()}
            case = {"case": json.dumps({**about, **ADAPTER_PLACE[method]})}  # one key: the writer shuffles keys
            save(target / name, {**pair, **meft.parameters, **results, **named}, case)
            listed.append(dict(folder=folder, file=name, **about))
    rows = ",\n".join("  " + json.dumps(row) for row in listed)
    (root / "cases.json").write_text(f"[\n{rows}\n]\n")


main()
