"""Writes a GGUF file of Llama-2-7B's shape with random weights of four bits: what a step of that size takes.

python3 llama7b.py FILE [--layers 32] [--words 32000]      needs numpy; 3.8 GB at 32 layers

weights --model FILE --weights as-stored --batch 1 --seq 512 --steps 1 then trains it.
"""
import argparse
import struct

import numpy as np

WIDTH, FFN, HEADS = 4096, 11008, 32
F32, Q4_0, Q8_0 = 0, 2, 8
ALIGNMENT = 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name, value):
    """An unsigned integer, a float or a text."""
    kind, data = (8, text(value)) if isinstance(value, str) else (6, struct.pack("<f", value)) if isinstance(value, float) \
        else (4, struct.pack("<I", value))
    return text(name) + struct.pack("<I", kind) + data


def tensors(layers, words):
    """Name, shape with the rows first, type."""
    yield "token_embd.weight", (words, WIDTH), Q4_0
    for i in range(layers):
        for name, shape in (("attn_q", (WIDTH, WIDTH)), ("attn_k", (WIDTH, WIDTH)), ("attn_v", (WIDTH, WIDTH)),
                            ("attn_output", (WIDTH, WIDTH)), ("ffn_gate", (FFN, WIDTH)), ("ffn_up", (FFN, WIDTH)),
                            ("ffn_down", (WIDTH, FFN))):
            yield f"blk.{i}.{name}.weight", shape, Q4_0
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{i}.{name}.weight", (WIDTH,), F32
    yield "output_norm.weight", (WIDTH,), F32
    yield "output.weight", (words, WIDTH), Q8_0


def size_of(shape, kind):
    count = int(np.prod(shape))
    return {F32: count * 4, Q4_0: count // 32 * 18, Q8_0: count // 32 * 34}[kind]


def blocks(rng, count, kind):
    """So many random blocks, of values that are as small as an initialised model's."""
    out = rng.integers(0, 256, (count, 18 if kind == Q4_0 else 34), dtype=np.uint8)
    scale = (rng.uniform(0.8, 1.2, count) * (0.02 / 4.6 if kind == Q4_0 else 0.02 / 74)).astype("<f2")
    out[:, :2] = scale.view(np.uint8).reshape(-1, 2)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--words", type=int, default=32000)
    options = parser.parse_args()
    keys = [key("general.architecture", "llama"), key("llama.context_length", 4096), key("llama.embedding_length", WIDTH),
            key("llama.block_count", options.layers), key("llama.feed_forward_length", FFN),
            key("llama.attention.head_count", HEADS), key("llama.attention.head_count_kv", HEADS),
            key("llama.attention.layer_norm_rms_epsilon", 1e-5), key("llama.rope.freq_base", 10000.0)]
    listed = list(tensors(options.layers, options.words))
    offset, head = 0, b""
    for name, shape, kind in listed:
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", d) for d in reversed(shape))
        head += struct.pack("<IQ", kind, offset)
        offset += -(-size_of(shape, kind) // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(keys)) + b"".join(keys) + head
    rng, most = np.random.default_rng(1), 1 << 20
    with open(options.file, "wb") as out:
        out.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for name, shape, kind in listed:
            left = size_of(shape, kind)
            pad = -left % ALIGNMENT
            if kind == F32:
                out.write(np.ones(shape, "<f4").tobytes())
                left = 0
            while left:
                some = blocks(rng, min(most, left // (18 if kind == Q4_0 else 34)), kind)
                out.write(some.tobytes())
                left -= some.nbytes
            out.write(b"\0" * pad)
    print(f"{options.file}: {offset / 2**30:.2f} GiB of weights")


if __name__ == "__main__":
    main()
