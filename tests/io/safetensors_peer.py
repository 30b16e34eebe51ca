"""Compares meft's safetensors reader and writer with the PyPI package: safetensors_peer.py PROGRAM

Needs numpy and safetensors. PROGRAM is safetensors_peer, built from safetensors_peer.cpp.
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file


def run(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def converted(program, task, source, target):
    done = run(program, task, source, target)
    assert done.returncode == 0, done.stderr
    return dict(safetensors.deserialize(target.read_bytes()))


def same(left, right):
    assert left.keys() == right.keys(), (left.keys(), right.keys())
    for name, value in left.items():
        assert value.dtype == right[name].dtype and value.shape == right[name].shape, name
        assert value.tobytes() == right[name].tobytes(), name


def round_to_bf16(values):
    """Round to nearest, ties to even, of finite float32 values."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def check_copy(program, folder, random):
    dtypes = "float64 float32 float16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool".split()
    shapes = [(), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 4, 5)]
    tensors = {
        f"{dtype}.{len(shape)}.{'x'.join(map(str, shape))}": np.frombuffer(
            (random.bytes(8 * max(1, int(np.prod(shape)))) if dtype != "bool" else bytes([0, 1] * 480)), dtype=dtype
        )[: int(np.prod(shape))].reshape(shape)
        for dtype in dtypes
        for shape in shapes
    }
    tensors['odd "name" \\ \n 漢字 \u0001'] = np.arange(3, dtype=np.float32)
    metadata = {"format": "pt", 'odd "key" é': "value \U0001f600\n"}
    theirs, ours = folder / "theirs.safetensors", folder / "ours.safetensors"
    save_file(tensors, theirs, metadata)
    done = run(program, "copy", theirs, ours)
    assert done.returncode == 0, done.stderr
    same(tensors, load_file(ours))
    with safetensors.safe_open(ours, "np") as file:
        assert file.metadata() == metadata, file.metadata()
    length = struct.unpack("<Q", ours.read_bytes()[:8])[0]
    assert length % 8 == 0
    save_file({}, theirs)
    done = run(program, "copy", theirs, ours)
    assert done.returncode == 0 and load_file(ours) == {}, done.stderr
    return len(tensors)


def check_conversion(program, folder, random):
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    patterns = np.arange(65536, dtype=np.uint16)
    half = patterns.view(np.float16)
    wide = (random.standard_normal(20000) * 10.0 ** random.integers(-9, 5, 20000)).astype(np.float32)
    save_file({"half": half, "wide": wide, "double": wide.astype(np.float64)}, source)
    for task, dtype in (("F32", np.float32), ("F64", np.float64), ("F16", np.float16)):
        got = converted(program, task, source, target)
        with np.errstate(over="ignore"):
            want = {"half": half.astype(dtype), "wide": wide.astype(dtype), "double": wide.astype(dtype)}
        for name, value in want.items():
            assert got[name]["dtype"] == task
            np.testing.assert_array_equal(np.frombuffer(got[name]["data"], dtype), value, f"{name} to {task}")

    got = converted(program, "BF16", source, target)
    finite = np.isfinite(half)
    np.testing.assert_array_equal(np.frombuffer(got["wide"]["data"], np.uint16), round_to_bf16(wide))
    np.testing.assert_array_equal(np.frombuffer(got["half"]["data"], np.uint16)[finite], round_to_bf16(half)[finite])

    # numpy has no bfloat16: the file is built by hand, every pattern once.
    header = json.dumps({"b": {"dtype": "BF16", "shape": [65536], "data_offsets": [0, 131072]}}).encode()
    source.write_bytes(struct.pack("<Q", len(header)) + header + patterns.tobytes())
    got = converted(program, "F32", source, target)
    exact = (patterns.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(np.frombuffer(got["b"]["data"], np.float32), exact)

    save_file({"a": np.array([-128, 127], np.int8), "b": np.array([2**32 - 1], np.uint32)}, source)
    got = converted(program, "I64", source, target)
    assert np.frombuffer(got["a"]["data"], np.int64).tolist() == [-128, 127]
    assert np.frombuffer(got["b"]["data"], np.int64).tolist() == [2**32 - 1]


def check_refusals(program, folder, random):
    """Whatever the package refuses is refused here; this reader is stricter, never looser."""
    source, target = folder / "source.safetensors", folder / "target.safetensors"
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint8)}
    save_file(tensors, source, {"k": "v"})
    valid = source.read_bytes()
    end = 8 + struct.unpack("<Q", valid[:8])[0]
    letters = b'{}[],:"-0129. aFU'
    counts = {"both load": 0, "both refuse": 0, "only the package loads": 0}
    for _ in range(400):
        bytes_ = bytearray(valid)
        at = int(random.integers(0, end))
        if random.random() < 0.7:
            bytes_[at] = letters[int(random.integers(len(letters)))]
        elif random.random() < 0.5:
            bytes_ = bytes_[: int(random.integers(len(valid)))]
        else:
            bytes_[at] ^= 1 << int(random.integers(8))
        source.write_bytes(bytes(bytes_))
        try:
            theirs = dict(safetensors.deserialize(bytes(bytes_)))
        except Exception:
            theirs = None
        done = run(program, "copy", source, target)
        assert done.returncode in (0, 1), (done, bytes(bytes_))
        if theirs is None:
            assert done.returncode == 1, ("loaded here, refused by the package", bytes(bytes_))
            counts["both refuse"] += 1
        elif done.returncode == 0:
            assert dict(safetensors.deserialize(target.read_bytes())) == theirs, bytes(bytes_)
            counts["both load"] += 1
        else:
            counts["only the package loads"] += 1
    return counts


def main():
    program = pathlib.Path(sys.argv[1]).absolute()  # a link, whose name counts
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        count = check_copy(program, folder, random)
        print(f"safetensors {safetensors.__version__}: {count} tensors, the same both ways")
        check_conversion(program, folder, random)
        print("conversions: the same as numpy's")
        print("mutated headers:", check_refusals(program, folder, random))


if __name__ == "__main__":
    main()
