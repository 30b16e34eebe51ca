"""Writes golden/pytorch beside this script: small checkpoints of torch.save, each less than 20 KB.

Made with Python 3.11, torch 2.15.0 (CPU):
    pip install torch numpy && python tests/golden/make_pytorch.py [FOLDER]
The same bytes every time, but for storage keys of legacy.bin. Element i of a tensor is (i - 3) / 4 for floating point,
i - 3 for signed integers, i for unsigned ones, and whether i is odd for bool, unless said otherwise below;
pytorch_test.cpp expects these values.

  dtypes.bin       a dict with a [2, 3] tensor of each of ten dtypes under its safetensors name, scalar [], empty
                   [0, 4], and row [3], the second row of a [4, 3] tensor
  module.bin       the state dict of a module, with its `_metadata`: 0.weight [2, 3], 0.bias, 1.weight and 1.bias [2]
  parameters.bin   a dict of parameters: a [2, 3], b [2]
  tied.bin         a and b the same tensor [2, 3], c [3] the second row of it, d another Parameter of its storage
  nested.bin       an OrderedDict a [2, 3] under `state_dict`, beside an epoch, a list, a size, a dtype and the state
                   dict of an optimizer
  protocol4.bin    a dict of a [2, 3] and b [2], with pickle protocol 4
  transposed.bin   a [3, 2], transposed
  whole.bin        a pickled module instead of its state dict
  unchecked.bin    a [2, 3] without checksums
  legacy.bin       a [2, 3] in the format before PyTorch 1.6
  sharded/         pytorch_model.bin.index.json: a [2, 3] in the first of two files, b [2] in the second
"""
import collections
import json
import pathlib
import sys

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def values(*shape, dtype=torch.float32):
    i = torch.arange(torch.Size(shape).numel()).reshape(shape)
    if dtype == torch.bool:
        return i % 2 == 1
    if dtype == torch.uint8:
        return i.to(dtype)
    return ((i - 3) / 4).to(dtype) if dtype.is_floating_point else (i - 3).to(dtype)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "pytorch"
    (folder / "sharded").mkdir(parents=True, exist_ok=True)

    def save(name, what, **options):
        torch.save(what, folder / name, **options)

    dtypes = {name: values(2, 3, dtype=dtype) for name, dtype in DTYPES.items()}
    save("dtypes.bin", {**dtypes, "scalar": values(), "empty": torch.zeros(0, 4), "row": values(4, 3)[1]})

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    module.load_state_dict({name: values(*tensor.shape) for name, tensor in module.state_dict().items()})
    save("module.bin", module.state_dict())
    save("whole.bin", module)

    pair = {"a": values(2, 3), "b": values(2)}
    save("parameters.bin", {name: torch.nn.Parameter(tensor) for name, tensor in pair.items()})
    save("protocol4.bin", pair, pickle_protocol=4)
    tied = values(2, 3)
    save("tied.bin", {"a": tied, "b": tied, "c": tied[1], "d": torch.nn.Parameter(tied)})

    parameter = torch.nn.Parameter(values(2, 3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    save("nested.bin", {"epoch": 3, "history": [0.5, None, True, -7, 2**40], "size": torch.Size([1, 2]),
                        "dtype": torch.float32, "state_dict": collections.OrderedDict(a=values(2, 3)),
                        "optimizer": optimizer.state_dict()})

    save("transposed.bin", {"a": values(2, 3).t()})
    save("legacy.bin", {"a": values(2, 3)}, _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    save("unchecked.bin", {"a": values(2, 3)})
    torch.serialization.set_crc32_options(True)

    weight_map = {}
    for i, (name, tensor) in enumerate(pair.items()):
        weight_map[name] = f"pytorch_model-0000{i + 1}-of-00002.bin"
        save(f"sharded/{weight_map[name]}", {name: tensor})
    index = {"metadata": {"total_size": 32}, "weight_map": weight_map}
    (folder / "sharded" / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
