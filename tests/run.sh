#!/usr/bin/env bash
# run.sh [PRESET...]: installs what is missing (Debian), builds and runs every test of the presets, by default dev.
# Presets with tests: dev clang asan tsan. Optional tests read MEFT_SHARED, by default ../shared where that exists. With
# MEFT_PEERS=torch merged checkpoints and peft's files are also compared by what PyTorch computes of them (two GiB from PyPI).
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/debian.sh
presets=("${@:-dev}")

packages=(g++ cmake ninja-build libeigen3-dev doctest-dev nlohmann-json3-dev libutf8proc-dev libcli11-dev
  libjpeg62-turbo-dev libpng-dev libwebp-dev
  python3 python3-venv python3-pip)
packages+=(clang libclang-rt-dev)  # for the fuzz tests, whatever the preset
packages+=(doxygen)                # for the docs test
install_missing "${packages[@]}"

# The peers that tests compare with.
pins="tokenizers==0.23.3 transformers==5.24.0 numpy==2.4.6 safetensors==0.8.0 onnx==1.23.2 onnxruntime==1.32.0"
case ${MEFT_PEERS:-} in
  "") ;;
  torch) pins+=" torch==2.15.0 peft==0.21.2" ;;
  *) echo "run.sh: MEFT_PEERS is $MEFT_PEERS; it may be torch" >&2; exit 2 ;;
esac
if [[ "$(cat build/venv/pins 2>/dev/null) " != "$pins "* ]]; then
  rm -rf build/venv
  python3 -m venv build/venv
  if build/venv/bin/pip install -q --disable-pip-version-check $pins; then
    echo "$pins" >build/venv/pins
  else
    rm -rf build/venv
    echo "skipped: peer tests: no $pins from PyPI"
  fi
fi

# Weights and text lines for the optional tests, in build/assets.
python3 tests/fetch.py || echo "skipped: tests on real weights and text: tests/fetch.py could not fetch them"

if [[ -z "${MEFT_SHARED:-}" && -d ../shared ]]; then MEFT_SHARED=$(realpath ../shared); fi
if [[ -n "${MEFT_SHARED:-}" ]]; then export MEFT_SHARED; fi

status=0
for preset in "${presets[@]}"; do
  cmake --preset "$preset"
  cmake --build --preset "$preset" -j "$(nproc)"
  ctest --preset "$preset" || status=1
  grep -aoh 'skipped: .*' "build/$preset/Testing/Temporary/LastTest.log" | sort -u || true
done
exit $status
