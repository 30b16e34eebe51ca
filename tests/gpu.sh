#!/usr/bin/env bash
# gpu.sh: all that takes a GPU, in one command: builds preset gpu, runs the suite on the device, shows the error of every
# kernel against double, runs every test program with kernels under compute-sanitizer, and every benchmark with kernels; measures
# exact MEFT1 beside PyTorch (from PyPI) at the sizes of BERT-large and OPT-1.3B, and the MEFT authors' code where MEFTS names a
# checkout of BaohaoLiao/mefts. Writes build/gpu/summary.txt, a line a step, and a log of each step into build/gpu/logs. Ends with
# 1 when a step failed. Needs nvcc, a driver and a device.
# GPU_STEPS="suite errors memcheck racecheck initcheck synccheck bench peers" runs only these.
set -uo pipefail
cd "$(dirname "$0")/.."
for tool in nvcc nvidia-smi; do
  command -v "$tool" >/dev/null || { echo "gpu.sh: no $tool" >&2; exit 2; }
done
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >/tmp/gpu.$$ 2>&1 ||
  { echo "gpu.sh: no device: $(head -1 /tmp/gpu.$$)" >&2; rm -f /tmp/gpu.$$; exit 2; }

out=build/gpu
mkdir -p "$out/logs"
summary=$out/summary.txt
{
  echo "commit   $(git describe --always --dirty 2>/dev/null || echo unknown)"
  echo "device   $(head -1 /tmp/gpu.$$)"
  echo "nvcc     $(nvcc --version | grep -o 'release [0-9.]*')"
  echo "date     $(date -u +%FT%TZ)"
} >"$summary"
rm -f /tmp/gpu.$$
failed=0

# step NAME COMMAND...: runs it with its output in a log, and writes the outcome and the seconds it took.
step() {
  local name=$1 begin=$SECONDS outcome=ok
  shift
  if "$@" >"$out/logs/$name.log" 2>&1; then :; else outcome="FAILED ($?), see $out/logs/$name.log"; failed=1; fi
  printf '%-32s %s, %d s\n' "$name" "$outcome" $((SECONDS - begin)) | tee -a "$summary"
  [[ $outcome == ok ]]
}
wanted() { [[ -z "${GPU_STEPS:-}" || " $GPU_STEPS " == *" $1 "* ]]; }
# Programs with the CUDA runtime in them.
with_kernels() { find "$1" -maxdepth 1 -type f -executable -exec grep -lq 'libcuda.so' {} \; -print | sort; }

step configure cmake --preset gpu || exit 1
step build cmake --build --preset gpu -j "$(nproc)" || exit 1

if wanted suite; then
  step suite ctest --preset gpu
  grep -E 'tests passed|tests failed' "$out/logs/suite.log" | tee -a "$summary"
fi

if wanted errors; then
  step errors env -C tests "../$out/tests/cuda_tests" "--source-file=*/cuda_cases_test.cpp"
  grep -ho 'error against double: .*' "$out/logs/errors.log" | sed 's/^/  /' >>"$summary"
fi

for tool in memcheck racecheck initcheck synccheck; do
  wanted "$tool" || continue
  if ! command -v compute-sanitizer >/dev/null; then
    echo "$tool: no compute-sanitizer" | tee -a "$summary"
    failed=1
    continue
  fi
  for program in $(with_kernels "$out/tests"); do
    step "$tool-$(basename "$program")" env -C tests compute-sanitizer --tool "$tool" --error-exitcode 9 "../$program"
  done
done

if wanted bench; then
  for program in $(with_kernels "$out/bench"); do
    name=bench-$(basename "$program")
    step "$name" "$program" --device cuda && sed 's/^/  /' "$out/logs/$name.log" >>"$summary"
  done
fi

# packages VENV PACKAGE...: a Python with them, in build/gpu/VENV.
packages() {
  local place=$out/$1
  shift
  python3 -m venv "$place" && "$place/bin/pip" install -q --disable-pip-version-check "$@"
}
# torch VENV MODEL METHODS FLAG...: rows of torch_step.py, added to torch.jsonl.
torch() {
  "$out/$1/bin/python" bench/peers/torch_step.py --device cuda --precision bf16 --batch 16 --seq 512 --steps 5 \
    --model "$2" --methods "$3" "${@:4}" >>"$out/torch.jsonl"
}
if wanted peers; then
  : >"$out/torch.jsonl"
  step peers-meft "$out/bench/families" --device cuda --models bert-large,opt-1.3b --batch 16 --seq 512 --steps 6 \
    --json "$out/meft.jsonl"
  if step peers-install packages venv torch transformers numpy safetensors; then
    for model in bert-large opt-1.3b; do
      step "peers-$model" torch venv "$model" full,lora+recompute --compile
    done
  fi
  if [[ -n "${MEFTS:-}" ]] && step peers-install-mefts packages mefts torch -r bench/peers/requirements.txt; then
    step peers-reference torch mefts bert-large meft1
  fi
  step peers python3 bench/peers/compare.py --meft "$out/meft.jsonl" --torch "$out/torch.jsonl" &&
    sed 's/^/  /' "$out/logs/peers.log" >>"$summary"
fi

echo "summary: $summary"
exit $failed
