"""Writes GGUF files by the PyPI package gguf, and what it reads in them.

make_gguf.py [FOLDER]      needs gguf, numpy and safetensors (made with 0.19); FOLDER is by default this one, and has the
                           cases of make_families.py

  gguf/blocks.gguf         random blocks of each type, a tensor each
  gguf/blocks.safetensors  their values by gguf.dequantize
  gguf/NAME.gguf           the weights of the case NAME in float64, as llama.cpp's convert_hf_to_gguf.py writes them, with a
                           tokenizer of a few tokens
"""
import json
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
SCALES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
GEMMA = {**PARTS, "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm"}


def blocks(folder):
    rng = np.random.default_rng(1)
    writer, values = gguf.GGUFWriter(folder / "blocks.gguf", "llama"), {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        count, size = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = 3, 512
        raw = rng.integers(0, 256, (rows, columns // count, size), dtype=np.uint8)
        scale = lambda: (rng.normal(size=raw.shape[:2]) * 10.0 ** rng.integers(-8, 3, raw.shape[:2])).astype(np.float16)
        if name == "F32": raw = rng.normal(size=raw.shape[:2]).astype(np.float32)[..., None].view(np.uint8)
        if name == "F16": raw = scale()[..., None].view(np.uint8)
        if name == "BF16": raw = (rng.normal(size=raw.shape[:2]).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)[..., None].view(np.uint8)
        for at in SCALES.get(name, ()): raw[..., at:at + 2] = scale()[..., None].view(np.uint8)
        raw = raw.reshape(rows, -1)
        values[name] = np.ascontiguousarray(gguf.dequantize(raw if name not in ("F32", "F16") else raw.view(name.replace("F", "float").lower()), kind)
                                            .astype(np.float32))
        writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=kind)
    finish(writer)
    save_file(values, folder / "blocks.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def paired(w, heads):
    """Rows i and i + half of each head beside each other, as llama.cpp's rotation of neighbours wants them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def model(root, name):
    config = json.loads((root / name / "config.json").read_text())
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    gemma = arch == "gemma3"
    writer = gguf.GGUFWriter(root / "gguf" / f"{name}.gguf", arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    if gemma:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config["sliding_window"])
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    if config["model_type"] == "mistral": writer.add_sliding_window(config["sliding_window"])

    letters = [chr(c) for c in range(ord("a"), ord("a") + 26)]
    if gemma: pieces(writer, letters)
    else: words(writer, arch, letters)
    for key, value in load_file(root / name / "model.safetensors").items():
        if key == "score.weight": continue
        whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
        if key in whole: new = whole[key]
        else:
            _, _, number, rest = key.split(".", 3)
            part, last = rest.rsplit(".", 1)
            new = f"blk.{number}.{(GEMMA if gemma else PARTS)[part]}.{last}"
        if arch == "llama" and (".attn_q." in new or ".attn_k." in new):
            value = paired(value, config["num_attention_heads" if "attn_q" in new else "num_key_value_heads"])
        if gemma and new.endswith("norm.weight"): value = value + 1
        writer.add_tensor(new, np.ascontiguousarray(value))
    finish(writer)


def words(writer, arch, letters):
    """A byte-level tokenizer."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "Ġ", "ab", "Ġa", "abc", "1", "2", "Ċ", "'", "é", "!", "unused"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if arch.startswith("qwen") else "smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 4) + [4])
    writer.add_token_merges(["a b", "Ġ a", "ab c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(arch == "llama")


def pieces(writer, letters):
    """One of SentencePiece, without merges, as Gemma's."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start>", "  ", "   "] + [f"<0x{b:02X}>" for b in range(256)]
    tokens += ["ab", "\u2581a", "abc", "\u2581ab", "bc", "\u2581", *letters, ".", "1"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1000.0] * len(tokens))
    writer.add_token_types([3, 3, 3, 2, 4, 1, 1] + [6] * 256 + [1] * (len(tokens) - 263))
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
(root / "gguf").mkdir(parents=True, exist_ok=True)
blocks(root / "gguf")
for case in ("llama_lm", "mistral", "qwen2", "qwen3", "gemma3_lm"): model(root, case)
for path in (root / "gguf").iterdir(): path.chmod(0o644)
