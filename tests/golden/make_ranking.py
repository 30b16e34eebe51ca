"""Writes golden/ranking beside this script: T-Few's losses of ranked answers, from transformers' logits, one answer after the other.

Made with torch 2.15.0 (CPU) and transformers 5.24: python tests/golden/make_ranking.py [FOLDER]
opt_lm, roberta_lm, bart (with its language head) and t5_lm, .safetensors each: the questions (prompts and answers end to end, with offsets;
first, right, masks), beta of each answer, loss.likelihood, loss.ranking, loss.tfew, and gradient.NAME of the last; of models that write
loss.words, the mean over all words of right answers, its gradients words.NAME, and what generate() writes greedily, written and
written_offsets.
OPT's eager attention would have probabilities in float32; PyTorch's own stays in float64.
Written from arXiv 2205.05638, section 3.2; means are over questions.
"""
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

import make_families  # has T5 stay in float64

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).parent
PROMPTS, ANSWERS, RIGHT = [[2, 7, 9, 30], [2, 11], [2, 5, 6, 8, 21, 33]], [[[4], [12, 13, 14], [25, 9]], [[17, 3]], [[8, 8], [31]]], [1, 0, 0]
MASK, STARTS = 39, {"bart": 1, "opt_lm": 0, "roberta_lm": 0, "t5_lm": 0}  # STARTS: words of an answer that are given


def losses(log_p, right):
    """log_p: of one question, ln p of each word of each answer."""
    beta = torch.stack([lp.mean() for lp in log_p])
    wrong = [lp for i, lp in enumerate(log_p) if i != right]
    unlikely = -torch.log1p(-torch.cat(wrong).exp()).mean() if wrong else torch.zeros(())
    ranking = -torch.log_softmax(beta, 0)[right]
    return -beta[right], ranking, -beta[right] + ranking + unlikely


def write(model, name, prompt):
    """At most 8 words, the last of which may be the end."""
    begin = {"bart": [2, 0], "t5_lm": [0], "opt_lm": prompt}[name]
    given = {} if name == "opt_lm" else {"decoder_input_ids": torch.tensor([begin])}
    out = model.generate(torch.tensor([prompt]), do_sample=False, num_beams=1, max_new_tokens=8, eos_token_id=2 if name != "t5_lm" else 1,
                         forced_bos_token_id=None, forced_eos_token_id=None, pad_token_id=0, **given)
    return out[0, len(begin):].tolist()


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "ranking"
    folder.mkdir(exist_ok=True)
    for name, kind, layer in (("opt_lm", hf.OPTForCausalLM, "model.decoder.layers.0.self_attn.q_proj.weight"),
                              ("roberta_lm", hf.RobertaForMaskedLM, "roberta.encoder.layer.0.attention.self.query.weight"),
                              ("bart", hf.BartForConditionalGeneration, "model.encoder.layers.0.self_attn.q_proj.weight"),
                              ("t5_lm", hf.T5ForConditionalGeneration, "encoder.block.0.layer.0.SelfAttention.q.weight")):
        model = kind.from_pretrained(HERE / name, dtype=torch.float64, attn_implementation="sdpa").eval()
        prompts, answers, masks = [list(p) for p in PROMPTS], [list(a) for a in ANSWERS], []
        if name == "roberta_lm":
            prompts = [[0, *p[1:3], MASK, *p[3:], 2] for p in prompts]
            masks, answers = [p.index(MASK) for p in prompts], [[a[-1:] for a in options] for options in answers]
        decodes = name in ("bart", "t5_lm")
        if decodes: answers = [[[0, *a, 2] if name == "bart" else [*a, 1] for a in options] for options in answers]
        beta, total, words_right = [], torch.zeros(3), []
        for q, prompt in enumerate(prompts):
            log_p = []
            for answer in answers[q]:
                ids = lambda x: torch.tensor([x])
                if decodes:
                    z = model(input_ids=ids(prompt), decoder_input_ids=ids([model.config.decoder_start_token_id, *answer[:-1]])).logits[0]
                elif name == "opt_lm": z = model(input_ids=ids(prompt + answer)).logits[0, len(prompt) - 1:-1]
                else: z = model(input_ids=ids(prompt)).logits[0, masks[q]:masks[q] + 1]
                words = torch.log_softmax(z, -1).gather(1, ids(answer).T)[:, 0]
                log_p.append(words[STARTS[name]:])
            beta += [lp.mean() for lp in log_p]
            words_right.append(log_p[RIGHT[q]])
            total = total + torch.stack(losses(log_p, RIGHT[q])) / len(prompts)
        total[2].backward(retain_graph=True)
        flat = [a for options in answers for a in options]
        whole = lambda x: torch.tensor(x, dtype=torch.int32)
        starts = lambda lists: whole([0, *torch.tensor([len(x) for x in lists]).cumsum(0).tolist()])
        named = dict(model.named_parameters())
        word = {"opt_lm": "model.decoder.embed_tokens.weight", "roberta_lm": "roberta.embeddings.word_embeddings.weight", "bart": "model.shared.weight", "t5_lm": "shared.weight"}[name]
        out = {"prompts": whole(sum(prompts, [])), "prompt_offsets": starts(prompts), "answers": whole(sum(flat, [])), "answer_offsets": starts(flat),
               "first": starts(answers), "right": whole(RIGHT), "masks": whole(masks or [-1]), "beta": torch.stack(beta).detach()}
        for i, loss in enumerate(("likelihood", "ranking", "tfew")): out["loss." + loss] = total[i].detach().reshape(1)
        for tensor in (word, layer): out["gradient." + tensor] = named[tensor].grad
        if name != "roberta_lm":
            mean = -torch.cat(words_right).mean()
            out["loss.words"] = mean.detach().reshape(1)
            for tensor, gradient in zip((word, layer), torch.autograd.grad(mean, [named[word], named[layer]])): out["words." + tensor] = gradient
            texts = [write(model, name, prompt) for prompt in prompts]
            out |= {"written": whole(sum(texts, [])), "written_offsets": starts(texts)}
        save_file({key: x.contiguous() for key, x in out.items()}, folder / (name + ".safetensors"))


if __name__ == "__main__":
    main()
