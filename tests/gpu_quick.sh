#!/usr/bin/env bash
# gpu_quick.sh DIR OUT: on a machine with a GPU, what gpu_pack.sh packed, unpacked at DIR: at most 8 minutes, no network, nothing
# installed. Logs go to OUT, a summary of at most 60 lines to its end and to OUT/summary.txt. Each step has its own limit, and
# one that fails stops nothing; ends with 1 when one did. PyTorch is that of the image's python3, as are cuBLASLt and cuDNN.
# GPU_QUICK_SECONDS: a budget in place of 470 s; a step that no longer fits is left out. For a rehearsal, sizes in place of the
# published ones: GPU_QUICK_MODELS (bert-large,opt-1.3b), GPU_QUICK_SIZE (--batch 16 --seq 512), GPU_QUICK_LAYERS (--layers N).
set -uo pipefail
[[ $# == 2 && -d $1/bin ]] || { echo "gpu_quick.sh DIR OUT: DIR is what gpu_pack.sh's archive holds" >&2; exit 2; }
dir=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
budget=${GPU_QUICK_SECONDS:-470}
models=${GPU_QUICK_MODELS:-bert-large,opt-1.3b}
read -ra size <<<"${GPU_QUICK_SIZE:---batch 16 --seq 512}"
read -ra layers <<<"${GPU_QUICK_LAYERS:-}"
few=("${layers[@]}")
((${#few[@]})) || few=(--layers 4)
failed=0
: >"$out/steps.txt"

# The libraries that the image's PyTorch brings along; a CUDA of the machine's own comes after them.
libraries=$(python3 - 2>/dev/null <<'PY'
import glob, os, site, sys
places = {p for base in [*site.getsitepackages(), *sys.path] for p in glob.glob(os.path.join(base, "nvidia", "*", "lib"))}
print(":".join(sorted(places)))
PY
)
export LD_LIBRARY_PATH=$libraries${libraries:+:}${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64

# step NAME LIMIT COMMAND...: runs it with its output in OUT/NAME.log, and notes the outcome and the seconds it took.
step() {
  local name=$1 limit=$2 begin=$SECONDS outcome=ok left=$((budget - SECONDS)) code
  shift 2
  if ((left < 5)); then
    outcome="left out: no time"
  else
    timeout -k 5 $((limit < left ? limit : left)) "$@" >"$out/$name.log" 2>&1
    code=$?
    if ((code == 124 || code == 137)); then outcome="FAILED: over its limit"; elif ((code)); then outcome="FAILED ($code): $(grep -v '^ *$' "$out/$name.log" | tail -1 | cut -c1-100)"; fi
  fi
  [[ $outcome == ok ]] || failed=1
  printf '%-16s %3d s  %s\n' "$name" $((SECONDS - begin)) "$outcome" >>"$out/steps.txt"
  [[ $outcome == ok ]]
}

versions() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
  python3 -c 'import torch, transformers; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version(), "transformers", transformers.__version__)'
  ldd "$dir/bin/families" | grep -E 'cublasLt|cudnn'
}
export -f versions
export dir
step versions 40 bash -c versions

# The four test programs at once, as one step.
tests() {
  local name pids=() code=0
  cd "$dir/tests" || return 1
  for name in cuda_kernels_test cuda_cases_test cuda_models_test cuda_recording_test; do
    "$dir/bin/cuda_tests" "--source-file=*/$name.cpp" >"$out/$name.log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  grep -H 'test cases:' "$out"/cuda_*_test.log | sed 's|.*/||'
  return $code
}
export -f tests
export out
step tests 120 bash -c tests

step exact 40 "$dir/bin/families" --device cuda --models "${models%%,*}" "${size[@]}" "${few[@]}" --exact

# Exact MEFT1 beside PyTorch: a turn.
: >"$out/torch.jsonl"
turn() {
  local model
  for model in ${models//,/ }; do
    step "meft-$model-$1" 40 "$dir/bin/families" --device cuda "${size[@]}" "${layers[@]}" --steps 6 --probe-layers 2 \
      --models "$model" --json "$out/meft-$model-$1.jsonl"
    if [[ $model == bert* ]]; then
      step "meft-plain-$1" 30 "$dir/bin/families" --device cuda "${size[@]}" "${layers[@]}" --steps 6 --probe-layers 2 \
        --models "$model" --attention-dropout 0
    fi
    step "torch-$model-$1" 80 python3 "$dir/torch_step.py" --device cuda --precision bf16 --steps 5 "${size[@]}" \
      "${layers[@]}" --model "$model" --methods full,lora+recompute --compile
    grep '^{' "$out/torch-$model-$1.log" >>"$out/torch.jsonl" 2>/dev/null
  done
}

turn 1
rows=${GPU_QUICK_ROWS:-}
step kernels 25 "$dir/bin/kernels" --device cuda ${rows:+--rows $rows --width 64 --runs 1 --calls 1}
step products 25 "$dir/bin/gemm" --device cuda --precision bf16 --rows "${rows:-8192}" ${rows:+--square 64 --runs 1} \
  --shapes "${GPU_QUICK_SHAPES:-1024x1024,1024x4096,4096x1024,2048x8192}"

# Where a step's time goes: each kernel once under ncu, which leaves the clocks as they are, the longest ten by name.
step longest 60 ncu --clock-control none --metrics gpu__time_duration.sum --csv --log-file "$out/ncu.csv" --target-processes all \
  "$dir/bin/families" --device cuda --models "${models%%,*}" "${size[@]}" --layers 2 --steps 1 --alone
[[ -s $out/ncu.csv ]] && python3 - "$out/ncu.csv" >"$out/longest.txt" 2>/dev/null <<'PY'
import collections, csv, re, sys
lines = [l for l in open(sys.argv[1]) if l.startswith('"')]
time, calls = collections.Counter(), collections.Counter()
for row in csv.DictReader(lines):
    name = re.sub(r"\(anonymous namespace\)::|meft::|cuda::|void ", "", row["Kernel Name"])[:72]
    value = float(row["Metric Value"].replace(",", "")) * {"ns": 1e-3, "us": 1, "ms": 1e3, "nsecond": 1e-3, "usecond": 1, "msecond": 1e3}.get(row["Metric Unit"], 1)
    time[name] += value
    calls[name] += 1
for name, us in time.most_common(10):
    print(f"{us:10.0f} us {calls[name]:5d}  {name}")
PY

step memcheck 45 compute-sanitizer --tool memcheck --error-exitcode 9 "$dir/bin/cuda_tests" \
  "--test-case=a shear that leaves*,attention in bf16*,products that end*,uploads*"

turn 2
cat "$out"/meft-*.jsonl >"$out/meft.jsonl" 2>/dev/null
step compare 10 python3 "$dir/compare.py" --meft "$out/meft.jsonl" --torch "$out/torch.jsonl"

{
  echo "commit $(cat "$dir/commit"), $(date -u +%FT%TZ), $SECONDS s"
  head -4 "$out/versions.log" | cut -c1-150
  cat "$out/steps.txt"
  grep -h 'test cases:' "$out/tests.log" 2>/dev/null
  grep -h 'elements of gradients' "$out/exact.log" 2>/dev/null
  echo "model        layers   meft1    weights  resident   s/step  (turns; meft-plain: attention dropout 0)"
  for log in "$out"/meft-*-[12].log; do grep -HE '^(bert|opt)' "$log" 2>/dev/null | sed 's|.*/||; s|\.log:| |' | cut -c1-90; done
  grep -vh '^ *$' "$out/compare.log" 2>/dev/null | head -10
  grep -hE '^(copy|gelu|dropout|residual dropout layer norm|shear|to fixed|softmax|cross entropy|attention( dropout)?( backward)?) ' "$out/kernels.log" 2>/dev/null | head -12
  grep -h '^bf16' "$out/products.log" 2>/dev/null | head -4 | cut -c1-120
  head -10 "$out/longest.txt" 2>/dev/null
} | head -60 | tee "$out/summary.txt"
exit $failed
