"""Writes what Hugging Face transformers computes of a real MPNet-base: make_mpnet.py CHECKPOINT [FOLDER]

CHECKPOINT is a folder as tests/fetch.py makes it (build/assets/mpnet); FOLDER is by default this one. Needs torch and
transformers (made with 2.15 and 5.24).
  mpnet.safetensors    ids and offsets of texts, as MPNetTokenizer gives them, the longest of 300 tokens, so that every bucket
                       of relative position is met; hidden: each 48th feature of the last hidden states, in float64
"""
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

torch.set_num_threads(1)
TEXTS = ["Hello, un-affable wörld! 中 can't <mask>", "What can bees see, and how do they tell each other where the flowers are?",
         " ".join(f"Chapter {i}: the river rose, the bridge held, and nobody in the valley slept that night." for i in range(16))]

checkpoint = pathlib.Path(sys.argv[1])
root = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).parent
tokenizer = hf.AutoTokenizer.from_pretrained(checkpoint)
model = hf.MPNetModel.from_pretrained(checkpoint, add_pooling_layer=False, attn_implementation="eager").double().eval()
rows = [torch.tensor(tokenizer(text, truncation=True, max_length=300)["input_ids"]) for text in TEXTS]
with torch.no_grad():
    hidden = torch.cat([model(input_ids=row[None]).last_hidden_state[0, :, ::48] for row in rows])
lengths = [0] + [len(row) for row in rows]
save_file(dict(ids=torch.cat(rows).int(), offsets=torch.tensor(lengths).cumsum(0).int(), hidden=hidden.contiguous()),
          str(root / "mpnet.safetensors"))
(root / "mpnet.safetensors").chmod(0o644)
