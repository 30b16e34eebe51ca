#!/usr/bin/env bash
# gpu_pack.sh [ARCHIVE]: builds what gpu_quick.sh runs on a machine with a GPU, where nothing is installed and nothing can be
# fetched: the tests of kernels, families, kernels and gemm of bench/, for sm_90, with utf8proc and libstdc++ in them, and the
# files that they read, in one archive of at most 30 MiB, by default build/gpu_pack.tar.gz. Needs nvcc and cuDNN's header, no GPU.
# GPU_PACK=emulate packs the same for the emulated device: a rehearsal. GPU_PACK_JOBS, by default all processors.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${GPU_PACK:-nvcc}
archive=${1:-build/gpu_pack.tar.gz}
build=build/pack_$device
most=$((30 << 20))

utf8proc=$(find /usr/lib /usr/local/lib -name libutf8proc.a -print -quit 2>/dev/null)
[[ -n $utf8proc ]] || { echo "gpu_pack.sh: no libutf8proc.a (Debian: libutf8proc-dev)" >&2; exit 2; }
flags=(-G Ninja -DCMAKE_BUILD_TYPE=Release "-DMEFT_CUDA=$device" -DMEFT_EXAMPLES=OFF -DMEFT_INSTALL=OFF
  "-Dutf8proc_LIBRARY=$utf8proc" "-DCMAKE_EXE_LINKER_FLAGS=-static-libstdc++ -static-libgcc")
if [[ $device == nvcc ]]; then
  flags+=(-DMEFT_CUDA_TESTS=device -DMEFT_TEST_SET=cuda -DCMAKE_CUDA_ARCHITECTURES=90-real
    "-DCMAKE_CUDA_COMPILER=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")
  programs=(tests/cuda_tests bench/families bench/kernels bench/gemm)
else
  flags+=(-DMEFT_TESTS=OFF "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG")  # beside tests benches know no device
  programs=(bench/families bench/kernels bench/gemm)
fi
cmake -S . -B "$build" "${flags[@]}" >/dev/null
cmake --build "$build" -j "${GPU_PACK_JOBS:-$(nproc)}" --target "${programs[@]##*/}"

pack=$build/gpu_pack
rm -rf "$pack"
mkdir -p "$pack/bin" "$pack/tests"
for program in "${programs[@]}"; do strip -o "$pack/bin/${program##*/}" "$build/$program"; done
cp tests/gpu_quick.sh bench/peers/torch_step.py bench/peers/compare.py "$pack"
git describe --always --dirty >"$pack/commit" 2>/dev/null || echo unknown >"$pack/commit"
# What the tests on a device read: the families' folders, and those that a test names.
python3 - "$pack/tests/golden" <<'PY'
import json, pathlib, re, shutil, sys
golden, to = pathlib.Path("tests/golden"), pathlib.Path(sys.argv[1])
to.mkdir()
shutil.copy(golden / "families.json", to)
folders = {row["folder"] for row in json.loads((golden / "families.json").read_text())}
for test in pathlib.Path("tests/kernels").glob("cuda_*_test.cpp"):
    folders.update(name for name in re.findall(r'"/?(\w+)"', test.read_text()) if (golden / name).is_dir())
for folder in sorted(folders):
    shutil.copytree(golden / folder, to / folder)
PY
mkdir -p "$(dirname "$archive")"
tar -czf "$archive" -C "$build" gpu_pack
bytes=$(stat -c %s "$archive")
echo "$archive: $bytes bytes; there: tar xf $(basename "$archive") && bash gpu_pack/gpu_quick.sh gpu_pack OUT"
((bytes <= most)) || { echo "gpu_pack.sh: the archive has more than $most bytes" >&2; exit 1; }
