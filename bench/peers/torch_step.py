"""One training step of BERT, OPT, Llama or Qwen2 in PyTorch, timed and metered, for comparison with meft. Prints one JSON line per method.

    MEFTS=mefts LD_PRELOAD=./heapmeter.so python torch_step.py --model bert-base --methods full,meft1
    python torch_step.py --device cuda --compile --precision bf16 --model opt-1.3b --methods full,lora+recompute

Methods: full, recompute (every layer checkpointed), lora (rank 8 on query and value), lora+recompute, and meft1,
meft2, meft3: the MEFT authors' own code, imported from the checkout that the environment variable MEFTS names. Weights
are random, dropout is 0.1. Several methods run one after the other, each in a process of its own. Attention is torch's fused
one (SDPA) where transformers has it.

step_seconds          forward, backward and AdamW: the fastest of --steps, after one warm-up step; _median: their median
activation_bytes      the heap's peak during forward and backward, less what lived before them (parameters, gradients,
                      optimizer moments); the largest of the measured steps. Needs heapmeter.so preloaded. On a GPU the
                      peak of torch's allocator.
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
    "opt-1.3b": (2048, 24, 32, 8192),
    "smollm2-135m": (576, 30, 9, 1536),
    "qwen2.5-0.5b": (896, 24, 14, 4864),
}
MEFT = {"meft1": ("layer", 0.1, 1.0), "meft2": ("adapter", 1.0, 0.1), "meft3": ("attn", 0.1, 0.1)}
PLAIN = ("full", "recompute", "lora", "lora+recompute")
BOTTLENECK = 8
VOCABULARY = {"bert": 30522, "opt": 50272, "smollm2": 49152, "qwen2.5": 151936}
KEY_HEADS = {"smollm2": 3, "qwen2.5": 2}  # language models: their loss is of each next word


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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    if options.steps < 1:
        parser.error(f"--steps: at least 1, found {options.steps}")
    for method in options.methods:
        if method not in PLAIN and method not in MEFT:
            parser.error(f"--methods: unknown method '{method}'")
        code = os.path.join(os.environ.get("MEFTS", ""), "models", "modeling_revbert.py")
        if method in MEFT and family_of(options.model) != "bert":
            parser.error(f"{method}: the authors' code for BERT alone is here")
        if method in MEFT and not os.path.isfile(code):
            parser.error(f"{method} needs the environment variable MEFTS: a checkout of BaohaoLiao/mefts")
    return options


def family_of(model):
    return next((family for family in VOCABULARY if model.startswith(family)), "bert")


class Heap:
    """The process's heap, counted by the preloaded meter."""

    def __init__(self):
        loaded = ctypes.CDLL(None)
        try:
            self.live, self.peak, self.reset = (getattr(loaded, "heapmeter_" + name) for name in ("live", "peak", "reset"))
        except AttributeError:
            sys.exit("torch_step.py: no heap meter: run with LD_PRELOAD=./heapmeter.so (README.md says how to build it)")
        self.live.restype = self.peak.restype = ctypes.c_int64
        self.reset.restype = None

    def wait(self):
        pass


class Device:
    """The memory of torch's allocator on the GPU."""

    def __init__(self):
        import torch
        if not torch.cuda.is_available():
            sys.exit("torch_step.py: --device cuda: torch finds no device")
        self.live, self.peak = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
        self.reset, self.wait = torch.cuda.reset_peak_memory_stats, torch.cuda.synchronize


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


def reference(method, shape):
    """The authors' BERT."""
    from transformers import BertConfig
    sys.path.insert(0, os.environ["MEFTS"])
    from models.modeling_revbert import RevBertForSequenceClassification
    which, x1_factor, x2_factor = MEFT[method]
    model = RevBertForSequenceClassification(BertConfig(
        **shape, f_arch=which, x1_factor=x1_factor, x2_factor=x2_factor, adapter_bottleneck_dim=BOTTLENECK,
        num_rev_layers=shape["num_hidden_layers"], layernorm_in_adapter=False))
    # As the authors do: the embedding's norm needs a gradient only so that autograd enters the stack.
    train_only(model, "adapter", "classifier", "bert.embeddings.LayerNorm")
    return model


def bert(shape):
    """-> model, its layers, the two of a layer's linear parts that LoRA takes"""
    from transformers import BertConfig, BertForSequenceClassification
    model = BertForSequenceClassification(BertConfig(**shape))
    return model, model.bert.encoder.layer, lambda layer: (layer.attention.self, "query", "value")


def opt(shape):
    from transformers import OPTConfig, OPTForSequenceClassification
    shape = dict(shape, ffn_dim=shape.pop("intermediate_size"), word_embed_proj_dim=shape["hidden_size"])
    model = OPTForSequenceClassification(OPTConfig(**shape))
    return model, model.model.decoder.layers, lambda layer: (layer.self_attn, "q_proj", "v_proj")


def decoder(family, shape):
    import transformers as hf
    kind, config = (hf.LlamaForCausalLM, hf.LlamaConfig) if family == "smollm2" else (hf.Qwen2ForCausalLM, hf.Qwen2Config)
    del shape["num_labels"]
    model = kind(config(**shape, num_key_value_heads=KEY_HEADS[family], tie_word_embeddings=True, use_cache=False))
    return model, model.model.layers, lambda layer: (layer.self_attn, "q_proj", "v_proj")


def build(method, family, shape):
    if method in MEFT:
        return reference(method, shape)
    model, layers, projections = decoder(family, shape) if family in KEY_HEADS else {"bert": bert, "opt": opt}[family](shape)
    if method.startswith("lora"):
        for layer in layers:
            attention, *names = projections(layer)
            for name in names:
                setattr(attention, name, with_lora(getattr(attention, name)))
        train_only(model, "lora_", "classifier", "score")
    if method.endswith("recompute"):
        for layer in layers:
            checkpointed(layer)
    return model


def measure(method, options):
    memory = Device() if options.device == "cuda" else Heap()
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    family = family_of(options.model)
    hidden, layers, heads, ffn = MODELS[options.model]
    layers = options.layers or layers
    shape = dict(vocab_size=VOCABULARY[family], hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                 intermediate_size=ffn, max_position_embeddings=max(512, options.seq), num_labels=2)
    with torch.device(options.device):  # drawing a billion weights takes a CPU a minute
        model = build(method, family, shape)
    model = model.train().to(options.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(3, VOCABULARY[family], (options.batch, options.seq), device=options.device)
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                 labels=ids if family in KEY_HEADS else torch.randint(0, 2, (options.batch,), device=options.device))
    run = torch.compile(model) if options.compile else model

    seconds, activation, resident, loss = [], 0, 0, None
    for step in range(options.steps + 1):
        memory.wait()
        memory.reset()
        before, start = memory.live(), time.perf_counter()
        with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
            loss = run(**batch).loss
        loss.backward()
        memory.wait()
        highest = memory.peak()
        optimizer.step()
        memory.wait()
        elapsed = time.perf_counter() - start
        optimizer.zero_grad(set_to_none=False)  # gradients stay allocated: they count as resident
        loss = loss.item()
        if step > 0:  # the first creates gradients, moments and the libraries' own buffers
            seconds.append(elapsed)
            activation, resident = max(activation, highest - before), before
    return dict(peer=f"torch {torch.__version__}, transformers {transformers.__version__}", method=method,
                device=options.device, compiled=options.compile, precision=options.precision, model=options.model,
                layers=layers, batch=options.batch, seq=options.seq, words=family in KEY_HEADS, step_seconds=round(min(seconds), 4),
                step_seconds_median=round(statistics.median(seconds), 4), activation_bytes=activation,
                resident_bytes=resident, threads=options.threads,
                trainable=sum(parameter.numel() for parameter in trained), loss=loss)


def main():
    options = arguments()
    if len(options.methods) == 1:
        print(json.dumps(measure(options.methods[0], options)), flush=True)
        return
    names = ("model", "layers", "batch", "seq", "precision", "steps", "threads", "device")
    same = [f"--{name}={getattr(options, name)}" for name in names] + ["--compile"] * options.compile
    for method in options.methods:
        run = subprocess.run([sys.executable, __file__, "--methods", method, *same])
        if run.returncode:
            sys.exit(f"torch_step.py: {method} failed")


main()
