"""Writes what Hugging Face transformers computes of a real SmolLM2 in a GGUF file: make_smollm2.py FILE [OUTPUT]

FILE as tests/fetch.py makes it (build/assets/smollm2.gguf), or another decoder's; OUTPUT is by default smollm2.safetensors in
this folder. Needs torch, transformers, accelerate and gguf (made with transformers 5.24).
  smollm2.safetensors  ids: a prompt and the 64 tokens that it goes on with, greedily; prompt: its length; logits: of each token
                       every 389th word's, in float32
"""
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

PROMPT = "The library stores no activations: each layer is undone on the way back, exactly. In 2026, 3 of 10 models"

file = pathlib.Path(sys.argv[1])
output = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).with_name("smollm2.safetensors")
tokenizer = hf.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
model = hf.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32,
                                                attn_implementation="eager").eval()
prompt = tokenizer(PROMPT, return_tensors="pt").input_ids
with torch.no_grad():
    ids = model.generate(prompt, max_new_tokens=64, min_new_tokens=64, do_sample=False)
    logits = model(ids).logits[0, :, ::389]
save_file(dict(ids=ids[0].int(), prompt=torch.tensor([prompt.shape[1]]).int(), logits=logits.contiguous()), str(output))
output.chmod(0o644)
