#!/usr/bin/env bash
# gpu_quick.sh DIR OUT: on a machine with a GPU, what gpu_pack.sh packed, unpacked at DIR: at most 8 minutes, no network, nothing
# installed. OUT gets three files, renewed after each step, so that they are there whenever this is ended: summary.txt, of at most
# 60 lines, which is printed too; steps.txt, a line a step; logs.tar.gz. Each step has its own limit, and one that fails stops
# nothing; ends with 1 when one did. PyTorch is that of the image's python3, as are cuBLASLt and cuDNN.
# GPU_QUICK_SECONDS: a budget in place of 470 s; a step that no longer fits is left out. For a rehearsal, sizes in place of the
# published ones: GPU_QUICK_MODELS (bert-large,opt-1.3b), GPU_QUICK_SIZE (--batch 16 --seq 512), GPU_QUICK_LAYERS (--layers N).
set -uo pipefail
[[ $# == 2 && -d $1/bin ]] || { echo "gpu_quick.sh DIR OUT: DIR is what gpu_pack.sh's archive holds" >&2; exit 2; }
dir=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
work=$(mktemp -d) logs=$work/logs
mkdir "$logs"
budget=${GPU_QUICK_SECONDS:-470}
models=${GPU_QUICK_MODELS:-bert-large,opt-1.3b}
read -ra size <<<"${GPU_QUICK_SIZE:---batch 16 --seq 512}"
read -ra layers <<<"${GPU_QUICK_LAYERS:-}"
few=("${layers[@]}")
((${#few[@]})) || few=(--layers 4)
failed=0 running=
: >"$logs/steps.txt"

summary() {
  local log
  echo "commit $(cat "$dir/commit"), $(date -u +%FT%TZ), $SECONDS s"
  head -4 "$logs/versions.log" 2>/dev/null | cut -c1-150
  grep -v ' s  ok$' "$logs/steps.txt"
  awk '/ s  ok$/ {printf "%s%s %s s", n++ ? ", " : "ok: ", $1, $2} END {if (n) print ""}' "$logs/steps.txt" | fold -s -w 150
  grep -H 'test cases:' "$logs"/cuda_*_test.log 2>/dev/null | sed 's|.*/||'
  grep -hE '^TEST CASE:|: ERROR:' "$logs"/cuda_*_test.log 2>/dev/null | head -12 | cut -c1-120
  grep -h 'elements of gradients' "$logs/exact.log" 2>/dev/null
  echo "model        layers   meft1    weights  resident   s/step  (turns; meft-plain: attention dropout 0)"
  for log in "$logs"/meft-*-[12].log; do grep -HE '^(bert|opt)' "$log" 2>/dev/null | sed 's|.*/||; s|\.log:| |' | cut -c1-90; done
  grep -vh '^ *$' "$logs/compare.log" 2>/dev/null | head -10
  grep -hE '^(copy|gelu|dropout|residual dropout layer norm|shear|to fixed|softmax|cross entropy|attention( dropout)?( backward)?) ' "$logs/kernels.log" 2>/dev/null | head -12
  grep -h '^bf16' "$logs/products.log" 2>/dev/null | head -4 | cut -c1-120
  head -10 "$logs/longest.txt" 2>/dev/null
}
# What there is so far goes to OUT.
collect() {
  summary | head -60 >"$logs/summary.txt"
  cp "$logs/summary.txt" "$logs/steps.txt" "$out"
  tar -czf "$work/logs.tar.gz" -C "$work" logs 2>/dev/null
  mv "$work/logs.tar.gz" "$out"
}
end() {
  [[ -z $running ]] || kill "$running" 2>/dev/null
  collect
  cat "$logs/summary.txt"
  rm -rf "$work"
}
trap end EXIT
trap 'echo "ended by a signal" >>"$logs/steps.txt"; exit 143' TERM INT HUP

# The libraries that the image's PyTorch brings along; a CUDA of the machine's own comes after them.
libraries=$(python3 - 2>/dev/null <<'PY'
import glob, os, site, sys
places = {p for base in [*site.getsitepackages(), *sys.path] for p in glob.glob(os.path.join(base, "nvidia", "*", "lib"))}
print(":".join(sorted(places)))
PY
)
export LD_LIBRARY_PATH=$libraries${libraries:+:}${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64 PATH=$PATH:/usr/local/cuda/bin

# step NAME LIMIT COMMAND...: runs it with its output in NAME.log, and notes the outcome and the seconds it took. Tests of which no
# case ran have failed. It is waited for, so that a signal is heard meanwhile.
step() {
  local name=$1 limit=$2 begin=$SECONDS outcome=ok left=$((budget - SECONDS)) code
  shift 2
  if ((left < 5)); then
    outcome="left out: no time"
  else
    timeout -k 5 $((limit < left ? limit : left)) "$@" >"$logs/$name.log" 2>&1 &
    running=$!
    wait "$running"
    code=$?
    running=
    if ((code == 124 || code == 137)); then outcome="FAILED: over its limit"
    elif ((code)); then outcome="FAILED ($code): $(grep -v '^ *$' "$logs/$name.log" | tail -1 | cut -c1-100)"
    elif grep -q 'test cases: *0 ' "$logs/$name.log"; then outcome="FAILED: no test case ran"; fi
  fi
  [[ $outcome == ok ]] || failed=1
  printf '%-30s %3d s  %s\n' "$name" $((SECONDS - begin)) "$outcome" >>"$logs/steps.txt"
  collect
  [[ $outcome == ok ]]
}

versions() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
  python3 -c 'import torch, transformers; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version(), "transformers", transformers.__version__)'
  ldd "$dir/bin/families" | grep -E 'cublasLt|cudnn'
}
export -f versions
export dir
step versions 45 bash -c versions

# The four test programs at once, as one step.
tests() {
  local name pids=() code=0
  cd "$dir/tests" || return 1
  for name in cuda_kernels_test cuda_cases_test cuda_models_test cuda_recording_test; do
    "$dir/bin/cuda_tests" "--source-file=*/$name.cpp" >"$logs/$name.log" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  cat "$logs"/cuda_*_test.log
  return $code
}
export -f tests
export logs
step tests 120 bash -c tests

# What runs past a block, and what reads what another thread is yet to write, at once: neither measures time. Blocks come straight
# from the device, lest one run on into its neighbour unseen; what a library's calls ask and are denied is no fault of ours.
sanitized() {
  local tool=$1 cases=$2
  MEFT_TEST_ALONE=1 compute-sanitizer --error-exitcode 9 --report-api-errors no --tool "$tool" \
    "$dir/bin/cuda_tests" "--source-file=*/cuda_kernels_test.cpp" "$cases"
}
sanitizers() {
  local code=0
  sanitized racecheck "--test-case=attention on tensor cores*" >"$logs/racecheck.log" 2>&1 &
  sanitized memcheck "--test-case=*shear*,attention on*,weights in blocks*,a bottleneck*,copies of every size*" || code=$?
  wait $! || code=$?
  cat "$logs/racecheck.log"
  return $code
}
export -f sanitized sanitizers
step sanitizers 60 bash -c sanitizers

step exact 40 "$dir/bin/families" --device cuda --models "${models%%,*}" "${size[@]}" "${few[@]}" --exact

# Exact MEFT1 beside PyTorch: a turn, with a limit for each of PyTorch's steps; the second compiles its model, which takes a minute.
: >"$logs/torch.jsonl"
turn() {
  local model method limit=$2
  for model in ${models//,/ }; do
    step "meft-$model-$1" 40 "$dir/bin/families" --device cuda "${size[@]}" "${layers[@]}" --steps 6 --probe-layers 2 \
      --models "$model" --json "$logs/meft-$model-$1.jsonl"
    if [[ $model == bert* ]]; then
      step "meft-plain-$1" 30 "$dir/bin/families" --device cuda "${size[@]}" "${layers[@]}" --steps 6 --probe-layers 2 \
        --models "$model" --attention-dropout 0
    fi
    for method in full lora+recompute; do
      step "torch-$model-$method-$1" "$limit" python3 "$dir/torch_step.py" --device cuda --precision bf16 --steps 5 "${size[@]}" \
        "${layers[@]}" --model "$model" --methods "$method" "${@:3}"
      grep '^{' "$logs/torch-$model-$method-$1.log" >>"$logs/torch.jsonl" 2>/dev/null
    done
  done
}

turn 1 50
# Where a step's time goes: each kernel once under ncu, which leaves the clocks as they are, the longest ten by name.
step longest 45 ncu --clock-control none --launch-count 1500 --kill yes --metrics gpu__time_duration.sum --csv \
  --log-file "$logs/ncu.csv" --target-processes all \
  "$dir/bin/families" --device cuda --models "${models%%,*}" "${size[@]}" --layers 2 --steps 1 --alone
[[ -s $logs/ncu.csv ]] && python3 - "$logs/ncu.csv" >"$logs/longest.txt" 2>/dev/null <<'PY'
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

rows=${GPU_QUICK_ROWS:-}
step kernels 25 "$dir/bin/kernels" --device cuda --rows "${rows:-65536}" ${rows:+--width 64 --runs 1 --calls 1}
step products 25 "$dir/bin/gemm" --device cuda --precision bf16 --rows "${rows:-8192}" ${rows:+--square 64 --runs 1} \
  --shapes "${GPU_QUICK_SHAPES:-1024x1024,1024x4096,4096x1024,2048x8192}"

step memcheck-products 40 bash -c 'sanitized memcheck "--test-case=products*,packed weights*"'

turn 2 90 --compile
cat "$logs"/meft-*.jsonl >"$logs/meft.jsonl" 2>/dev/null
step compare 10 python3 "$dir/compare.py" --meft "$logs/meft.jsonl" --torch "$logs/torch.jsonl"
exit $failed
