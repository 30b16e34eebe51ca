"""Writes tokenizers.json beside this script: small tokenizer folders, texts, and the ids that transformers gives them.

Made with Python 3.11, transformers 5.24.0, tokenizers 0.23.3:
    pip install transformers==5.24.0 && python tests/golden/make_tokenizers.py

A list of cases: `name`, `files` (name → text), `texts`: each has `text`, perhaps `pair` and `max_length`, and what
AutoTokenizer makes of it: `ids`, `types` (zeros where the class gives a model none). `longest`: model_max_length, or
null. Each case says with its name which file counts.
"""
import json
import os
import pathlib
import random
import sys
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "text"))
import transformers_peer as peer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = SPECIALS + "a b ##b é e E ##é A Ab ab [ ] mask sep cls MASK 中".split()
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "Ġa", "ab", "Ġb", "<mask>", "<|endoftext|>"]
MERGES = ["Ġ a", "a b", "Ġ b"]


def ids_of(tokens):
    return {token: i for i, token in enumerate(tokens)}


def token(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, **flags}


def template(single, pair, **ids):
    def parts(text):
        for part in text.split():
            name, kind = part.rsplit(":", 1)
            yield {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": int(kind)}}

    named = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    return {"type": "TemplateProcessing", "single": list(parts(single)), "pair": list(parts(pair)),
            "special_tokens": named}


def piece_json(tokens=PIECES, added=(), normalizer=None, processor=None, **more):
    """A tokenizer.json that does not lower-case."""
    options = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": False}
    ids = ids_of(tokens)
    usual = template("[CLS]:0 A:0 [SEP]:0", "[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1", **{"[CLS]": 2, "[SEP]": 3})
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": ids[t], **token(t, special=True)} for t in SPECIALS if t in ids] + list(added),
            "normalizer": {"type": "BertNormalizer", **options, **(normalizer or {})},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": processor or usual,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": ids}, **more}


def byte_json(processor, prefix=False, **more):
    ids = ids_of(BYTES)
    added = [{"id": ids[t], **token(t, special=True, lstrip=t == "<mask>")}
             for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": level, "post_processor": processor, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": ids, "merges": [merge.split(" ") for merge in MERGES], **more}}


def cases():
    bert, roberta, opt = ({"model_type": name} for name in ("bert", "roberta", "opt"))
    lines = "\n".join(PIECES) + "\n"
    texts = ["A ab é E", "a [MASK] b [mask] [SEP]", "a中b", ("ab a", "E b"), ("a b a b a", "b", 6), ("a a a a a", 4)]

    def case(name, model, more_texts=(), config=None, **files):
        if config is not None:
            files["tokenizer_config__json"] = config
        return name, {"config__json": model, **files}, [*texts, *more_texts]

    yield case("vocab.txt alone", bert, vocab__txt=lines)
    yield case("the class lower-cases, whatever tokenizer.json says", bert, tokenizer__json=piece_json())
    yield case("do_lower_case", bert, config={"do_lower_case": False}, vocab__txt=lines)
    yield case("do_lower_case beside tokenizer.json", bert, tokenizer__json=piece_json(normalizer={"lowercase": True}),
               config={"do_lower_case": False})
    yield case("strip_accents without lower-casing", bert, tokenizer__json=piece_json(),
               config={"do_lower_case": False, "strip_accents": True})
    yield case("accents kept, lower-cased", bert, tokenizer__json=piece_json(), config={"strip_accents": False})
    yield case("tokenize_chinese_chars", bert, tokenizer__json=piece_json(), config={"tokenize_chinese_chars": False})
    yield case("PreTrainedTokenizerFast: tokenizer.json as it stands", bert, tokenizer__json=piece_json(),
               config={"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True,
                       "model_input_names": ["input_ids", "token_type_ids"]})
    yield case("a foreign separator in the pair", bert, config={
        "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]},
        tokenizer__json=piece_json(processor=template(
            "[CLS]:0 A:0 [SEP]:0", "[CLS]:0 A:0 [MASK]:0 B:1 [PAD]:1",
            **{"[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "[PAD]": 0})))
    yield case("a line twice, blank lines, white space and CR at their ends", bert,
               vocab__txt="\r\n".join([*PIECES[:7], "", *PIECES[7:], "ab", "", "##b", "b\u3000"]) + "\r\n\r\n")
    yield case("ids left out in tokenizer.json", bert, tokenizer__json=piece_json(
        model={"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100, "vocab": {t: i + (i > 6) + (i > 9) for i, t in enumerate(PIECES)}}))
    yield case("no [MASK] and no [PAD]: the next ids", bert,
               vocab__txt="\n".join(t for t in PIECES if t not in ("[PAD]", "[MASK]")) + "\n", more_texts=["[PAD] a"])
    yield case("a byte order mark is part of the first token", bert, vocab__txt="\ufeff" + lines)
    yield case("special_tokens_map.json before tokenizer_config.json", bert, ["a <m> [UNK]<u>"],
               {"mask_token": "[MASK]", "unk_token": "[UNK]"}, vocab__txt=lines + "<m>\n<u>\n",
               special_tokens_map__json={"mask_token": "<m>", "unk_token": "<u>"})
    yield case("cls and sep of special_tokens_map.json", bert, ["a <s> [SEP] </s>"],
               vocab__txt=lines + "<s>\n</s>\n", special_tokens_map__json={
                   "cls_token": token("<s>", rstrip=True), "sep_token": token("</s>", lstrip=True, normalized=True)})
    yield case("added_tokens_decoder before special_tokens_map.json", bert, ["a <m> [MASK] B <x> b"],
               {"added_tokens_decoder": {str(len(PIECES)): token("<x>", lstrip=True, special=False),
                                         "5": token("a", normalized=True, special=False)}},
               vocab__txt=lines, special_tokens_map__json={"mask_token": "<m>"})
    yield case("tokenizer.json's added tokens go where added_tokens_decoder has others", bert, ["a <x> b <y>"],
               {"added_tokens_decoder": {str(len(PIECES)): token("<y>", lstrip=True, special=False)}},
               tokenizer__json=piece_json(added=[{"id": len(PIECES), **token("<x>", special=False)}]))
    yield case("added_tokens.json", bert, ["x New NEW [NEW] <e>"], vocab__txt=lines,
               added_tokens__json={"New": len(PIECES), "<e>": len(PIECES) + 1},
               special_tokens_map__json={"additional_special_tokens": ["<e>"]})
    yield case("more special tokens, single words", bert, ["a<e>b <E> bb ab"], vocab__txt=lines, config={
        "additional_special_tokens": ["<e>"], "added_tokens_decoder": {
            "14": token("ab", single_word=True, special=False)}})
    yield case("mask_token is null", bert, config={"mask_token": None}, vocab__txt=lines)
    yield case("split_special_tokens", bert, config={"split_special_tokens": True}, vocab__txt=lines)
    yield case("truncation_side, model_max_length", bert, ["a b a b a b"], vocab__txt=lines,
               config={"truncation_side": "left", "model_max_length": 7})
    yield case("truncation_side of tokenizer.json", bert, tokenizer__json=piece_json(truncation={
        "direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}), config={"max_len": 9})
    yield case("DistilBERT's class gives no types", bert, vocab__txt=lines,
               config={"tokenizer_class": "DistilBertTokenizer"})
    yield case("model_input_names", bert, vocab__txt=lines, config={
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 1000000000000000019884624838656})

    texts = ["ab a", "x a x ba", "a <mask> b <s>", ("a b", "b"), ("a a a", "b b", 7), ("b a a a", 4)]
    files = {"vocab__json": ids_of(BYTES), "merges__txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n"}
    own = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
           "add_prefix_space": False}
    typed = template("<s>:0 A:0 </s>:0", "<s>:0 A:0 </s>:0 </s>:0 B:1 </s>:1", **{"<s>": 0, "</s>": 2})
    bos = template("</s>:0 A:0", "</s>:0 A:0 B:1", **{"</s>": 2})
    named = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
             "pad_token": "<pad>"}
    yield case("RoBERTa, tokenizer.json alone", roberta, tokenizer__json=byte_json(own))
    yield case("RoBERTa, add_prefix_space", roberta, tokenizer__json=byte_json(own), config={"add_prefix_space": True})
    yield case("RoBERTa, no prefix space, whatever tokenizer.json says", roberta,
               tokenizer__json=byte_json(own, prefix=True))
    yield case("RoBERTa, BertProcessing", roberta, tokenizer__json=byte_json(
        {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}))
    yield case("RoBERTa, a template with types", roberta, tokenizer__json=byte_json(typed))
    yield case("RoBERTa, no post-processor", roberta, tokenizer__json=byte_json(None))
    yield case("RoBERTa, vocab.json, add_prefix_space", roberta, config={"add_prefix_space": True}, **files)
    yield case("RoBERTa, special_tokens_map.json", roberta, ["a<s> <mask> b <b>"], special_tokens_map__json={
        "bos_token": token("<s>", normalized=True), "mask_token": token("<mask>", lstrip=True, rstrip=True),
        "sep_token": "<unk>", "pad_token": "<b>"}, **files)
    yield case("RoBERTa, ids left out in vocab.json", roberta, merges__txt=files["merges__txt"],
               vocab__json={t: i + (i > 5) for i, t in enumerate(BYTES)})
    yield case("RoBERTa, no <mask>", roberta, merges__txt=files["merges__txt"],
               vocab__json=ids_of([t for t in BYTES if t != "<mask>"]))
    yield case("RoBERTa, unk_token of tokenizer.json", roberta, tokenizer__json=byte_json(own, unk_token="<unk>"))
    yield case("PreTrainedTokenizerFast, a template with types", roberta, tokenizer__json=byte_json(typed), config={
        "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]})
    yield case("PreTrainedTokenizerFast, BertProcessing", {"model_type": "bert"}, config={
        "tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]},
        tokenizer__json=byte_json({"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}))
    yield case("BART's class", {"model_type": "bart"}, config={"tokenizer_class": "BartTokenizerFast"}, **files)
    yield case("OPT, add_bos_token", opt, config={**named, "add_bos_token": True}, **files)
    yield case("OPT, add_bos_token and add_eos_token", opt, **files, config={
        **named, "add_bos_token": True, "add_eos_token": True, "eos_token": "<s>"})
    yield case("OPT, no add_bos_token", opt, config=named, **files)
    yield case("OPT, a template", opt, config={**named, "add_bos_token": True}, tokenizer__json=byte_json(bos))
    yield case("OPT, a sequence of post-processors", opt, config=named, tokenizer__json=byte_json(
        {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                                             "use_regex": True}, bos]}))
    yield case("OPT, no post-processor", opt, config={**named, "add_bos_token": True}, tokenizer__json=byte_json(None))
    yield case("GPT-2, vocab.json", {"model_type": "gpt2"}, ["a<|endoftext|>b"], **files)


    # Lines of tests/text/transformers_peer.py on a vocabulary that has their characters.
    lines = [line[:48].decode(errors="replace") for line in peer.hostile_lines(random.Random(9))][:90]
    pieces = "\n".join(peer.pieces([line.encode() for line in lines])) + "\n"
    yield "hostile lines, BERT", {"config__json": bert, "vocab__txt": pieces}, lines
    yield "hostile lines, BERT, cased", {"config__json": bert, "vocab__txt": pieces, "tokenizer_config__json": {
        "do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}}, lines
    tokens, merges = peer.merges_of([line.encode() for line in lines])
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *tokens[:420], "<mask>"]
    yield "hostile lines, RoBERTa", {"config__json": roberta, "vocab__json": ids_of(tokens), "merges__txt": "".join(
        " ".join(pair) + "\n" for pair in merges if "".join(pair) in tokens)}, lines


def main():
    out = []
    for name, files, texts in cases():
        case = {"name": name, "files": {}, "texts": []}
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                case["files"][file.replace("__", ".")] = text
                (pathlib.Path(folder) / file.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        longest = tokenizer.model_max_length
        case["longest"] = int(longest) if longest < 1e20 else None
        for text in texts:
            given = (text,) if isinstance(text, str) else text
            one = {"text": given[0]}
            if len(given) > 1 and isinstance(given[1], str):
                one["pair"] = given[1]
            cut = {}
            if isinstance(given[-1], int):
                one["max_length"] = given[-1]
                cut = {"truncation": True, "max_length": given[-1]}
            found = tokenizer(one["text"], one.get("pair"), **cut)
            one["ids"] = found["input_ids"]
            one["types"] = found.get("token_type_ids") or [0] * len(one["ids"])
            case["texts"].append(one)
        out.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in out)
    (pathlib.Path(__file__).parent / "tokenizers.json").write_text("[\n" + lines + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
