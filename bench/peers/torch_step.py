"""One training step of BERT in PyTorch, timed and metered, for comparison with meft. Prints one JSON line per method.

    MEFTS=mefts LD_PRELOAD=./heapmeter.so python torch_step.py --model bert-base --methods full,meft1

Methods: full, recompute (every layer checkpointed), lora (rank 8 on query and value), lora+recompute, and meft1,
meft2, meft3: the MEFT authors' own code, imported from the checkout that the environment variable MEFTS names. Weights
are random, dropout is 0.1. Several methods run one after the other, each in a process of its own.

step_seconds          forward, backward and AdamW: the fastest of --steps, after one warm-up step; _median: their median
activation_bytes      the heap's peak during forward and backward, less what lived before them (parameters, gradients,
                      optimizer moments); the largest of the measured steps. Needs heapmeter.so preloaded.
resident_bytes        what lived before them, the libraries' own objects included
"""
import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

MODELS = {  # hidden, layers, heads, ffn
    "minilm6": (384, 6, 12, 1536),
    "bert-base": (768, 12, 12, 3072),
    "bert-large": (1024, 24, 16, 4096),
}
MEFT = {"meft1": ("layer", 0.1, 1.0), "meft2": ("adapter", 1.0, 0.1), "meft3": ("attn", 0.1, 0.1)}
PLAIN = ("full", "recompute", "lora", "lora+recompute")
BOTTLENECK = 8
VOCABULARY = 30522


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="full", help="comma-separated: " + ", ".join([*PLAIN, *MEFT]))
    parser.add_argument("--model", choices=MODELS, default="bert-base")
    parser.add_argument("--layers", type=int, default=0, help="in place of the model's own number")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16: autocast")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    if options.steps < 1:
        parser.error(f"--steps: at least 1, found {options.steps}")
    for method in options.methods:
        if method not in PLAIN and method not in MEFT:
            parser.error(f"--methods: unknown method '{method}'")
        code = os.path.join(os.environ.get("MEFTS", ""), "models", "modeling_revbert.py")
        if method in MEFT and not os.path.isfile(code):
            parser.error(f"{method} needs the environment variable MEFTS: a checkout of BaohaoLiao/mefts")
    return options


def heap_meter():
    """-> (live, peak, reset)"""
    loaded = ctypes.CDLL(None)
    try:
        live, peak, reset = (getattr(loaded, "heapmeter_" + name) for name in ("live", "peak", "reset"))
    except AttributeError:
        sys.exit("torch_step.py: no heap meter: run with LD_PRELOAD=./heapmeter.so (README.md says how to build it)")
    live.restype = peak.restype = ctypes.c_int64
    reset.restype = None
    return live, peak, reset


def with_lora(linear, rank=8, scale=2.0):
    """linear(x) + scale · B A x, B zero at the start."""
    from torch import nn

    class Lora(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = linear
            self.lora_a = nn.Linear(linear.in_features, rank, bias=False)
            self.lora_b = nn.Linear(rank, linear.out_features, bias=False)
            nn.init.zeros_(self.lora_b.weight)

        def forward(self, x):
            return self.frozen(x) + scale * self.lora_b(self.lora_a(x))

    return Lora()


def checkpointed(layer):
    """The layer keeps its input only, and runs again in backward."""
    from torch.utils.checkpoint import checkpoint
    forward = layer.forward
    layer.forward = lambda *inputs, **named: checkpoint(forward, *inputs, use_reentrant=False, **named)


def train_only(model, *parts):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in name for part in parts)


def build(method, shape):
    from transformers import BertConfig, BertForSequenceClassification
    if method in MEFT:
        sys.path.insert(0, os.environ["MEFTS"])
        from models.modeling_revbert import RevBertForSequenceClassification
        which, x1_factor, x2_factor = MEFT[method]
        model = RevBertForSequenceClassification(BertConfig(
            **shape, f_arch=which, x1_factor=x1_factor, x2_factor=x2_factor, adapter_bottleneck_dim=BOTTLENECK,
            num_rev_layers=shape["num_hidden_layers"], layernorm_in_adapter=False))
        # As the authors do: the embedding's norm needs a gradient only so that autograd enters the stack.
        train_only(model, "adapter", "classifier", "bert.embeddings.LayerNorm")
        return model
    model = BertForSequenceClassification(BertConfig(**shape))
    if method.startswith("lora"):
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            attention.query, attention.value = with_lora(attention.query), with_lora(attention.value)
        train_only(model, "lora_", "classifier")
    if method.endswith("recompute"):
        for layer in model.bert.encoder.layer:
            checkpointed(layer)
    return model


def measure(method, options):
    live, peak, reset = heap_meter()
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    hidden, layers, heads, ffn = MODELS[options.model]
    layers = options.layers or layers
    shape = dict(vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                 intermediate_size=ffn, max_position_embeddings=max(512, options.seq), num_labels=2)
    model = build(method, shape).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(1, VOCABULARY, (options.batch, options.seq))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.randint(0, 2, (options.batch,)))

    seconds, activation, resident, loss = [], 0, 0, None
    for step in range(options.steps + 1):
        reset()
        before, start = live(), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        highest = peak()
        optimizer.step()
        elapsed = time.perf_counter() - start
        optimizer.zero_grad(set_to_none=False)  # gradients stay allocated: they count as resident
        loss = loss.item()
        if step > 0:  # the first creates gradients, moments and the libraries' own buffers
            seconds.append(elapsed)
            activation, resident = max(activation, highest - before), before
    return dict(peer=f"torch {torch.__version__}, transformers {transformers.__version__}", method=method,
                precision=options.precision, model=options.model, layers=layers, batch=options.batch, seq=options.seq,
                step_seconds=round(min(seconds), 4), step_seconds_median=round(statistics.median(seconds), 4),
                activation_bytes=activation, resident_bytes=resident, threads=options.threads,
                trainable=sum(parameter.numel() for parameter in trained), loss=loss)


def main():
    options = arguments()
    if len(options.methods) == 1:
        print(json.dumps(measure(options.methods[0], options)), flush=True)
        return
    names = ("model", "layers", "batch", "seq", "precision", "steps", "threads")
    same = [f"--{name}={getattr(options, name)}" for name in names]
    for method in options.methods:
        run = subprocess.run([sys.executable, __file__, "--methods", method, *same])
        if run.returncode:
            sys.exit(f"torch_step.py: {method} failed")


main()
